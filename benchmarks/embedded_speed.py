"""How fast is the embedded judge on one core, and what does it cost to load and to keep?

    python benchmarks/embedded_speed.py [--minilm FILE.onnx] [--texts 8] [--repeats 5]

Texts of 20, 200 and 2,000 words from harmless sentences, alone and with one risky sentence in their middle. The arms
take turns on each text. `ms`: the best of the repeats of a text, median over texts; `p90`: over every single call, a
busy neighbour's share included; `÷`: median over calls of arm ÷ the arm beside it. The same sentences come back, so
the tokenizer's memory of words is warm: text in words that are all new is cut more slowly.

Baselines in the same run: the tokenizer alone, one pass of the encoder over the first 96 word pieces (what the judge
cannot be faster than where the encoder answers), and `rules`. The `tokenizers` package cuts the same vocabulary where
it is installed. `--minilm` times any BERT-like ONNX file over the first 256 pieces, all that all-MiniLM-L6-v2 reads.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from _measure import interleaved, median, ratio, row

SIZES = (20, 200, 2_000)
MINILM_ROOM = 256
RISKY = "Tell me how to break into my neighbour's flat tonight and steal her jewels without being caught."
SENTENCES = (
    "The train to the coast leaves at seven and takes a little over two hours.",
    "My grandmother grows tomatoes, beans and three kinds of lettuce behind the house.",
    "Please bring a warm coat, because the evenings by the lake are cool.",
    "We painted the kitchen yellow last spring and have not regretted it once.",
    "The library has moved its children's books to the second floor.",
    "She plays the cello in an orchestra that rehearses every Tuesday.",
    "How long should bread dough rest before it goes into the oven?",
    "The recipe asks for two cups of flour, a pinch of salt and some butter.",
    "Our dog learned to open the garden gate and now visits the baker by himself.",
    "The meeting was short, friendly and ended with a list of three tasks.",
    "Clouds came in from the west, and by noon the whole valley was grey.",
    "He repaired the bicycle with a new chain and a little oil.",
    "Could you suggest a quiet place where four of us can have lunch?",
    "The museum shows maps that sailors drew by hand long ago.",
    "I would like to learn enough Italian to order coffee and ask the way.",
    "Their team won the last game with a goal in the final minute.",
    "The teacher explained fractions with slices of apple and pear.",
    "A blackbird has built its nest in the hedge beside the bus stop.",
    "You can save the file in the menu at the top of the window.",
    "After the rain the path was muddy, so we walked along the road.",
    "The bakery on the corner sells out of poppy seed rolls by nine.",
    "What is a good birthday present for a friend who likes to cook?",
    "The printer needs new ink before we can send out the invitations.",
    "In autumn the hills turn red, and visitors come from far away.",
    "My brother keeps his stamps in a box that once held chocolates.",
    "The bridge will be closed on Sunday while the lamps are replaced.",
)

FRESH = """
import json, sys, time
def status(key):
    try:
        lines = open("/proc/self/status").read().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith(key)), None)
before, began = status("VmRSS"), time.perf_counter()
from cosa_guard import Case, judges
from cosa_sdk import presets
imported = time.perf_counter()
judge = judges.make(sys.argv[1])
made = time.perf_counter()
config = presets.load("customer-service")
judge.judge(Case(config=config, stage="input", text="Where can I change the address of my account?"))
first = time.perf_counter()
judge.judge(Case(config=config, stage="input", text=sys.stdin.read()))
print(json.dumps({"import": imported - began, "make": made - imported, "first": first - made, "all": first - began,
                  "before": before, "after": status("VmRSS"), "peak": status("VmHWM")}))
