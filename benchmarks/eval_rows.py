"""How many rows a second an evaluation makes on a local model, against the same model driven one prompt at a time.

Baselines, in the same run and on the same file and prompts, `llama_cpp.Llama` itself: asked one prompt after the other
with nothing kept between them, and with the prefix matching that it has of its own. Greedy, so that all write about as
much; tokens are counted all the same.

Usage: eval_rows.py. BENCH_ROWS of each config, 6; BENCH_TOKENS of a reply, 64; BENCH_ROUNDS, 3; COSA_THREADS, 1.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace

from _measure import median, ratio, row

from cosa_guard import backends
from cosa_guard.backends.llama_native import load_library
from cosa_guard.evals import suites
from cosa_guard.evals.judges import make
from cosa_guard.evals.recipe import Recipe
from cosa_guard.evals.run import evaluate
from cosa_guard.evals.systems import System, parse_system
from cosa_guard.messages import Sampling

ROWS = int(os.environ.get("BENCH_ROWS", "6"))
TOKENS = int(os.environ.get("BENCH_TOKENS", "64"))
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))
THREADS = int(os.environ.get("COSA_THREADS", "1"))
CONTEXT, SEQUENCES = 2048, 8
SYSTEMS = ("ica", "ica-5shot")


def small(suite):
    kept, items = {}, []
    for item in suite.items:
        kept[item.config] = kept.get(item.config, 0) + 1
        if kept[item.config] <= ROWS:
            items.append(item)
    return replace(suite, items=tuple(items))


def ours(suite, name):
    """Seconds and tokens of a whole run, the loading of the model left out."""
    made = backends.make("llama-cpp", context=CONTEXT, sequences=SEQUENCES, threads=THREADS)
    recipe = Recipe(systems=(parse_system(name),), sampling=Sampling(max_tokens=TOKENS))
    start = time.perf_counter()
    done = evaluate(suite, recipe, make("refusal"), open_backend=lambda _spec, _options: made)
    seconds = time.perf_counter() - start
    return seconds, sum(one.tokens for one in done.rows), made.running.file


def raw(suite, name, file, *, keeps):
    llama_cpp = load_library()
    model = llama_cpp.Llama(str(file), n_ctx=CONTEXT, n_threads=THREADS, n_threads_batch=THREADS, verbose=False)
    system = System(parse_system(name), suite, backends.make("llama-cpp", context=CONTEXT, threads=THREADS), Sampling())
    prompts = [system.prompt(item) for item in suite.items]
    start, tokens = time.perf_counter(), 0
    for prompt in prompts:
        if not keeps:
            model.reset()
        said = model.create_chat_completion(
            [{"role": one.role, "content": one.content} for one in prompt.messages], max_tokens=TOKENS, temperature=0.0
        )
        tokens += said["usage"]["completion_tokens"]
    seconds = time.perf_counter() - start
    model.close()
    return seconds, tokens


def main():
    suite = small(suites.load("starter"))
    print(f"{len(suite.items)} prompts under {len(suite.configs)} configs, {TOKENS} tokens, {THREADS} thread(s)\n")
    row("rows a second", "one by one", "with its prefixes", "cosa eval", "÷ one by one", "÷ with prefixes")
    for name in SYSTEMS:
        found = {"nothing": [], "prefixes": [], "ours": []}
        tokens = {}
        for _ in range(ROUNDS):
            seconds, tokens["ours"], file = ours(suite, name)
            found["ours"].append(len(suite.items) / seconds)
            for kind, keeps in (("nothing", False), ("prefixes", True)):
                seconds, tokens[kind] = raw(suite, name, file, keeps=keeps)
                found[kind].append(len(suite.items) / seconds)
        paces = [f"{median(found[kind]):.2f}" for kind in ("nothing", "prefixes", "ours")]
        ratios = [f"{ratio(found, 'ours', kind):.2f}" for kind in ("nothing", "prefixes")]
        row(name, *paces, *ratios)
        print(f"  tokens written: {tokens}")


if __name__ == "__main__":
    main()
