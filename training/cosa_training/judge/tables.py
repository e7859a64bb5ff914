"""Tables from out-of-fold answers, as Markdown.

python -m cosa_training.judge.tables --data FOLDER --answers FOLDER
"""

from __future__ import annotations

import argparse
import gzip
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, balanced_accuracy_score, f1_score
from sklearn.model_selection import cross_val_predict

from cosa_guard.evals.metrics import expected_calibration_error
from cosa_guard.judges.embedded import floor
from cosa_guard.judges.embedded.wordpiece import lowered
from cosa_training.judge.calibrate import even, platt
from cosa_training.judge.cells import FEWEST, Answers, auroc, cell, interval, table
from cosa_training.judge.fit import slices
from cosa_training.judge.folds import FOLDS
from cosa_training.judge.sources import CODES, HERE, RISKS, Row, load

__all__ = ["main", "tables"]

SYSTEMS = ("encoder", "fast, distilled", "fast, labels only", "frozen MiniLM + LR", "TF-IDF + LR")
_MACRO = "DFPSVW"
"""Drugs are reported beside the mean, not in it; 'other' never."""
_FLAGGED = 0.2
_EVERYDAY = frozenset({"dolly", "self-instruct-seed", "wildchat", "certified-llm-safety"})
_LOOK_ALIKES = frozenset({"phtest", "coconot", "cosa-contrast", "cosa-contrast2"})
_BEGIN, _END = "<!-- tables -->", "<!-- end of tables -->"
_ENOUGH = 100
"""Rows of a source whose calibration is told."""


def _harmless_of(row: Row, source: str) -> bool:
    return row.head == "prompt" and row.source == source and row.any_risk is False and row.clean


def _configurable(row: Row) -> bool:
    """A prompt that shows one of the seven risks that a config can name; 'other' is a residue with its own labels."""
    return row.head == "prompt" and row.clean and bool((row.risks or frozenset()) - {"other"})


def _answer_of(row: Row, source: str) -> bool:
    return row.head == "response" and row.source == source and row.clean and row.risks is not None


def _read_by(row: Row, head: str) -> bool:
    return row.head == head and row.clean and row.risks is not None


def _has(row: Row, flag: str) -> bool:
    return getattr(row, flag) is not None and row.clean


def _risk_row(said: Answers, index: list[int]) -> list[str]:
    gold = np.array([[risk in (said.rows[i].risks or ()) for risk in RISKS] for i in index])
    z = said.z[index]
    exact = {code: auroc(gold[:, k], z[:, k]) for k, code in enumerate(CODES)}
    cells = {code: "n/a" if value is None else f"{value:.2f}" for code, value in exact.items()}
    counted = [value for code in _MACRO if (value := exact[code]) is not None]
    macro = f"{np.mean(counted):.3f}" if counted else "n/a"
    shown = np.array([said.rows[i].any_risk for i in index])
    drugs = interval(gold[:, CODES.index("R")], z[:, CODES.index("R")])
    return [macro, *(cells[code] for code in _MACRO), drugs, cells["O"], cell(shown, said.any[index])]


def _prompts(every: dict[str, Answers], head: str) -> str:
    body = []
    for name, said in every.items():
        index = said.where(lambda row: row.head == head and row.clean and row.risks is not None)
        body.append([name, str(len(index)), *_risk_row(said, index)])
    return table(["system", "rows", "macro", *_MACRO, "R (interval)", "O", "any risk"], body)


def _mean_of_folds(every: dict[str, Answers], head: str) -> str:
    """Each cell the mean of the folds that have enough rows; the mean over risks beside it."""
    body = []
    for name, said in every.items():
        index = said.where(partial(_read_by, head=head))
        folds = np.array([said.folds[i] for i in index])
        by_code: dict[str, list[float]] = {code: [] for code in (*CODES, "any")}
        for number in range(len(FOLDS)):
            here = [i for i, fold in zip(index, folds, strict=True) if fold == number]
            for code in by_code:
                gold = np.array([_shows(said.rows[i], code) for i in here], dtype=bool)
                score = said.any[here] if code == "any" else said.z[here][:, CODES.index(code)]
                value = auroc(gold, score) if here else None
                by_code[code] += [] if value is None else [value]
        means = {code: float(np.mean(found)) if found else None for code, found in by_code.items()}
        cells = {code: "n/a" if value is None else f"{value:.2f}" for code, value in means.items()}
        counted = [value for code in _MACRO if (value := means[code]) is not None]
        macro = f"{np.mean(counted):.3f}" if counted else "n/a"
        body.append([name, str(len(index)), macro, *(cells[code] for code in (*_MACRO, "R", "O", "any"))])
    return table(["system", "rows", "macro", *_MACRO, "R", "O", "any risk"], body)


