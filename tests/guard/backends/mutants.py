"""Backends with one fault each, and the checks of the conformance suite that must find it."""

from __future__ import annotations

import random
import re
import threading

from tests.guard.backends.toy import SPECIAL, Toy, pause, template, tokenize

from cosa_guard.backends.base import Capabilities
from cosa_guard.backends.llama_request import Stopper
from cosa_guard.messages import Adapter, Delta, Message, Sampling
from cosa_sdk.errors import BackendError, PromptTooLong

MUTANTS = {}


def found_by(*checks):
    """Registers a faulty backend with the checks that must fail for it."""

    def add(mutant):
        MUTANTS[mutant] = checks
        return mutant

    return add


class Rewrites(Toy):
    """Changes a conversation before it is rendered."""

    def render(self, request):
        return super().render(request.replace(messages=tuple(self.rewritten(request.messages))))


def each(change):
    return lambda self, messages: [Message(turn.role, change(turn.content)) for turn in messages]


# --- prompts ----------------------------------------------------------------------------------------------------------


@found_by(
    "the prompt is the models own where nothing is special", "the prompt without a system turn is the models own"
)
class OtherTemplate(Toy):
    template = staticmethod(lambda turns: template(turns).rstrip("\n"))


@found_by("every turn is in the prompt", "earlier turns reach the model")
class ForgetsTurns(Rewrites):
    def rewritten(self, messages):
        return [messages[0], messages[-1]]


@found_by("the config reaches the model")
class DropsTheConfig(Rewrites):
    def rewritten(self, messages):
        return [turn for turn in messages if turn.role != "system"]


@found_by("the order of turns matters")
class SortsTurns(Rewrites):
    def rewritten(self, messages):
        said = iter(sorted(turn.content for turn in messages if turn.role == "user"))
        return [Message("user", next(said)) if turn.role == "user" else turn for turn in messages]


@found_by("a tool turn is rendered or refused")
class DropsToolTurns(Rewrites):
    def rewritten(self, messages):
        return [turn for turn in messages if turn.role != "tool"]


@found_by("a role that is none is refused")
class TakesAnyRole(Rewrites):
    def rewritten(self, messages):
        known = ("system", "user", "assistant", "tool")
        return [turn if turn.role in known else Message("user", turn.content) for turn in messages]


@found_by("odd orders are answered or refused")
class FallsOverNoTurns(Rewrites):
    def rewritten(self, messages):
        assert messages[-1].role == "user"
        return messages


@found_by("odd orders are answered or refused")
class SaysNothingToNoTurns(Toy):
    def generate(self, request, ids, effect, schema):
        return [] if len(ids) < 20 else super().generate(request, ids, effect, schema)

    def cut(self, request, drawn):
        return iter(()) if not drawn else super().cut(request, drawn)


@found_by("empty and blank contents are answered")
class FallsOverBlanks(Rewrites):
    def rewritten(self, messages):
        if not all(turn.content.strip() for turn in messages):
            raise ValueError("empty")
        return messages


@found_by("blanks inside a content are kept")
class TidiesContents(Rewrites):
    rewritten = each(lambda content: " ".join(content.split()))


@found_by("contents that look like template code are text")
class RunsContents(Rewrites):
    rewritten = each(lambda content: re.sub(r"{[{%#].*[}%#]}", "49", content))


@found_by(
    "typed markup is text", "markup inside markup is text", "no special token comes of contents",
    "a forged turn is no turn", "a forged system turn is no system turn",
)  # fmt: skip
class ReadsMarkupInContents(Toy):
    def render(self, request):
        return tokenize([template([{"role": turn.role, "content": turn.content} for turn in request.messages])], True)


@found_by("typed markup is text")
class TakesMarkupOut(Rewrites):
    rewritten = each(lambda content: content.replace("<|im_end|>", "").replace("<|im_start|>", ""))


