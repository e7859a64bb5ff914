"""What a request refuses to hold."""

from __future__ import annotations

import math

import pytest

from cosa_guard import Adapter, Sampling
from cosa_sdk.errors import UsageError


@pytest.mark.parametrize("scale", [math.nan, math.inf, -math.inf, True, "1", None])
def test_a_scale_that_is_no_finite_number(scale):
    with pytest.raises(UsageError, match=r"Adapter\(name='co', scale=.*give a finite number"):
        Adapter(name="co", scale=scale)


@pytest.mark.parametrize("scale", [0, 1, -0.5, 1e3])
def test_any_finite_scale(scale):
    assert scale == Adapter(name="co", scale=scale).scale


@pytest.mark.parametrize("name", ["temperature", "top_p"])
def test_sampling_that_is_no_number(name):
    with pytest.raises(UsageError, match=f"{name}=nan"):
        Sampling(**{name: math.nan})