def _shows(row: Row, code: str) -> bool:
    return bool(row.any_risk) if code == "any" else RISKS[CODES.index(code)] in (row.risks or ())


def _by_fold(said: Answers, head: str) -> str:
    body = []
    for number, fold in enumerate(FOLDS):
        index = [i for i in said.where(lambda row: row.head == head and row.clean and row.risks is not None)
                 if said.folds[i] == number]  # fmt: skip
        if index:
            body.append([fold.name, str(len(index)), *_risk_row(said, index)])
    return table(["left out", "rows", "macro", *_MACRO, "R (interval)", "O", "any risk"], body)


def _sensitive(every: dict[str, Answers]) -> str:
    body = []
    for name, said in every.items():
        for benign, fold in (("phtest", 0), ("coconot", 1)):
            safe = said.where(partial(_harmless_of, source=benign))
            risky = [i for i in said.where(_configurable)
                     if said.folds[i] == fold]  # fmt: skip
            threshold = np.quantile(said.any[safe], 1 - _FLAGGED)
            recall = float((said.any[risky] > threshold).mean())
            gold = np.array([False] * len(safe) + [True] * len(risky))
            body.append(
                [
                    name,
                    benign,
                    str(len(safe)),
                    str(len(risky)),
                    f"{recall:.2f}",
                    interval(gold, said.any[safe + risky]),
                ]
            )
    return table(["system", "unseen harmless source", "harmless", "risky", "recall at 20 % flagged", "AUROC"], body)


def _responses(every: dict[str, Answers]) -> str:
    sources = [
        "diasafety",
        "do-not-answer",
        "gptfuzz-labeled",
        "hh-rlhf",
        "latent-jailbreak",
        "fake-alignment",
        "cosa-responses",
        "cosa-responses2",
        "cosa-responses3",
    ]
    body = []
    for name, said in every.items():
        cells = []
        for source in sources:
            index = said.where(partial(_answer_of, source=source))
            gold = np.array([bool(said.rows[i].any_risk) for i in index], dtype=bool)
            cells.append(cell(gold, said.any[index]) if index else "n/a")
        known = [float(cell) for cell in cells if cell != "n/a"]
        body.append([name, f"{np.mean(known):.2f}" if known else "n/a", *cells])
    return table(["system", "mean", *sources], body)


def _refusals(every: dict[str, Answers]) -> str:
    at = slices()["reply"].start
    body = []
    for name, said in every.items():
        for k, flag in enumerate(("refused", "addressed")):
            index = said.where(partial(_has, flag=flag))
            gold = np.array([getattr(said.rows[i], flag) for i in index], dtype=bool)
            score = said.out[index, at + k]
            if np.ptp(score) == 0:
                continue
            line = [
                name,
                flag,
                str(len(index)),
                cell(gold, score),
                f"{average_precision_score(gold, score):.2f}",
                f"{f1_score(gold, score > 0):.3f}",
            ]
            by = []
            for source in sorted({said.rows[i].source for i in index}):
                here = [n for n, i in enumerate(index) if said.rows[i].source == source]
                if min(gold[here].sum(), (~gold[here]).sum()) >= FEWEST:
                    by.append(f"{source} {f1_score(gold[here], score[here] > 0):.2f}")
            body.append([*line, ", ".join(by)])
    return table(["system", "sign", "rows", "AUROC", "AP", "F1", "F1 by unseen source"], body)


def _probe(said: Answers) -> str:
    """How well the source of a prompt can be told: from its words, and from what the encoder says of it."""
    index = said.where(lambda row: row.head == "prompt" and row.clean)
    rng = np.random.default_rng(0)
    names = [said.rows[i].source for i in index]
    sizes = {name: names.count(name) for name in set(names)}
    kept = [i for i, name in zip(index, names, strict=True) if sizes[name] >= 100 and rng.random() < 600 / sizes[name]]
    gold = np.array([said.rows[i].source for i in kept])
    words = TfidfVectorizer(ngram_range=(1, 2), min_df=2).fit_transform([said.rows[i].text for i in kept])
    body = []
    for name, x in (("TF-IDF words", words), ("the encoder's eight logits", said.z[kept])):
        told = cross_val_predict(LogisticRegression(max_iter=300), x, gold, cv=5)
        body.append(
            [
                name,
                str(len(kept)),
                str(len(set(gold))),
                f"{balanced_accuracy_score(gold, told):.2f}",
                f"{1 / len(set(gold)):.2f}",
            ]
        )
    return table(["told from", "rows", "sources", "balanced accuracy", "chance"], body)


