"""alearn trains a surrogate of an expensive simulation while the simulation runs.

Importing this package is cheap (no torch, no hydra): every public name is
loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alearn.ledger import open_archive
    from alearn.space import Space
    from alearn.study import Study

__version__ = "0.1.0"

_LAZY = {
    "Space": "alearn.space",
    "Study": "alearn.study",
    "open_archive": "alearn.ledger",
}

__all__ = ["Space", "Study", "__version__", "open_archive"]


def __getattr__(name: str) -> Any:
    """Load a public name on first use."""
    if name not in _LAZY:
        raise AttributeError(f"module 'alearn' has no attribute {name!r}; public names: {', '.join(sorted(__all__))}")
    return getattr(importlib.import_module(_LAZY[name]), name)