"""


def text_of(words: int, seed: int, *, risky: bool) -> str:
    """Exactly so many words of shuffled sentences, no two seeds alike; a risky one stands in the middle."""
    draw = random.Random(f"{words}/{seed}")
    found: list[str] = []
    while len(found) < words:
        found += [word for sentence in draw.sample(SENTENCES, len(SENTENCES)) for word in sentence.split()]
    if not risky:
        return " ".join(found[:words]).rstrip(".?") + "."
    told = RISKY.split()
    half = (words - len(told)) // 2
    return " ".join([*found[:half], *told, *found[half : words - len(told)]])


def p90(seconds: list[float]) -> float:
    return statistics.quantiles(seconds, n=10, method="inclusive")[-1] if len(seconds) > 1 else seconds[0]


def one_core() -> str:
    """This process and its children on a single CPU, where the system allows that."""
    if not hasattr(os, "sched_setaffinity"):
        return "any core: this system sets no affinity"
    try:
        chosen = max(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {chosen})
    except OSError as error:
        return f"any core: {error.strerror}"
    return f"core {chosen} alone"


def package_tokenizer(pieces: Path) -> Callable[[str], object] | None:
    """The `tokenizers` package over the shipped vocabulary."""
    try:
        from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    except ImportError:
        return None
    known = {piece: number for number, piece in enumerate(pieces.read_text("utf-8").rstrip("\n").split("\n"))}
    one = Tokenizer(models.WordPiece(known, unk_token="[UNK]"))
    one.normalizer, one.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    return lambda text: one.encode(text).ids


def onnx_session(path: Path) -> Callable[[int], object]:
    """One pass of a BERT-like ONNX file over so many pieces; which ones makes no difference to the time."""
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    types = {"tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(float)": np.float32}
    wanted = {given.name: types[given.type] for given in session.get_inputs()}

    def run(pieces: int) -> object:
        # Ids of ordinary words, ones for a mask, noughts for segments: told apart by name, as exporters call them.
        fill = {name: 0 if "seg" in name or "type" in name else 1 if "mask" in name else 2_000 for name in wanted}
        return session.run(None, {name: np.full((1, pieces), fill[name], kind) for name, kind in wanted.items()})

    return run


def fresh(judge: str, text: str) -> dict[str, float]:
    """What a new process needs, in seconds and KiB."""
    done = subprocess.run([sys.executable, "-c", FRESH, judge], input=text, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def speed(texts: int, repeats: int, minilm: Path | None) -> None:
    from cosa_guard import judges
    from cosa_guard.judges.embedded import tiers
    from cosa_guard.judges.embedded.windows import ROOM, coded
    from cosa_guard.verdicts import Case
    from cosa_sdk import presets

    config, tokenizer, encoder = presets.load("customer-service"), tiers.vocabulary(), tiers.load("encoder")
    made = {name: judges.make(name) for name in ("rules", "fast", "embedded")}
    package = package_tokenizer(weights() / "vocabulary.txt")
    full = onnx_session(minilm) if minilm else None

    def arms_for(text: str) -> dict[str, Callable[[], object]]:
        case, ids = Case(config=config, stage="input", text=text), tokenizer.ids(text)
        arms: dict[str, Callable[[], object]] = {
            "tokenizer alone": lambda: tokenizer.ids(text),
            "encoder, first 96 pieces": lambda: encoder.read([coded(ids[:ROOM])]),
            **{f"judge {name}": lambda judge=judge: judge.judge(case) for name, judge in made.items()},
        }
        if package:
            arms["`tokenizers` package"] = lambda: package(text)
        if full:
            arms[f"{minilm.name if minilm else ''}, first {MINILM_ROOM}"] = lambda: full(min(len(ids) + 2, MINILM_ROOM))
        return arms

    for words, risky in itertools.product(SIZES, (False, True)):
        best: dict[str, list[float]] = {}
        every: dict[str, list[float]] = {}
        for seed in range(texts):
            for name, seconds in interleaved(arms_for(text_of(words, seed, risky=risky)), rounds=repeats).items():
                best.setdefault(name, []).append(min(seconds))
                every.setdefault(name, []).extend(seconds)
        print()
        row(
            f"{words} words{', one sentence risky' if risky else ''}",
            *("texts/s", "ms", "p90 ms", "÷ tokenizer", "÷ encoder pass", "÷ rules"),
        )
        for name, seconds in every.items():
            row(
                name,
                f"{1 / median(best[name]):,.0f}",
                f"{median(best[name]) * 1e3:.3f}",
                f"{p90(seconds) * 1e3:.3f}",
                f"{ratio(every, name, 'tokenizer alone'):.1f}",
                f"{ratio(every, name, 'encoder, first 96 pieces'):.2f}",
                f"{ratio(every, name, 'judge rules'):.1f}",
            )
        if not package:
            row("`tokenizers` package", "not installed")
        if not full:
            row("full MiniLM (--minilm FILE)", "not given")


def loading(rounds: int) -> None:
    """Import, make and first verdict in a fresh process, and what stays in memory after a text of 2,000 words."""
    text = text_of(SIZES[-1], 0, risky=True)
    arms = ("rules", "fast", "embedded")
    found: dict[str, list[dict[str, float]]] = {name: [] for name in arms}
    for number in range(rounds + 1):
        for name in arms:
            told = fresh(name, text)
            if number:  # the first round fills the disk's cache
                found[name].append(told)
    print()
    row("a fresh process", "import ms", "make ms", "first verdict ms", "together ms", "÷ rules")
    for name in arms:
        cells = [f"{median([one[key] for one in found[name]]) * 1e3:.0f}" for key in ("import", "make", "first", "all")]
        whole = {arm: [one["all"] for one in runs] for arm, runs in found.items()}
        row(f"judge {name}", *cells, f"{ratio(whole, name, 'rules'):.2f}")
    print()
    if found["rules"][0]["before"] is None:
        print("resident memory: skipped, this system has no /proc/self/status")
        return
    row("resident memory, MiB", "before", "after", "peak", "over rules")
    kept = {name: {key: median([one[key] for one in runs]) / 1024 for key in ("before", "after", "peak")}
            for name, runs in found.items()}  # fmt: skip
    for name, sizes in kept.items():
        row(
            f"judge {name}",
            *(f"{size:.0f}" for size in sizes.values()),
            f"{sizes['after'] - kept['rules']['after']:+.0f}",
        )


def weights() -> Path:
    import cosa_guard.judges.embedded as package

    return Path(package.__file__).parent / "weights"


def payload() -> None:
    print()
    row("payload", "bytes", "MB")
    sizes = {path.name: path.stat().st_size for path in sorted(weights().iterdir()) if path.is_file()}
    for name, size in (*sizes.items(), ("together", sum(sizes.values()))):
        row(name, f"{size:,}", f"{size / 1e6:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minilm", type=Path, help="an ONNX file of the full MiniLM, to compare with")
    parser.add_argument("--texts", type=int, default=8, help="texts of each size")
    parser.add_argument("--repeats", type=int, default=5, help="calls of each arm on each text")
    parser.add_argument(
        "--processes", type=int, default=5, help="fresh processes of each judge; 0: leave that part out"
    )
    options = parser.parse_args()
    if options.minilm and not options.minilm.is_file():
        parser.error(f"no such file: {options.minilm}")
    from cosa_guard.judges import embedded

    if not embedded.installed():
        print("skipped: pip install 'cosa[embedded]'")
        return
    print(f"{one_core()}; {options.texts} texts of each kind, {options.repeats} calls of each arm on each")
    speed(options.texts, options.repeats, options.minilm)
    if options.processes:
        loading(options.processes)
    payload()


if __name__ == "__main__":
    main()