def _calibrated(said: Answers, raw: dict[str, Any], head: str, index: list[int], name: str) -> np.ndarray:
    slope, intercept = raw["slopes"][head][name]
    z = said.any[index] if name == "any" else said.z[index][:, RISKS.index(name)]
    return 1 / (1 + np.exp(-(slope * z + intercept)))


def _points(said: Answers, raw: dict[str, Any]) -> str:
    """What the operating points do on the answers that they were set by, under a config that forbids every risk."""
    body = []
    for head in ("prompt", "text", "response"):
        index = said.where(partial(_read_by, head=head))
        shown = np.array([bool(said.rows[i].any_risk) for i in index], dtype=bool)
        p = {name: _calibrated(said, raw, head, index, name) for name in (*RISKS, "any")}
        groups: list[tuple[str, np.ndarray]] = [("all", np.ones(len(index), dtype=bool))]
        if head == "prompt":
            kinds = (("everyday", _EVERYDAY), ("look-alikes", _LOOK_ALIKES))
            groups += [(name, np.array([said.rows[i].source in sources for i in index])) for name, sources in kinds]
        for point, bounds in raw["points"].items():
            at = bounds[head]
            found = np.any([p[name] >= at[name][1] for name in p], axis=0)
            absent = np.all([p[risk] < at[risk][0] for risk in RISKS], axis=0) | (p["any"] < at["any"][0])
            for name, here in groups:
                cells = [_share(part[rows & here]) for rows in (~shown, shown) for part in (found, ~found & ~absent)]
                body.append([point, head, name, str(here.sum()), *cells])
    columns = ["point", "head", "sources", "rows", "harmless: flagged", "undecided", "risky: found", "undecided"]
    return table(columns, body)


def _share(part: np.ndarray) -> str:
    return f"{part.mean():.0%}" if len(part) >= FEWEST else "n/a"


def _language_model(every: dict[str, Answers], path: Path) -> str:
    """AUROC of any risk on the prompts that a language model was asked about too."""
    if not path.exists():
        return "Not measured: run `python -m cosa_training.judge.llm`."
    kept = json.loads(path.read_text("utf-8"))
    scores: dict[str, float] = kept["scores"]
    said = every["encoder"]
    asked = [i for i, row in enumerate(said.rows) if row.id in scores and row.head == "prompt" and row.clean]
    gold = np.array([bool(said.rows[i].any_risk) for i in asked], dtype=bool)
    folds = np.array([said.folds[i] for i in asked])
    answers = {
        f"{kept['model']}, {kept['seconds_per_prompt']} s a prompt": np.array([scores[said.rows[i].id] for i in asked])
    }
    for system, other in every.items():
        by_id = {row.id: other.any[n] for n, row in enumerate(other.rows) if row.head == "prompt"}
        answers[system] = np.array([by_id[said.rows[i].id] for i in asked])
    body = []
    for system, values in answers.items():
        by_fold = [cell(gold[folds == n], values[folds == n]) for n in range(len(FOLDS))]
        body.append([system, str(len(asked)), interval(gold, values), *by_fold])
    return table(["system", "prompts", "AUROC, any risk", *(fold.name for fold in FOLDS)], body)


def _ece(said: Answers) -> str:
    """Expected calibration error of any risk, ten bins of equal size; Platt scaling fitted without the row's fold."""
    body = []
    for head in ("prompt", "text", "response"):
        index = said.where(partial(_read_by, head=head))
        rows = [said.rows[i] for i in index]
        shown = np.array([bool(row.any_risk) for row in rows], dtype=bool)
        folds, weight, logit = np.array([said.folds[i] for i in index]), even(rows), said.any[index]
        p = np.zeros(len(index))
        for number in set(folds):
            out = folds == number
            slope, intercept = platt(logit[~out], shown[~out], weight[~out])
            p[out] = 1 / (1 + np.exp(-(slope * logit[out] + intercept)))
        for source in sorted({row.source for row in rows}):
            here = [n for n, row in enumerate(rows) if row.source == source]
            if len(here) >= _ENOUGH:
                error = expected_calibration_error([float(v) for v in p[here]], [bool(v) for v in shown[here]])
                cells = [f"{value:.2f}" for value in (shown[here].mean(), p[here].mean(), error)]
                body.append([head, source, str(len(here)), *cells])
    return table(["head", "source", "rows", "risky", "mean probability", "ECE"], body)


