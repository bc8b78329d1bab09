from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from alearn.errors import LedgerLocked
from alearn.ledger.lock import NAME, WriterLock, has_writer


def test_one_holder_at_a_time_and_a_clean_handover(tmp_path: Path) -> None:
    assert not has_writer(tmp_path)
    lock = WriterLock(tmp_path)
    assert has_writer(tmp_path)
    with pytest.raises(LedgerLocked, match=f"process {os.getpid()} on"):
        WriterLock(tmp_path)
    lock.release()
    assert not has_writer(tmp_path)
    WriterLock(tmp_path).release()


def test_a_forked_child_of_a_dead_writer_does_not_keep_the_study(tmp_path: Path) -> None:
    code = f"""
import os, pathlib, time
from alearn.ledger.lock import WriterLock
lock = WriterLock(pathlib.Path({str(tmp_path)!r}))
child = os.fork()
if child == 0:
    time.sleep(9)
    time.sleep(9)
    os._exit(0)
print(child, flush=True)
os.kill(os.getpid(), 9)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        process.wait(30)
        try:
            os.kill(child, 0)  # it lives and holds the descriptor
            WriterLock(tmp_path).release()
        finally:
            os.kill(child, signal.SIGKILL)


def test_a_writer_on_another_host_counts_as_alive_until_it_is_silent(tmp_path: Path) -> None:
    path = tmp_path / NAME
    path.write_text(json.dumps({"pid": 77, "host": "elsewhere", "started": 1, "space": "x"}))
    with pytest.raises(LedgerLocked, match=r"process 77 on elsewhere.*counts as dead"):
        WriterLock(tmp_path)
    os.utime(path, (time.time() - 60, time.time() - 60))
    WriterLock(tmp_path).release()


def test_a_garbled_lock_file_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"\xff\x00garbage")
    WriterLock(tmp_path).release()
