"""Every place of a JSON value where somebody could put text, and the value with text put there."""

from __future__ import annotations

import copy


def places(value, path=()):
    """Pairs of a path and how text may get there: as a value, as a key, as one more key, as one more element."""
    if isinstance(value, dict):
        yield path, "new key"
        for key, item in value.items():
            yield (*path, key), "key"
            yield from places(item, (*path, key))
    elif isinstance(value, list):
        yield path, "new element"
        for at, item in enumerate(value):
            yield from places(item, (*path, at))
    if path:
        yield path, "value"


def put(body, path, how, said, beside=1):
    """A copy of a body with text at one of its places; `beside` is what a new key names."""
    body = copy.deepcopy(body)
    holder = body
    for step in path[:-1]:
        holder = holder[step]
    if how == "value":
        holder[path[-1]] = said
    elif how == "key":
        items = [(said if key == path[-1] else key, item) for key, item in holder.items()]
        holder.clear()
        holder.update(items)
    else:
        at = holder[path[-1]] if path else body
        at.append(said) if how == "new element" else at.update({said: beside})
    return body


def name(path, how):
    return ".".join(map(str, path)) + (f" ({how})" if how != "value" else "")
