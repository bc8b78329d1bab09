"""A controller for tests: starts a streaming member and a stubborn one as batch jobs, and waits to be killed."""

import sys
import time
from pathlib import Path

from alearn.launcher import Job
from alearn.launcher.slurm import SlurmLauncher
from alearn.transport.base import Hello
from alearn.transport.socket import SocketReader
from alearn.types import Sample

STREAMER = """
import sys, time
from pathlib import Path
import alearn.client
stream = alearn.client.connect()
step = 0
while step < 400 and not Path("enough").exists():
    stream.put(t=0.05 * step, u=float(step))
    step += 1
    time.sleep(0.05)
stream.close()
print("sent", step)
"""
STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-S", "-c", "import signal, time; signal.signal(15, 1); time.sleep(120)"], start_new_session=True)
open("pids", "w").write(f"{child.pid}\\n")
time.sleep(120)
"""


def main(study: Path, port: int) -> None:
    reader = SocketReader(kind="tcp", port=port, key_file=str(study / "key"))
    launcher = SlurmLauncher(poll_s=0.05, queue_s=1.0)
    for member, code in (("m0000", STREAMER), ("m0001", STUBBORN)):
        env = {**reader.address(member, 1), "ALEARN_PARAMETERS": "{}"}
        launcher.submit(Job(member, 1, (sys.executable, "-c", code), study / "members" / member / "1", env))
    stored = 0
    pids = study / "members" / "m0001" / "1" / "pids"
    said = False
    while True:
        assert not launcher.poll()
        for message in reader.poll(0.05):
            if isinstance(message, Sample):
                stored = message.step + 1
            if isinstance(message, (Hello, Sample)):
                reader.acknowledge(message.member, message.attempt, stored)
        if not said and stored >= 5 and pids.exists() and pids.read_text().endswith("\n"):
            said = True
            print("ready", stored, flush=True)
        time.sleep(0.01)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
