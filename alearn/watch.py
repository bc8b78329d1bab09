"""``alearn watch``: follow a study by its status.json until it ends."""

from __future__ import annotations

import time
from pathlib import Path

from alearn.errors import LedgerCorrupt
from alearn.report.live import Snapshot, open_view
from alearn.report.status import read_status

EVERY_S = 0.5


def watch(directory: Path) -> None:
    """Show the study in ``directory`` until it ends.

    Raises:
        ConfigError: there is no study.
    """
    view = open_view("auto")
    began = time.monotonic()
    try:
        while True:
            try:
                status = read_status(directory)
            except LedgerCorrupt:
                time.sleep(EVERY_S)
                status = read_status(directory)
            for arm in (status, status.control):
                if arm is not None:
                    view.show(Snapshot(status=arm, elapsed_s=time.monotonic() - began))
            if status.state != "running":
                return
            time.sleep(EVERY_S)
    finally:
        view.close()
