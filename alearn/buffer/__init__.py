"""What training draws from, and the limiter of updates per row (see docs/buffers.md)."""

from alearn.buffer.base import Buffer, Prioritised, Recall, Recalling, Rows
from alearn.buffer.fifo import FIFO
from alearn.buffer.firo import FIRO
from alearn.buffer.limiter import RateLimiter
from alearn.buffer.paired import Paired
from alearn.buffer.queue import BoundedBuffer, Counts
from alearn.buffer.reservoir import Reservoir
from alearn.buffer.spill import Spill
from alearn.buffer.store import RowStore
from alearn.buffer.sumtree import SumTree
from alearn.buffer.weighted import Weighted

__all__ = [
    "FIFO",
    "FIRO",
    "BoundedBuffer",
    "Buffer",
    "Counts",
    "Paired",
    "Prioritised",
    "RateLimiter",
    "Recall",
    "Recalling",
    "Reservoir",
    "RowStore",
    "Rows",
    "Spill",
    "SumTree",
    "Weighted",
]
