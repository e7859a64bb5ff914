"""A backend of a few lines that means what it should: the conformance suite's own test, and what mutants are made of.

Its model is a hash: the next token depends on every token before it and on the adapters. Bytes are its tokens, and
words on top of them, so characters come in several tokens.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import threading
import time

from cosa_guard.backends.base import Capabilities
from cosa_guard.backends.chat_template import ChatTemplate, TemplateRefused, Tokens
from cosa_guard.backends.llama_request import Stopper, closed_schema
from cosa_guard.messages import Delta, Message
from cosa_sdk.errors import AdapterError, BackendError, PromptTooLong, UsageError

START, END = 256, 257
SPECIAL = {START: "<|im_start|>", END: "<|im_end|>"}
WORDS = [" fox", " sea", "The", " is", " red", " two", ", ", ". ", " ship", "Yes", " no", " and", "Tea", " cup", " 7", "\n"]
WORD = {300 + place: word.encode() for place, word in enumerate(WORDS)}
BYTES = {token: bytes([token]) for token in range(256)} | WORD


def template(turns):
    said = []
    for turn in turns:
        if turn["role"] == "tool":
            raise TemplateRefused("no tools here")
        said.append(f"<|im_start|>{turn['role']}\n{turn['content']}<|im_end|>\n")
    return "".join(said) + "<|im_start|>assistant\n"


def tokenize(texts, special):
    ids = []
    for text in texts:
        at = 0
        while at < len(text):
            marker = next((token for token, name in SPECIAL.items() if special and text.startswith(name, at)), None)
            ids += text[at].encode() if marker is None else [marker]
            at += 1 if marker is None else len(SPECIAL[marker])
    return ids


class Toy:
    """Takes a place per stream, keeps prefixes, closes."""

    template = staticmethod(template)
    tokenize = staticmethod(tokenize)

    def __init__(self, setup):
        self.setup = setup
        self.name = "toy"
        self.capabilities = Capabilities(
            logprobs=True,
            json_schema=True,
            adapters=("loud", "other") if setup.adapters else (),
            prefix_cache=True,
            context=setup.context * 16,  # bytes are many
            parallel=setup.parallel,
            resident=setup.parallel,
        )
        self.chat = ChatTemplate(lambda turns: self.template(turns))
        self.tokens = Tokens(lambda texts, special: self.tokenize(texts, special), forbidden=SPECIAL)
        self.places = threading.Condition()
        self.free = setup.parallel
        self.closed = False
        self.kept = {}

    # --- what a stream does ---

    def close(self):
        with self.places:
            self.closed = True
            self.places.notify_all()

    def check_open(self):
        if self.closed:
            raise BackendError("the toy was closed")

    def take(self):
        with self.places:
            # A stream that is not read holds no place: the toy generates whole replies at once.
            self.places.wait_for(lambda: self.free > 0 or self.closed)
            self.check_open()
            self.free -= 1

    def give(self):
        with self.places:
            self.free += 1
            self.places.notify()

    def stream(self, request):
        ids = self.fitting(request)
        schema = closed_schema(request.sampling.json_schema)
        if schema is not None:
            self.check_schema(schema)
        return self.pieces(request, ids, self.effect(request), schema)

    def pieces(self, request, ids, effect, schema):
        self.check_open()
        self.take()
        try:
            drawn = list(self.generate(request, ids, effect, schema))
        finally:
            self.give()
        yield from self.cut(request, drawn)

    def generate(self, request, ids, effect, schema):
        """(token, bytes) until the end or the limit; token END ends it."""
        sampling = request.sampling
        draw = self.random(sampling)
        forced = None if schema is None else self.encode(self.example(schema, sampling))
        written = []
        for step in range(min(sampling.max_tokens, self.capabilities.context - len(ids))):
            if forced is not None:
                token = forced[step] if step < len(forced) else END
            else:
                token = self.choose(self.distribution(self.prefix(ids, effect), written, effect), sampling, draw)
            if token == END:
                yield END, b""
                return
            written.append(token)
            yield token, BYTES[token]

    def cut(self, request, drawn):
        stopper, raw = Stopper(request.sampling.stop), b""
        for token, piece in drawn:
            self.check_open()
            if token == END:
                yield Delta(self.held(stopper), 0, "stop")
                return
            raw += piece
            text, raw = self.whole_characters(raw)
            text, stopped = self.feed(stopper, text)
            yield Delta(text, 1, "stop" if stopped else None)
            if stopped:
                return
        yield Delta(self.held(stopper), 0, "length")

    def held(self, stopper):
        return stopper.held

    def feed(self, stopper, text):
        return stopper.feed(text)

    def whole_characters(self, raw):
        for size in range(len(raw), max(len(raw) - 4, -1), -1):
            try:
                return raw[:size].decode(), raw[size:]
            except UnicodeDecodeError:
                continue
        return "", raw

    # --- the model ---

    def random(self, sampling):
        return random.Random(sampling.seed)

    def prefix(self, ids, effect):
        """The state after a prompt: kept, since a real one is costly."""
        key = self.key(ids, effect)
        if key not in self.kept:
            self.kept[key] = self.state(ids, effect)
        return self.kept[key]

    def key(self, ids, effect):
        return (tuple(ids), effect)

    def state(self, ids, effect):
        return hashlib.blake2b(repr((list(ids), effect)).encode()).hexdigest()

    def distribution(self, state, written, effect):
        draw = random.Random(f"{state}{written}")
        weights = {token: draw.random() ** 4 + 0.001 for token in WORD}
        weights[END] = draw.random() ** 4 if len(written) > 20 else 0.001
        weights[0xF0] = 0.001
        total = sum(weights.values())
        return {token: weight / total for token, weight in weights.items()}

    def choose(self, chances, sampling, draw):
        ranked = sorted(chances, key=lambda token: -chances[token])
        if sampling.temperature == 0:
            return ranked[0]
        kept, mass = [], 0.0
        for token in ranked:
            kept.append(token)
            mass += chances[token]
            if mass >= sampling.top_p:
                break
        return draw.choices(kept, [chances[token] ** (1 / sampling.temperature) for token in kept])[0]

    # --- requests ---

    def effect(self, request):
        scales = {}
        for adapter in request.adapters:
            if adapter.name not in self.capabilities.adapters:
                raise AdapterError(f"unknown adapter {adapter.name!r}; there are {self.capabilities.adapters}")
            if adapter.scale:
                scales[adapter.name] = adapter.scale
        return tuple(sorted(scales.items()))

    def render(self, request):
        return self.tokens.ids(self.chat.render(request.messages))

    def count_tokens(self, request):
        return len(self.render(request))

    def fitting(self, request):
        self.check_open()
        ids, budget = self.render(request), self.capabilities.context - 1
        if len(ids) > budget:
            raise PromptTooLong(f"it has {len(ids)} tokens of {budget}", tokens=len(ids), budget=budget)
        return ids

    def next_logprobs(self, request, *, top=64):
        if top < 1:
            raise UsageError("top must be at least 1")
        ids, effect = self.fitting(request), self.effect(request)
        chances = self.distribution(self.prefix(ids, effect), [], effect)
        best = sorted(chances, key=lambda token: -chances[token])[:top]
        return {self.shown(token): math.log(chances[token]) for token in best}

    def shown(self, token):
        return BYTES.get(token, b"").decode(errors="replace")

    def warm(self, system_text):
        ids = self.fitting_prefix(system_text)
        return len(ids)

    def fitting_prefix(self, system_text):
        segments = self.chat.render((Message("system", system_text), Message("user", "-")))
        ids = self.tokens.ids(segments[:3])
        if len(ids) >= self.capabilities.context:
            raise PromptTooLong("too long", tokens=len(ids), budget=self.capabilities.context - 1)
        return ids

    # --- JSON ---

    def check_schema(self, schema):
        if schema.get("type") == "nonsense" or "$ref" in schema:
            raise UsageError(f"the toy cannot apply {schema}")

    def encode(self, value):
        return list(json.dumps(value, ensure_ascii=False).encode())

    def example(self, schema, sampling):
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return schema["enum"][0]
        if "anyOf" in schema:
            return self.example(schema["anyOf"][0], sampling)
        if schema["type"] == "object":
            return {name: self.example(part, sampling) for name, part in schema["properties"].items()}
        if schema["type"] == "array":
            return [self.example(schema["items"], sampling)] * schema["minItems"]
        return True


def pause():
    """Lets other threads run: a race that a mutant has shall be lost."""
    time.sleep(0.0005)
