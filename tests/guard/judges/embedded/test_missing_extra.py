"""Without onnxruntime: said in words, and everything else works. With it: loaded only when used."""

from __future__ import annotations

import subprocess
import sys

import pytest
from tests.guard.judges.embedded.build import FORBID

from cosa_guard import Guard, judges
from cosa_guard.judges import embedded
from cosa_guard.testing import ScriptedJudge
from cosa_sdk.errors import UsageError

WITHOUT = "import sys; sys.modules['onnxruntime'] = None\n"
CONFIG = "from cosa_sdk import SafetyConfig; config = SafetyConfig(name='c', rules=[{'risk': 'drugs', 'stance': 'forbid'}])\n"


def printed(code):
    """What a fresh process prints."""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env={"PYTHONPATH": ":".join(sys.path)})
    return done.stdout.strip()


def test_it_is_installed_here():
    assert embedded.installed()
    assert ("rules", "embedded") == judges.default()


@pytest.mark.parametrize("name", ["embedded", "fast", "embedded:strict"])
def test_by_name_without_it(name):
    code = WITHOUT + f"""
from cosa_guard import judges
from cosa_sdk.errors import MissingExtra
for _ in range(2):
    try:
        judges.make({name!r})
    except MissingExtra as error:
        print(error, error.extra)
"""
    said = "the embedded judge needs an extra: pip install 'cosa[embedded]' embedded"

    assert f"{said}\n{said}" == printed(code)


def test_a_guard_without_it_falls_back_to_rules():
    code = WITHOUT + CONFIG + """
from cosa_guard import Guard
from cosa_sdk.errors import UsageError
try:
    Guard(config)
except UsageError as error:
    print(type(error).__name__, error)
print(*(judge.name for judge in Guard(config, accept_unexamined=True).judges))
"""
    said, used = printed(code).split("\n")

    assert said.startswith("UsageError config 'c' has rules that no judge of this guard can examine: floor.minors, ")
    assert "Judges given: rules/1." in said
    assert "is not installed: pip install 'cosa[embedded]'" in said
    assert "rules/1" == used


def test_the_command_line_without_it():
    code = WITHOUT + """
sys.argv = ["cosa", "check", "--config", "film-studio", "--json", "Hello."]
from cosa_guard.cli import main
try:
    main()
except SystemExit as end:
    print(end.code)
"""

    assert '"judge": "rules/1"' in printed(code)


def test_the_fallback_in_process(monkeypatch):
    monkeypatch.setattr(embedded, "installed", lambda: False)

    assert ("rules",) == judges.default()
    with pytest.raises(UsageError, match=r"drugs.*covers risks and the floor, is not installed: pip install 'cosa\[embedded\]'"):
        Guard(FORBID)


def test_where_it_is_installed_but_not_asked_for():
    with pytest.raises(UsageError, match=r"The embedded judge covers risks and the floor: judge=\['rules', 'embedded'\]"):
        Guard(FORBID, judge="rules")


def test_it_is_not_named_where_it_would_not_help():
    with pytest.raises(UsageError) as caught:
        Guard(FORBID, judge=ScriptedJudge(examines=FORBID.elements - {"drugs"}))

    assert "embedded" not in str(caught.value)


@pytest.mark.parametrize("code", [
    "import cosa_guard",
    "import cosa_guard.judges.embedded; cosa_guard.judges.embedded.installed()",
    "import cosa_guard.cli",
    CONFIG + "import cosa_guard; cosa_guard.Guard(config, judge='rules', accept_unexamined=True).check('Hi.')",
])
def test_nothing_is_loaded_before_it_is_used(code):
    assert "" == printed(f"import sys\n{code}\nprint(*sorted({{'numpy', 'onnxruntime', 'torch'}} & set(sys.modules)))")


def test_torch_is_never_loaded():
    code = CONFIG + "import sys, cosa_guard; cosa_guard.Guard(config).check('Hi.')\nprint(*sorted({'numpy', 'onnxruntime', 'torch'} & set(sys.modules)))"

    assert "numpy onnxruntime" == printed(code)
