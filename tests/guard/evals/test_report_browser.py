"""The page in a real browser, where there is one."""

from __future__ import annotations

import os
import re
import shutil
import subprocess

import pytest
from tests.guard.evals.report_build import manifest, row, rows, summaries, view

from cosa_guard.evals.report import html

BROWSER = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)


def browse(tmp_path, whole, *, width=1280, more=()):
    """What the browser wrote to its console, and the page's elements after it was laid out."""
    if BROWSER is None:
        assert not os.environ.get("CI"), "no chromium: install it where all tests run"
        pytest.skip("no chromium")
    (tmp_path / "page.html").write_text(whole, encoding="utf-8")
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}",
        f"--window-size={width},900", *more, (tmp_path / "page.html").as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert 0 == done.returncode, done.stderr[-2000:]
    return [line for line in done.stderr.splitlines() if "CONSOLE" in line], done.stdout


@pytest.mark.slow
def test_browser_shows_the_page_without_complaint(tmp_path):
    seen = view([*rows(), row(1, system="ica", prompt="<script>document.title='run'</script>", item="bad")])
    console, dom = browse(tmp_path, html.render(seen.manifest, seen.rows, seen.summaries), more=("--dump-dom",))

    assert [] == console
    assert "<title>starter: 2 systems</title>" in dom


@pytest.mark.slow
def test_browser_complains_about_a_page_that_is_wrong(tmp_path):
    seen = view()
    whole = html.render(seen.manifest, seen.rows, seen.summaries).replace("</body>", "<script>1</script></body>")
    console, _ = browse(tmp_path, whole, more=("--dump-dom",))

    assert any("Content Security Policy" in line for line in console)


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
def test_page_is_no_wider_than_its_window(tmp_path, width):
    names = ("plain", "ica", "ica-5shot", "adapter:" + "a" * 60, "cascade-oracle+guard")
    given = rows(systems=names)
    whole = html.render(manifest(names), given, summaries(given))
    # The frame is as wide as a phone's window, which a browser's own may not be.
    probe = (
        f'<iframe id="f" style="width:{width}px;height:900px;border:0"></iframe><script>const f=document.getElementById("f");'
        'f.onload=()=>{const d=f.contentDocument.documentElement;document.title=d.scrollWidth+" of "+d.clientWidth};'
        f"f.srcdoc={quoted(whole)}</script>"
    )
    _, dom = browse(tmp_path, f"<!doctype html><title>?</title>{probe}", width=1400, more=("--dump-dom", "--virtual-time-budget=5000"))
    [(inner, outer)] = re.findall(r"<title>(\d+) of (\d+)</title>", dom)

    assert int(inner) <= int(outer)
    assert int(outer) <= width


def quoted(whole):
    import json

    return json.dumps(whole).replace("<", "\\u003c")