@found_by("replies hold no markup")
class SaysMarkup(Toy):
    def held(self, stopper):
        return "<|im_end|>"


@found_by("odd characters are read")
class StrictAboutSurrogates(Rewrites):
    rewritten = each(lambda content: content.encode().decode())


@found_by("the count is the length of the prompt", "the count is what the limit goes by")
class CountsAbout(Toy):
    def count_tokens(self, request):
        return super().count_tokens(request) + 3


@found_by("adapters and sampling do not change the count")
class CountsTheReply(Toy):
    def count_tokens(self, request):
        return super().count_tokens(request) + request.sampling.max_tokens


# --- stop strings -----------------------------------------------------------------------------------------------------


class OtherStops(Toy):
    """Looks for other stop strings than it was told to."""

    def cut(self, request, drawn):
        told = request.sampling
        stops = self.stops(told.stop)
        sampling = Sampling(max_tokens=told.max_tokens, stop=stops)
        return super().cut(request.replace(sampling=sampling), drawn)


@found_by("a stop string ends the reply and is cut out", "a stop string may be of any script")
class KeepsTheStopString(Toy):
    def feed(self, stopper, text):
        ready, stopped = stopper.feed(text)
        return (stopper.held if stopped else ready), stopped


@found_by("a stop string across pieces is found")
class LooksIntoPieces(Toy):
    def feed(self, stopper, text):
        return Stopper(stopper._stops).feed(text) if any(stop in text for stop in stopper._stops) else (text, False)


@found_by("a stop string may be the first thing said")
class LooksBehindTheFirstPiece(Toy):
    def feed(self, stopper, text):
        ready, stopped = stopper.feed(text)
        return (stopper.held or text, stopped) if stopped and ready == "" else (ready, stopped)


@found_by("of several stop strings the first in the text wins")
class LooksForTheFirstOnly(OtherStops):
    def stops(self, stops):
        return stops[:1]


@found_by("a stop string that never comes changes nothing")
class StopsAtABeginning(OtherStops):
    def stops(self, stops):
        return tuple(stop[:3] for stop in stops)


@found_by("text held for a stop string is not lost at the limit")
class LosesWhatItHeld(Toy):
    def held(self, stopper):
        return ""


@found_by("a stop string stops the model")
class GeneratesOn(Toy):
    def cut(self, request, drawn):
        for delta in super().cut(request, drawn):
            yield Delta(delta.text, len(drawn), "stop") if delta.finish == "stop" else delta


@found_by("a stop string of one request is not the next ones")
class RemembersStops(OtherStops):
    stopped = ()

    def stops(self, stops):
        self.stopped = stops or self.stopped
        return self.stopped


@found_by("a stop string may be of any script")
class StopsInAscii(OtherStops):
    def stops(self, stops):
        return tuple(stop for stop in stops if stop.isascii())


# --- limits, seeds, streams -------------------------------------------------------------------------------------------


class OtherSampling(Toy):
    """Samples as it was not told to."""

    def generate(self, request, ids, effect, schema):
        return super().generate(request.replace(sampling=self.other(request.sampling)), ids, effect, schema)


def changed(sampling, **changes):
    names = ("temperature", "top_p", "max_tokens", "seed", "stop", "json_schema")
    return Sampling(**{name: getattr(sampling, name) for name in names} | changes)


@found_by("max tokens is a limit and length says that it was reached")
class OneTokenMore(OtherSampling):
    def other(self, sampling):
        return changed(sampling, max_tokens=sampling.max_tokens + 1)


class OtherFinish(Toy):
    def cut(self, request, drawn):
        for delta in super().cut(request, drawn):
            yield Delta(delta.text, delta.tokens, self.finish if delta.finish else None)


@found_by("max tokens is a limit and length says that it was reached", "a limit cuts json short")
class AlwaysStops(OtherFinish):
    finish = "stop"


@found_by("a reply may end by itself", "a stop string ends the reply and is cut out", "a reply fits its schema")
class NeverStops(OtherFinish):
    finish = "length"


