"""What training draws from: FIFO, FIRO and Reservoir, and the limiter of updates per row (see docs/buffers.md)."""

from alearn.buffer.base import Buffer, Rows
from alearn.buffer.fifo import FIFO
from alearn.buffer.firo import FIRO
from alearn.buffer.limiter import RateLimiter
from alearn.buffer.queue import BoundedBuffer, Counts
from alearn.buffer.reservoir import Reservoir
from alearn.buffer.store import RowStore

__all__ = ["FIFO", "FIRO", "BoundedBuffer", "Buffer", "Counts", "RateLimiter", "Reservoir", "RowStore", "Rows"]