def _languages(said: Answers) -> str:
    """Any risk, by language, where the written rows in other languages were left out."""
    with gzip.open(HERE / "languages.jsonl.gz", "rt", encoding="utf-8") as lines:
        spoken = {f"languages/{raw['id']}": raw["lang"] for raw in map(json.loads, lines)}
    body = []
    for language in sorted(set(spoken.values())):
        index = [i for i, row in enumerate(said.rows) if spoken.get(row.id) == language]
        gold = np.array([bool(said.rows[i].any_risk) for i in index], dtype=bool)
        if index:
            body.append([language, str(len(index)), str(int(gold.sum())), interval(gold, said.any[index])])
    return table(["language", "rows", "risky", "AUROC, any risk"], body)


def _floor(said: Answers, raw: dict[str, Any]) -> str:
    """What the floor's rule finds on left-out prompts, by public label, and how many others it takes for the floor."""
    index = said.where(lambda row: row.head == "prompt" and row.risks is not None and (row.clean or bool(row.floor)))
    p = {risk: _calibrated(said, raw, "prompt", index, risk) for risk in RISKS}
    beside = raw["floor"]["beside"] * np.maximum(p["violence"], p["other"])
    rules = (("m", "floor.minors", "sexual", floor.AGE), ("x", "floor.mass_harm", "weapons", floor.SCALE))
    body = []
    for mark, name, risk, words in rules:
        spoken = np.array([bool(words.search(lowered(said.rows[i].text))) for i in index], dtype=bool)
        found = spoken & (np.maximum(p[risk], beside) >= raw["floor"][name])
        for label, here in (
            (f"marked {mark}", np.array([mark in said.rows[i].floor for i in index], dtype=bool)),
            ("harmless", np.array([said.rows[i].any_risk is False for i in index], dtype=bool)),
        ):
            cells = [f"{int(part[here].sum())}" for part in (spoken, found)]
            body.append([name, label, str(int(here.sum())), *cells])
    return table(["floor id", "left-out prompts", "rows", "with a word of it", "found"], body)


def tables(data: Path, folder: Path, calibration: Path) -> str:
    """All tables, in Markdown."""
    rows = load(data)
    raw: dict[str, Any] = json.loads(calibration.read_text("utf-8"))
    every = {}
    for system in SYSTEMS:
        try:
            every[system] = Answers(rows, folder, system)
        except SystemExit:
            if system == "encoder":
                raise
    said = every["encoder"]
    parts = [
        ("Prompts: AUROC by risk, mean of folds", _mean_of_folds(every, "prompt")),
        ("Prompts, by fold, encoder", _by_fold(said, "prompt")),
        ("Prompts, all folds pooled: answers of six models on one scale", _prompts(every, "prompt")),
        ("Free-standing texts: AUROC by risk, mean of folds", _mean_of_folds(every, "text")),
        ("Harmless look-alikes of unseen sources: recall where a fifth of them is flagged", _sensitive(every)),
        ("Responses: AUROC of harm, by left-out source", _responses(every)),
        ("Responses: refused? and addressed?", _refusals(every)),
        ("Beside a language model: yes/no log-odds, zero-shot", _language_model(every, folder.parent / "llm.json")),
        ("Source-predictability probe", _probe(said)),
        ("Languages, written rows left out", _languages(said)),
        ("The floor, on left-out prompts", _floor(said, raw)),
        ("Operating points, on the answers that they were set by", _points(said, raw)),
        ("Calibration error of any risk, by source, fitted on the other folds", _ece(said)),
    ]
    return "\n\n".join(f"### {title}\n\n{table}" for title, table in parts) + "\n"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--answers", type=Path, default=Path(__file__).parent / "data" / "answers")
    parser.add_argument("--calibration", type=Path, required=True, help="calibration.json of the build")
    parser.add_argument("--card", type=Path, help="a Markdown file whose part between the two marks is replaced")
    chosen = parser.parse_args()
    made = tables(chosen.data, chosen.answers, chosen.calibration)
    if chosen.card is None:
        print(made)
        return
    before, begin, rest = chosen.card.read_text("utf-8").partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise SystemExit(f"{chosen.card} lacks the lines {_BEGIN} and {_END}")
    chosen.card.write_text(f"{before}{begin}\n\n{made}\n{end}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