@found_by("a longer limit goes on where a shorter one stopped")
class LooksAtTheLimit(Toy):
    def pieces(self, request, ids, effect, schema):
        return super().pieces(request, ids, (*effect, request.sampling.max_tokens), schema)


@found_by("a reply ends with the context")
class IgnoresTheContext(Toy):
    def generate(self, request, ids, effect, schema):
        return super().generate(request, ids[:1], effect, schema)


@found_by("a seed repeats a draw")
class IgnoresSeeds(Toy):
    def random(self, sampling):
        return random.Random()


@found_by("another seed draws differently", "without a seed draws differ")
class OneSeed(Toy):
    def random(self, sampling):
        return random.Random(1)


@found_by("neighbours do not touch a draw")
class SharesItsDice(Toy):
    dice = random.Random()

    def random(self, sampling):
        self.dice.seed(sampling.seed)
        return self

    def choices(self, kept, weights):
        pause()
        return self.dice.choices(kept, weights)


@found_by("greedy takes no seed")
class GreedyByHalves(Toy):
    def pieces(self, request, ids, effect, schema):
        return super().pieces(request, ids, (*effect, request.sampling.seed), schema)


@found_by("the smallest top p is greedy")
class IgnoresTopP(OtherSampling):
    def other(self, sampling):
        return changed(sampling, top_p=1.0)


@found_by("the same request gets the same text", "a guarded reply is what was streamed")
class NeverTheSame(Toy):
    def pieces(self, request, ids, effect, schema):
        return super().pieces(request, ids, (*effect, random.random()), schema)


@found_by("two backends say the same")
class DependsOnItsBirth(Toy):
    def pieces(self, request, ids, effect, schema):
        return super().pieces(request, ids, (*effect, id(self)), schema)


@found_by("a reply comes in pieces")
class OnePiece(Toy):
    def cut(self, request, drawn):
        pieces = list(super().cut(request, drawn))
        text, tokens = "".join(piece.text for piece in pieces), sum(piece.tokens for piece in pieces)
        yield Delta(text, tokens, pieces[-1].finish)


@found_by("characters of several tokens come whole", "a character cut by the limit is left out")
class HalfCharacters(Toy):
    def whole_characters(self, raw):
        return raw.decode(errors="replace"), b""


# --- JSON -------------------------------------------------------------------------------------------------------------


@found_by("a reply fits its schema", "json and free replies at the same time", "what is not there is refused")
class IgnoresSchemas(Toy):
    def generate(self, request, ids, effect, schema):
        return super().generate(request, ids, effect, None)


@found_by("a drawn reply fits its schema")
class IgnoresSchemasWhenItDraws(Toy):
    def generate(self, request, ids, effect, schema):
        return super().generate(request, ids, effect, None if request.sampling.temperature else schema)


@found_by("a schema of one request does not bind the next")
class RemembersSchemas(Toy):
    schema = None

    def generate(self, request, ids, effect, schema):
        self.schema = schema or self.schema
        return super().generate(request, ids, effect, self.schema)


@found_by("log odds are not bound by a schema")
class SchemasBendLogOdds(Toy):
    bent = ()

    def check_schema(self, schema):
        super().check_schema(schema)
        self.bent = ("bent",)

    def next_logprobs(self, request, *, top=64):
        ids = self.fitting(request)
        return self.logs(self.distribution(self.state(ids, self.bent), [], ()), top)

    def logs(self, chances, top):
        import math

        return {self.shown(token): math.log(chance) for token, chance in chances.items()}


@found_by("json and free replies at the same time")
class SharesSchemas(Toy):
    def generate(self, request, ids, effect, schema):
        self.schema = schema
        pause()
        return super().generate(request, ids, effect, self.schema)


@found_by("a schema that cannot be used is refused")
class TakesAnySchema(Toy):
    def check_schema(self, schema):
        schema.setdefault("const", 1)


