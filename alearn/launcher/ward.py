"""The supervisor of a warm process: one that has imported the user's simulation and runs members one after another.

What the member supervisor promises holds for each member here too: its tree is the warm process and what that started, the
rest of a tree is ended before the exit is reported, and whatever goes wrong with a member ends the process as well, so that
a crash costs one member and nothing of it reaches the next.

The channel carries lines as for the member supervisor: ``job {...}`` and ``cancel SECONDS [WHY]`` come in, and
``{"exit": {...}, "idle": BOOL}`` goes out; ``idle`` says whether another job may follow.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from typing import Any

from alearn.launcher import proctree
from alearn.launcher.supervisor import (
    EVIDENCE,
    EXIT_FILE,
    GIVE_UP_S,
    MEMORY_POLL_S,
    ORPHAN_GRACE_S,
    SIGNALS,
    DiskWatch,
    Output,
    exit_of,
    judge,
    oom_kills,
    settle_in,
    write_record,
)

OOM_READ_S = 1.0
"""How old the kernel's count of out-of-memory kills may be when a member begins (reading it is slow)."""


class _Turn:
    """One member's time in the warm process."""

    def __init__(self, spec: dict[str, Any], stdout: int, stderr: int) -> None:
        self.spec = spec
        self.directory: str = spec["directory"]
        half = int(float(spec["output_mb"]) * 2**20 / 2)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(self.directory, EXIT_FILE))
        self.stdout = Output(os.path.join(self.directory, "stdout.log"), half, source=stdout)
        self.stderr = Output(os.path.join(self.directory, "stderr.log"), half, EVIDENCE, source=stderr)
        self.memory = float(spec["memory_mb"] or 0) * 2**20
        self.disk = DiskWatch(self.directory, spec["disk_mb"])
        self.grace = float(spec["grace_s"])
        self.begun = time.monotonic()
        self.wall_at = self.begun + float(spec["wall_s"]) if spec["wall_s"] is not None else None
        self.said: dict[str, Any] | None = None
        self.cause = ""
        self.detail = ""
        self.kill_at: float | None = None
        self.left_behind = 0


