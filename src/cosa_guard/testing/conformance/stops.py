"""Stop strings: where a reply ends because of what it says."""

from __future__ import annotations

import json

from cosa_guard.backends.base import Backend
from cosa_guard.testing.conformance.asking import FOX, Said, ask_json, drawn, json_backend, say
from cosa_guard.testing.conformance.subject import Subject, check, expect

__all__: list[str] = []


def _whole(subject: Subject) -> tuple[Backend, Said]:
    """A reply of several pieces with nothing cut."""
    backend = subject.backend()
    say(backend, drawn(FOX, max_tokens=1))  # what follows finds the same prefix cached each time
    reply = say(backend, FOX)
    expect(len(reply.text) > 8, f"the reply is too short to be cut: {reply.text!r}")
    return backend, reply


@check("stop strings")
def a_stop_string_ends_the_reply_and_is_cut_out(subject: Subject) -> None:
    """The text in front of it is the reply."""
    backend, whole = _whole(subject)
    middle = len(whole.text) // 2
    stop = whole.text[middle : middle + 3]
    cut = say(backend, drawn(FOX, stop=(stop,)))
    expect(cut.text == whole.text.partition(stop)[0], f"{whole.text!r} stopped at {stop!r} is {cut.text!r}")
    expect(cut.finish == "stop", f"a stop string gave the finish {cut.finish!r}")


@check("stop strings")
def a_stop_string_across_pieces_is_found(subject: Subject) -> None:
    """However the text is cut into tokens."""
    backend, whole = _whole(subject)
    at = 0
    for piece in whole.deltas[:5]:
        at += len(piece.text)
        if at < 2 or at > len(whole.text) - 2:
            continue
        stop = whole.text[at - 2 : at + 2]
        cut = say(backend, drawn(FOX, stop=(stop,)))
        expect(cut.text == whole.text.partition(stop)[0], f"{whole.text!r} stopped at {stop!r} is {cut.text!r}")


@check("stop strings")
def a_stop_string_may_be_the_first_thing_said(subject: Subject) -> None:
    """An empty reply is a reply."""
    backend, whole = _whole(subject)
    cut = say(backend, drawn(FOX, stop=(whole.text[:2],)))
    expect((cut.text, cut.finish) == ("", "stop"), f"it gave {cut.text!r} and {cut.finish!r}")


@check("stop strings")
def of_several_stop_strings_the_first_in_the_text_wins(subject: Subject) -> None:
    """Not the first in the list."""
    backend, whole = _whole(subject)
    third = len(whole.text) // 3
    early, late = whole.text[third : third + 6], whole.text[2 * third : 2 * third + 6]
    cut = say(backend, drawn(FOX, stop=("never said", late, early)))
    expected = min((whole.text.partition(stop)[0] for stop in (early, late)), key=len)
    expect(cut.text == expected, f"{whole.text!r} stopped at {late!r} or {early!r} is {cut.text!r}")


@check("stop strings")
def a_stop_string_that_never_comes_changes_nothing(subject: Subject) -> None:
    """Not even where the text looks like its beginning."""
    backend, whole = _whole(subject)
    looks = whole.text[2:6] + "\x00"
    same = say(backend, drawn(FOX, stop=(looks, "never said")))
    expect((same.text, same.finish, same.tokens) == (whole.text, whole.finish, whole.tokens), f"it gave {same!r}")


@check("stop strings")
def text_held_for_a_stop_string_is_not_lost_at_the_limit(subject: Subject) -> None:
    """What might have been the beginning of one is text after all."""
    backend, whole = _whole(subject)
    same = say(backend, drawn(FOX, stop=(whole.text[-3:] + "\x00",)))
    expect(same.text == whole.text, f"{whole.text!r} became {same.text!r}")
    expect(same.finish == whole.finish, f"the finish {whole.finish!r} became {same.finish!r}")


@check("stop strings")
def a_stop_string_stops_the_model(subject: Subject) -> None:
    """Few tokens are generated behind it."""
    backend, whole = _whole(subject)
    cut = say(backend, drawn(FOX, stop=(whole.text[:2],), max_tokens=200))
    expect(cut.tokens <= 20, f"{cut.tokens} tokens were generated for a reply that stops at the first")


@check("stop strings")
def a_stop_string_of_one_request_is_not_the_next_ones(subject: Subject) -> None:
    """Requests share nothing."""
    backend, whole = _whole(subject)
    say(backend, drawn(FOX, stop=(whole.text[3:6],)))
    after = say(backend, FOX)
    expect(after.text == whole.text, f"after a request with a stop string {whole.text!r} became {after.text!r}")


@check("stop strings")
def a_stop_string_may_be_of_any_script(subject: Subject) -> None:
    """Also of characters that take several tokens."""
    backend = json_backend(subject)
    for text, stop in (("a 🦊 b", "🦊"), ("привет мир", "вет"), ("你好世界", "世")):
        cut = say(backend, ask_json({"const": text}, stop=(stop,)))
        expected = json.dumps(text, ensure_ascii=False).partition(stop)[0]
        expect(cut.text == expected, f"{text!r} stopped at {stop!r} is {cut.text!r}")
        expect(cut.finish == "stop", f"{text!r} stopped at {stop!r} has the finish {cut.finish!r}")