# --- log-odds ---------------------------------------------------------------------------------------------------------


class OtherLogOdds(Toy):
    def next_logprobs(self, request, *, top=64):
        return self.bend(super().next_logprobs(request, top=top))


@found_by("they are natural logarithms of probabilities")
class LogarithmsToBaseTwo(OtherLogOdds):
    def bend(self, found):
        return {token: value * 0.3 for token, value in found.items()}


@found_by("they are natural logarithms of probabilities")
class Probabilities(OtherLogOdds):
    def bend(self, found):
        import math

        return {token: math.exp(value) for token, value in found.items()}


@found_by("the likeliest token is the greedy one")
class LogOddsOfAnotherPrompt(Toy):
    def next_logprobs(self, request, *, top=64):
        return super().next_logprobs(request.replace(messages=(*request.messages, Message("user", "-"))), top=top)


@found_by("top is respected")
class IgnoresTop(Toy):
    def next_logprobs(self, request, *, top=64):
        return super().next_logprobs(request, top=max(top, 1) and 64)


@found_by("top below one is refused")
class TakesAnyTop(Toy):
    def next_logprobs(self, request, *, top=64):
        return super().next_logprobs(request, top=max(top, 1))


@found_by("they can be repeated")
class LogOddsJitter(OtherLogOdds):
    def bend(self, found):
        return {token: value - random.random() for token, value in found.items()}


@found_by("sampling does not bend them")
class TemperatureBendsLogOdds(Toy):
    def next_logprobs(self, request, *, top=64):
        found = super().next_logprobs(request, top=top)
        return {token: value * (1 + 3 * request.sampling.temperature) for token, value in found.items()}


@found_by("markup has no text")
class ShowsMarkup(Toy):
    def shown(self, token):
        return SPECIAL.get(token) or super().shown(token)


@found_by("tokens are not stripped")
class StripsTokens(OtherLogOdds):
    def bend(self, found):
        return {token.strip(): value for token, value in found.items()}


@found_by(
    "scoring and generating at the same time", "everybody gets the answer to their own question",
    "requests with different adapters at the same time", "replies with different adapters at the same time",
)  # fmt: skip
class SharesItsState(Toy):
    def prefix(self, ids, effect):
        self.now = (ids, effect)
        pause()
        return super().prefix(*self.now)


# --- adapters ---------------------------------------------------------------------------------------------------------


class OtherAdapters(Toy):
    def effect(self, request):
        super().effect(request)
        return tuple(sorted((adapter.name, adapter.scale) for adapter in self.adapters(request.adapters)))


@found_by("loaded adapters are named")
class NamesOneAdapter(Toy):
    def __init__(self, setup):
        super().__init__(setup)
        self.capabilities = Capabilities(context=self.capabilities.context, adapters=("loud",))


@found_by("an adapter changes what is said", "an adapter changes the log odds")
class IgnoresAdapters(OtherAdapters):
    def adapters(self, told):
        return ()


@found_by("an unknown adapter is refused", "a backend without adapters refuses all")
class TakesAnyAdapter(Toy):
    def effect(self, request):
        return tuple((adapter.name, adapter.scale) for adapter in request.adapters)


@found_by("scale 0 is the base model")
class Scale0Counts(OtherAdapters):
    def adapters(self, told):
        return told


@found_by("a scale is a matter of degree", "scale 0 is the base model")
class IgnoresScales(OtherAdapters):
    def adapters(self, told):
        return [Adapter(name=adapter.name) for adapter in told]


@found_by("two adapters in one request")
class TakesTheLastAdapter(OtherAdapters):
    def adapters(self, told):
        return [adapter for adapter in told[-1:] if adapter.scale]


@found_by("the order of adapters does not matter")
class OrderMatters(Toy):
    def effect(self, request):
        return super().effect(request) and tuple((adapter.name, adapter.scale) for adapter in request.adapters)


