"""The core is small: counted in a fresh environment, from the built wheel."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COUNT = """
import importlib.metadata as m
names = sorted(d.name for d in m.distributions() if d.name not in {"pip", "setuptools"})
size = sum(f.locate().stat().st_size for d in m.distributions() if d.name in names for f in d.files or () if f.locate().exists())
print(len(names), round(size / 1e6, 1), *names)
"""


@pytest.mark.slow
def test_core_is_small(tmp_path):
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", "--no-compile", str(ROOT)], check=True)
    printed = subprocess.run([str(python), "-c", COUNT], capture_output=True, text=True, check=True).stdout
    count, megabytes, *names = printed.split()

    assert int(count) <= 22, names
    assert float(megabytes) <= 45
    assert "cosa" in names


@pytest.mark.slow
def test_wheel_carries_its_data(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)], check=True
    )
    (wheel,) = tmp_path.glob("cosa-*.whl")
    import zipfile

    names = zipfile.ZipFile(wheel).namelist()

    for part in (
        "cosa_sdk/py.typed",
        "cosa_guard/py.typed",
        "cosa_sdk/presets/film-studio.yaml",
        "cosa_sdk/templates/system.1.txt",
        "cosa_sdk/taxonomies/cosa-1.json",
        "cosa_sdk/schema/safety_config.schema.json",
        "cosa_guard/judges/embedded/weights/encoder.onnx",
        "cosa_guard/judges/embedded/weights/MODEL_CARD.md",
        "cosa_training/judge/data/README.md",
    ):
        assert part in names
    assert not [name for name in names if "cosa_training/evaluate" in name], "what scores stays apart from what guards"
    assert not [name for name in names if name.endswith((".npz", ".pkl", ".bin", ".pt"))]


def test_the_classifier_fits_the_wheel():
    weights = ROOT / "src" / "cosa_guard" / "judges" / "embedded" / "weights"
    payload = sum(path.stat().st_size for path in weights.iterdir())

    assert payload <= 20_000_000
    assert {path.suffix for path in weights.iterdir()} <= {".onnx", ".txt", ".json", ".md"}