class Ward:
    """Watches one warm process and the members that it runs.

    Args:
        channel: the launcher's socket.
        controller: a pidfd of the controller's process.
        work: what the warm process does: takes its end of a stream socket, on which jobs arrive as lines, answers each that it
            survives by a line of JSON (``code``, ``core_s``, ``max_rss``, ``alone``: it has no children), and never returns.
    """

    def __init__(self, channel: int, controller: int | None, work: Callable[[socket.socket], None]) -> None:
        self.me = os.getpid()
        self.channel = channel
        self.controller = controller
        self.work = work
        self.worker = 0
        self.status: int | None = None
        self.gone = False
        self.over = False
        self.turn: _Turn | None = None
        self.heard = b""
        self.answer = b""
        self.accounted = 0.0
        self.oom_before, self.oom_read = oom_kills(), time.monotonic()
        self.brood: int | None = None

    def run(self) -> None:
        """Serve until the warm process has ended and its last member was reported."""
        proctree.become_subreaper()
        os.set_inheritable(self.channel, False)
        os.set_blocking(self.channel, False)
        wake, wake_in = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_in, warn_on_full_buffer=False)
        for number in SIGNALS:
            signal.signal(number, lambda *_: None)
        self.line = self._start()
        with contextlib.suppress(OSError):  # a kernel without CONFIG_PROC_CHILDREN
            self.brood = os.open(f"/proc/self/task/{self.me}/children", os.O_RDONLY | os.O_CLOEXEC)
        if not self._tell({"started": self.worker}):  # cancelled while the simulation was still being imported
            proctree.slay(self._tree, self._ours)
            return
        poller = select.poll()
        for handle in (wake, self.channel, self.line.fileno(), self.out, self.err, self.controller):
            if handle is not None and handle >= 0:
                poller.register(handle, select.POLLIN)
        while not self.gone:
            for handle, _ in poller.poll(self._patience()):
                if handle == wake:
                    if any(number != signal.SIGCHLD for number in os.read(wake, 512)):
                        self._end("preempted", "the supervisor was asked to end")
                elif handle == self.line.fileno():
                    if not self._answered():
                        poller.unregister(handle)
                elif handle == self.channel or handle == self.controller:
                    if handle == self.controller or not self._listen():
                        poller.unregister(handle)
                        self._end("cancelled", "the controller is gone", ORPHAN_GRACE_S)
                elif self.turn is not None and not (self.turn.stdout if handle == self.out else self.turn.stderr).drain():
                    poller.unregister(handle)
            self._reap()
            self._enforce()

    def _start(self) -> socket.socket:
        """Fork the warm process; returns our end of its line."""
        ours, theirs = socket.socketpair()
        self.out, out = os.pipe2(os.O_CLOEXEC)
        self.err, err = os.pipe2(os.O_CLOEXEC)
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        self.worker = os.fork()
        if self.worker == 0:
            try:
                signal.set_wakeup_fd(-1)
                settle_in(self.me, out, err)
                for handle in (self.channel, self.out, self.err, out, err):
                    os.close(handle)
                ours.close()
                self.work(theirs)
            finally:
                os._exit(70)  # work never returns, unless something is wrong with us
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        theirs.close()
        for handle in (out, err):
            os.close(handle)
        for handle in (self.out, self.err):
            os.set_blocking(handle, False)
        ours.settimeout(10.0)
        return ours

    # --- what is said ------------------------------------------------------------------------------------------------

    def _listen(self) -> bool:
        """Read the channel; False once it has ended."""
        try:
            data = os.read(self.channel, 1 << 16)
        except BlockingIOError:
            return True
        except OSError:
            return False
        *lines, self.heard = (self.heard + data).split(b"\n")
        for line in lines:
            word, _, rest = line.partition(b" ")
            if word == b"job":
                self._begin(rest)
            elif word == b"cancel" and self.turn is not None:
                seconds, _, why = rest.partition(b" ")
                self._end("cancelled", why.decode() or "cancelled by the controller", float(seconds))
        return bool(data)

    def _begin(self, job: bytes) -> None:
        spec = json.loads(job)
        now = time.monotonic()
        if now - self.oom_read > OOM_READ_S:
            self.oom_before, self.oom_read = oom_kills(), now
        try:
            os.sched_setaffinity(self.worker, spec["cpus"])
            self.line.sendall(job + b"\n")
        except OSError:  # it ended while it was idle; the next turn of the loop sees that
            pass
        self.turn = _Turn(spec, self.out, self.err)  # while the other begins

    def _answered(self) -> bool:
        """Read the warm process's line; False once it has ended."""
        try:
            data = self.line.recv(4096)
        except OSError:
            data = b""
        self.answer += data
        if self.answer.endswith(b"\n") and self.turn is not None:
            self.turn.said, self.answer = json.loads(self.answer), b""
        return bool(data)

    # --- how a member ends -------------------------------------------------------------------------------------------

    def _end(self, cause: str, detail: str, grace: float | None = None) -> None:
        """Begin to end the tree, the warm process included, for a reason; a later reason can only shorten the grace."""
        now = time.monotonic()
        self.over = True
        if self.turn is None:
            proctree.slay(self._tree, self._ours)
            return
        until = now + (self.turn.grace if grace is None else grace)
        if self.turn.kill_at is None:
            if self.turn.said is None and self.status is None:
                self.turn.cause, self.turn.detail = cause, detail
            proctree.terminate(self._tree, self._ours)
        self.turn.kill_at = until if self.turn.kill_at is None else min(self.turn.kill_at, until)

    def _tree(self) -> list[int]:
        return proctree.descendants(self.me)

    def _strays(self) -> list[int]:
        """What the member started and is still there."""
        alone = self.turn is not None and self.turn.said is not None and self.turn.said["alone"]
        if alone and self.brood is not None and os.pread(self.brood, 64, 0) == b"%d " % self.worker:  # nor did any come up to us
            return []
        return [pid for pid in self._tree() if pid != self.worker]

    def _ours(self, pid: int) -> bool:
        return proctree.descends(pid, self.me)

    def _reap(self) -> None:
        while not self.gone:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                self.gone = True
                break
            if pid == 0:
                return
            if pid == self.worker:
                self.status, self.over = status, True
        if self.turn is not None:
            self._report(idle=False)

    def _patience(self) -> float | None:
        """Milliseconds until something has to be looked at again; None if nothing has."""
        turn, now = self.turn, time.monotonic()
        if turn is None:
            return 50.0 if self.over else None
        if turn.kill_at is not None:
            return max(2.0, 1000 * min(turn.kill_at - now, 1.0)) if now < turn.kill_at else 5.0
        until = [now + 1.0]
        until += [now + MEMORY_POLL_S] if turn.memory else []
        until += [turn.disk.due] if turn.disk.limit else []
        until += [turn.wall_at] if turn.wall_at is not None else []
        return max(0.0, min(until) - now) * 1000

    def _enforce(self) -> None:
        """Apply the limits and the grace, and report a member that is over."""
        turn, now = self.turn, time.monotonic()
        if turn is None:
            if self.over and not self.gone:
                proctree.slay(self._tree, self._ours)
            return
        if turn.said is not None and not self.over:
            strays = self._strays()
            if not strays:
                self._report(idle=True)
                return
            if turn.kill_at is None:
                turn.left_behind = len(strays)
                proctree.terminate(self._strays, self._ours)
                turn.kill_at = now + ORPHAN_GRACE_S
            elif now >= turn.kill_at:
                proctree.slay(self._strays, self._ours)
        elif self.status is not None and turn.kill_at is None:
            turn.left_behind = len(self._tree())
            self._end("", "", ORPHAN_GRACE_S)
        elif turn.kill_at is None:
            if turn.wall_at is not None and now >= turn.wall_at:
                self._end("wall time", f"the wall-time limit of {turn.spec['wall_s']} s is reached")
            elif turn.memory and (used := proctree.resident(self._tree())) > turn.memory:
                self._end("out of memory", f"the tree uses {used >> 20} MB of the allowed {int(turn.memory) >> 20} MB", 0.0)
            elif full := turn.disk.exceeded(now):
                self._end("disk", full, 0.0)
        if self.over and self.turn is not None and turn.kill_at is not None and (now >= turn.kill_at or turn.said is not None):
            proctree.slay(self._tree, self._ours)
            self._reap()
            if self.turn is not None and now >= turn.kill_at + GIVE_UP_S:
                turn.detail = f"{turn.detail}; the processes {self._tree()[:5]} cannot be killed".lstrip("; ")
                self._report(idle=False)
                self.gone = True

    def _report(self, idle: bool) -> None:
        """Write down how the member ended, and tell."""
        turn = self.turn
        assert turn is not None
        self.turn = None
        turn.stdout.close()
        turn.stderr.close()
        said = turn.said or {}
        status = int(said["code"]) << 8 if said else self.status
        cause, code, number, detail = judge(status, turn.stderr.end, self.oom_before)
        if turn.cause:
            cause, (code, number), detail = turn.cause, exit_of(status), turn.detail
        elif cause == "done" and turn.left_behind:
            detail = f"{turn.left_behind} process(es) it left running were ended"
        if not said:
            spent, max_rss = proctree.usage()
            said = {"core_s": max(0.0, spent - self.accounted), "max_rss": max_rss}
        self.accounted += said["core_s"]
        record = {
            "member": turn.spec["member"],
            "attempt": turn.spec["attempt"],
            "cause": cause,
            "code": code,
            "signal": number,
            "detail": detail,
            "wall_s": round(time.monotonic() - turn.begun, 4),
            "core_s": round(said["core_s"], 4),
            "max_rss": said["max_rss"],
            "ended_at": time.time(),
        }
        if cause != "done":  # of what went well the launcher is told, and making a file takes as long as all the rest
            write_record(turn.directory, record)
        self._tell({"exit": record, "idle": idle})

    def _tell(self, fact: dict[str, Any]) -> bool:
        """Say something to the launcher; False if nobody is left to hear it (an exit record is on disk)."""
        said = json.dumps(fact).encode() + b"\n"
        try:
            with contextlib.suppress(BlockingIOError):
                said = said[os.write(self.channel, said) :]
            if said:  # the launcher is behind
                os.set_blocking(self.channel, True)
                os.write(self.channel, said)
                os.set_blocking(self.channel, False)
        except OSError:
            return False
        return True