@found_by("an adapter does not stay for the next request")
class KeepsItsAdapters(Toy):
    stay = ()

    def effect(self, request):
        self.stay = super().effect(request) or self.stay
        return self.stay


# --- prefixes ---------------------------------------------------------------------------------------------------------


@found_by("a warm config gives the same answer", "warming says how long a config is")
class WarmsTheWrongThing(Toy):
    warmed = ()

    def warm(self, system_text):
        self.warmed += (system_text,)
        return 10_000

    def key(self, ids, effect):
        return super().key([*ids, *self.warmed[-1:]], effect)

    def state(self, ids, effect):
        return super().state([*ids, *self.warmed[-1:]], effect)


@found_by("a config that does not fit is refused")
class WarmsAnything(Toy):
    def warm(self, system_text):
        return len(system_text)


@found_by(
    "switching among more configs than stay ready", "texts do not depend on what was asked before",
    "a conversation goes on as if it were new",
)  # fmt: skip
class KeepsByPlace(Toy):
    """Every prompt reads what the last one left."""

    last = ""

    def prefix(self, ids, effect):
        state = super().prefix(ids, effect)
        self.last, before = state, self.last
        return self.state([state, before], effect)


@found_by("configs with a common beginning are kept apart")
class KeepsByBeginning(Toy):
    def key(self, ids, effect):
        return (tuple(ids[:60]), effect)


@found_by(
    "a prefix of the base model does not serve an adapter", "a prefix of an adapter does not serve the base model",
    "a prefix of one scale does not serve another", "a prefix of one adapter does not serve another",
    "prefixes that were driven out come back under their own adapter",
)  # fmt: skip
class KeepsWhateverTheAdapter(Toy):
    def key(self, ids, effect):
        return tuple(ids)


@found_by(
    "a secret does not leave its conversation", "a secret does not stay in a place that was given up",
    "a secret does not come back from what was driven out",
)  # fmt: skip
class Leaks(Toy):
    """Repeats what other scopes said."""

    heard = b""

    def pieces(self, request, ids, effect, schema):
        if request.scope == "one":
            self.heard = request.messages[1].content.encode()
        return super().pieces(request, ids, effect, schema)

    def generate(self, request, ids, effect, schema):
        if request.scope != "other":
            yield from super().generate(request, ids, effect, schema)
            return
        yield 300, self.heard


@found_by("the same words of two scopes get the same answer")
class ScopesMatter(Toy):
    def fitting(self, request):
        return [*super().fitting(request), *request.scope.encode()]


# --- cancellation -----------------------------------------------------------------------------------------------------


@found_by("a stream that nobody reads takes no place")
class TakesItsPlaceEarly(Toy):
    def stream(self, request):
        stream = super().stream(request)
        Toy.take(self)
        return self.later(stream)

    def later(self, stream):
        try:
            yield from stream
        finally:
            self.give_early()

    def take(self):
        pass

    def give(self):
        pass

    def give_early(self):
        Toy.give(self)


@found_by("more open streams than places do not lock up")
class HoldsItsPlace(Toy):
    """A reader that pauses holds up all others."""

    def pieces(self, request, ids, effect, schema):
        self.check_open()
        self.take()
        try:
            yield from self.cut(request, self.generate(request, ids, effect, schema))
        finally:
            self.give()


@found_by(
    "a stream can be closed at its first piece", "a stream can be closed in the middle",
    "a stream that is forgotten is closed", "an error of the reader closes a stream",
    "a request that waits is served when a place is given up", "a cancelled task gives its place back",
    "some give up and the others are answered",
)  # fmt: skip
class LosesPlaces(Toy):
    def pieces(self, request, ids, effect, schema):
        self.check_open()
        self.take()
        yield from self.cut(request, self.generate(request, ids, effect, schema))
        self.give()


