"""Where members start, and the supervisor that ends them for certain."""

from __future__ import annotations

from alearn.launcher.base import Adopting, Elastic, Job, Launcher, Waitable
from alearn.launcher.local import LocalLauncher, past_exit, sweep

__all__ = ["Adopting", "Elastic", "Job", "Launcher", "LocalLauncher", "Waitable", "past_exit", "sweep"]
