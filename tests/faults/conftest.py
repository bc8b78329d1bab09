import os
import subprocess
from pathlib import Path

import pytest


def mount_tmpfs(where: Path, megabytes: int) -> None:
    """A small disk at ``where``; skips the test where this user may not mount one."""
    where.mkdir(parents=True, exist_ok=True)
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root")
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "none", str(where)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")


@pytest.fixture
def small_disk(tmp_path):
    """A disk of eight megabytes with a ballast that can be thrown off."""
    where = tmp_path / "disk"
    mount_tmpfs(where, 8)
    try:
        yield where
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(where)], check=False, capture_output=True)
        subprocess.run(["umount", "-l", str(where)], check=True)
