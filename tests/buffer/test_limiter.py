import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alearn.buffer import RateLimiter
from alearn.errors import ConfigError


@given(low=st.floats(0, 3), width=st.floats(0.01, 3), slack=st.floats(1, 50), moves=st.lists(st.booleans(), max_size=300))
def test_never_holds_both_and_stays_in_the_band(low, width, slack, moves):
    high = low + width
    if low and slack < (1 + low) / (high + low):
        with pytest.raises(ConfigError, match="for ever"):
            RateLimiter(min_per_row=low, max_per_row=high, slack=slack)
        return
    limiter = RateLimiter(min_per_row=low, max_per_row=high, slack=slack)
    for receive in moves:
        assert limiter.may_update or limiter.may_receive
        if receive and limiter.may_receive:
            assert limiter.room >= 1 - 1e-9
            limiter.row()
        elif limiter.may_update:
            limiter.update()
        assert limiter.updates <= high * (limiter.received + slack) + 1e-9
        assert limiter.updates >= low * (limiter.received - slack) - 1e-9


def test_holds_the_trainer_then_the_reception():
    limiter = RateLimiter(min_per_row=0.5, max_per_row=1.0, slack=4)
    limiter.update(4)
    assert not limiter.may_update
    limiter.row(12)
    assert limiter.may_update
    assert not limiter.may_receive
    assert limiter.room == 0
    limiter.update(1)
    assert limiter.may_receive
    assert limiter.room == 2


def test_state_returns():
    a, b = RateLimiter(max_per_row=2), RateLimiter(max_per_row=2)
    a.row(5)
    a.update(7)
    b.load_state_dict(a.state_dict())
    assert (b.received, b.updates) == (5, 7)
    assert b.room == math.inf


@pytest.mark.parametrize("band", [(2.0, 1.0), (-1.0, 1.0), (0.0, 0.0)])
def test_an_empty_band_is_named(band):
    with pytest.raises(ConfigError, match="band"):
        RateLimiter(min_per_row=band[0], max_per_row=band[1])