class Wrapped:
    def __init__(self, toy, stream):
        self.toy, self.stream, self.times = toy, stream, 0

    def __iter__(self):
        return self

    def __next__(self):
        return next(self.stream)

    def throw(self, error):
        raise error

    def close(self):
        self.times += 1
        self.toy.on_close(self)


class Wraps(Toy):
    def stream(self, request):
        return Wrapped(self, super().stream(request))


@found_by("a stream can be closed in the middle")
class IgnoresClose(Wraps):
    def on_close(self, wrapped):
        pass


@found_by("a stream can be closed twice and at its end")
class ClosesOnce(Wraps):
    def on_close(self, wrapped):
        assert wrapped.times == 1
        wrapped.stream.close()


@found_by("closing one stream leaves the others alone")
class ClosesAll(Wraps):
    def on_close(self, wrapped):
        self.cut_off = True
        wrapped.stream.close()

    def cut(self, request, drawn):
        self.cut_off = False
        for delta in super().cut(request, drawn):
            if self.cut_off:
                return
            yield delta


# --- errors, the end, many callers ------------------------------------------------------------------------------------


@found_by("a prompt that is too long is refused with numbers", "the longest prompt that fits is answered")
class CutsLongPrompts(Toy):
    def fitting(self, request):
        return self.render(request)[: self.capabilities.context - 1]


@found_by("a prompt that is too long is refused with numbers")
class NoNumbers(Toy):
    def fitting(self, request):
        try:
            return super().fitting(request)
        except PromptTooLong as error:
            raise PromptTooLong("too long", tokens=error.tokens, budget=error.budget) from None


@found_by("a closed backend says so", "closing ends the streams that are open")
class NeverCloses(Toy):
    def check_open(self):
        pass

    def cut(self, request, drawn):
        for delta in super().cut(request, drawn):
            if self.closed and self.setup.parallel == 2:
                return
            yield delta


@found_by("closing ends the requests that wait")
class ForgetsWhoWaits(LosesPlaces):
    def take(self):
        with self.places:
            self.places.wait_for(lambda: self.free > 0)
            self.free -= 1


@found_by("a backend leaves no threads behind")
class LeavesThreads(Toy):
    def __init__(self, setup):
        super().__init__(setup)
        threading.Thread(target=threading.Event().wait, daemon=True).start()


@found_by("sixteen threads are answered", "sixteen tasks are answered")
class RefusesACrowd(Toy):
    def take(self):
        with self.places:
            if not self.free:
                raise BackendError("busy")
            self.free -= 1
        pause()


@found_by("some fail and the others are answered")
class FailuresTakePlaces(Toy):
    def stream(self, request):
        try:
            return super().stream(request)
        except PromptTooLong:
            self.take()
            raise


@found_by("a stream may be read by another thread")
class BoundToAThread(Toy):
    def cut(self, request, drawn):
        mine = threading.current_thread()
        for delta in super().cut(request, drawn):
            assert mine == threading.current_thread()
            yield delta


# --- capabilities -----------------------------------------------------------------------------------------------------


class OtherCapabilities(Toy):
    claims = ()

    def __init__(self, setup):
        super().__init__(setup)
        true = {name: getattr(self.capabilities, name) for name in Capabilities.__slots__}
        self.capabilities = Capabilities(**true | dict(self.claims))


@found_by("numbers are numbers")
class NoPlaces(OtherCapabilities):
    claims = (("parallel", 0),)


@found_by("the context is the one that prompts are held to")
class ClaimsMore(Toy):
    def fitting(self, request):
        try:
            return super().fitting(request)
        except PromptTooLong as error:
            raise PromptTooLong(str(error), tokens=error.tokens, budget=error.budget // 2) from None


@found_by("what is not there is refused")
class AnswersWithoutJSON(OtherCapabilities):
    claims = (("json_schema", False),)


@found_by("log odds are there or not")
class NoScorer(Toy):
    count_tokens = None

    def __getattribute__(self, name):
        if name == "next_logprobs":
            raise AttributeError(name)
        return super().__getattribute__(name)
