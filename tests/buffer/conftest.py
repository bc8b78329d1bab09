from collections.abc import Callable

import numpy as np
import pytest

from alearn.buffer import Rows


@pytest.fixture
def rows() -> Callable[..., Rows]:
    """Makes ``n`` rows whose ``step`` counts up from ``first``."""

    def make(first: int, n: int, width: int = 2) -> Rows:
        ids = np.arange(first, first + n)
        return Rows(ids[:, None] * np.ones((1, width)), -ids[:, None] * np.ones((1, 1)), np.ones(n), ids // 7, ids)

    return make
