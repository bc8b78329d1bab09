"""A controller for tests: starts members with stubborn families, says so, and waits to be killed."""

import sys
import time
from pathlib import Path

from alearn.launcher import Job, LocalLauncher

FAMILY = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = "import signal, time; signal.signal(15, 1); time.sleep(120)"
subprocess.Popen([sys.executable, "-S", "-c", child])
subprocess.Popen([sys.executable, "-S", "-c", child], start_new_session=True)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(120)
    os._exit(0)
os.wait()
print("up", flush=True)
time.sleep(120)
"""


def main(root: Path, slots: int) -> None:
    launcher = LocalLauncher(slots=slots, oversubscribe=True)
    for n in range(slots):
        launcher.submit(Job(f"m{n}", 1, (sys.executable, "-S", "-c", FAMILY), root / f"m{n}", {"FAMILY": str(root)}))
    while any("up" not in read(root / f"m{n}" / "stdout.log") for n in range(slots)):
        assert not launcher.poll()
        time.sleep(0.01)
    print("ready", flush=True)
    time.sleep(120)


def read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
