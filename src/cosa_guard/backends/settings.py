"""What a local backend takes from the machine where nobody says otherwise."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from cosa_sdk.errors import OutOfMemory, UsageError

__all__ = ["check_memory", "cores", "default_threads", "free_memory", "in_ci"]

_GIB: Final = 1 << 30


def default_threads() -> int:
    """`COSA_THREADS`; else 1 where `CI` is set; else one less than there are cores.

    Raises:
        UsageError: `COSA_THREADS` is no whole number.
    """
    asked = os.environ.get("COSA_THREADS", "")
    if asked:
        if asked.isdecimal() and int(asked) > 0:
            return int(asked)
        raise UsageError(f"COSA_THREADS={asked!r} must be a whole number from 1 on.")
    if in_ci():
        return 1
    return max(1, cores() - 1)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_ci() -> bool:
    """Whether this is a machine that tests: what is measured there is not what users have."""
    return os.environ.get("CI", "").lower() not in ("", "0", "false")


def free_memory() -> int | None:
    """Bytes that can be taken without swapping, or None where the system does not tell."""
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        return None
    return None


def check_memory(
    weights: int,
    cache: int,
    *,
    model: str,
    what: str,
    free: Callable[[], int | None],
    options: str = "slots or context",
) -> None:
    """Raises OutOfMemory when the weights and the KV cache, in bytes, would not fit: the system would kill the process.

    Args:
        model: The file's name, for the message.
        what: What the cache is for, such as `4 slots of 4096 tokens`.
        free: `free_memory`, or a stand-in.
        options: The options that take less memory when they are lowered.
    """
    there = free()
    if there is not None and weights + cache > there:
        raise OutOfMemory(
            f"{model!r} needs about {(weights + cache) / _GIB:.1f} GiB: {weights / _GIB:.1f} for its weights and "
            f"{cache / _GIB:.1f} for {what}. {there / _GIB:.1f} GiB are free. Lower the options {options}, or "
            "use a smaller model."
        )
