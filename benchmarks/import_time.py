"""How long does an import take, over pydantic alone, and what does it load?

Baseline: `import pydantic` with one `BaseModel`, in the same run, each in a fresh process, taking turns. Aim:
`cosa_sdk` at most pydantic + 30 ms; `cosa_guard` loads no optional dependency (tests/sdk/test_imports.py asserts that).
"""

from __future__ import annotations

import subprocess
import sys

from _measure import added, interleaved, median, row

STATEMENTS = {
    "nothing": "pass",
    "pydantic": "from pydantic import BaseModel\nclass M(BaseModel): x: int",
    "cosa_sdk": "import cosa_sdk",
    "cosa_guard": "import cosa_guard",
}


def main() -> None:
    arms = {
        name: lambda code=code: subprocess.run([sys.executable, "-c", code], check=True)
        for name, code in STATEMENTS.items()
    }
    seconds = interleaved(arms, rounds=11, warmup=2)
    row("", "median ms", "over pydantic ms", "modules")
    for name, code in STATEMENTS.items():
        count = subprocess.run(
            [sys.executable, "-c", f"{code}\nimport sys; print(len(sys.modules))"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        over = added(seconds, name, "pydantic") * 1e3
        row(name, f"{median(seconds[name]) * 1e3:.0f}", f"{over:+.0f}", count)


if __name__ == "__main__":
    main()
