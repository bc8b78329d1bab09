"""The member supervisor: one small process that starts a simulation, bounds it, and ends its whole tree for certain.

Standard library only, no import of alearn: ``python -S -E -s supervisor.py SPEC.json`` (or ``-`` for stdin) runs one
member; ``nurse.py`` beside it forks one supervisor for every specification it receives, so that thousands of members do
not pay for thousands of interpreters. Launchers only decide where this file runs.

How nothing escapes: the supervisor is a child subreaper, so whatever daemonises below it becomes its child again, and
``waitpid`` answering "no child" is the kernel's word that the tree is gone. Until then descendants are found by walking
/proc and by the tag in their environment, stopped first (a stopped process cannot fork) and then killed.

The channel (a socket, or a pipe each way) is the life line: its end of file means that the controller is dead. Into it
the controller writes ``cancel SECONDS [WHY]``; out of it come JSON lines, ``{"started": PID}`` and ``{"exit": {...}}``.
"""

# ruff: noqa: SIM105 - contextlib costs a millisecond that every start would pay

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

if TYPE_CHECKING or __package__:
    from alearn.launcher import proctree
else:  # behind the standard library, so that no neighbour of this file can stand in for one of its modules
    sys.path.append(os.path.dirname(os.path.abspath(__file__)))
    import proctree

TAG = "ALEARN_TAG"
EXIT_FILE = "exit.json"
SIGNALS = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
CHUNK = 1 << 16
EVIDENCE = 1 << 14
"""Bytes of the end of stderr that are kept in memory, to say why the simulation ended."""
ORPHAN_GRACE_S = 0.3
"""Grace for a tree whose controller is dead, and for what a finished simulation left running."""
MEMORY_POLL_S = 0.025
DISK_POLL_S = 0.25
GIVE_UP_S = 15.0
TOGETHER_S = 0.3
"""How long to go on killing a tree that does not die (a process inside a hung kernel call) before saying so."""


# --- what a simulation prints -----------------------------------------------------------------------------------------


class Output:
    """A log of bounded size: its first half and its latest half are kept.

    Args:
        path: the file.
        limit: bytes.
        keep: bytes of the end that are kept in memory too.
        source: the reading end of a pipe that outlives this log; None makes one of its own, whose writing end is ``sink``.
            It does not block. With a pipe that lasts, the file is made only when something comes: making files is what a quick member would
            spend most of its time on.
    """

    def __init__(self, path: str, limit: int, keep: int = 0, source: int | None = None) -> None:
        self.path = path
        self.head = self.ring = max(limit // 2, 1)
        self.keep = keep
        self.total = 0
        self.end = b""
        self.lasting = source is not None
        self.file = -1
        if not self.lasting:
            self._make()
        self.source, self.sink = (source, -1) if source is not None else os.pipe()
        if not self.lasting:
            os.set_blocking(self.source, False)

    def drain(self, most: int = 16 * CHUNK) -> bool:
        """Take what has arrived, at most about ``most`` bytes; False at the end of the stream."""
        while most > 0:
            try:
                data = os.read(self.source, CHUNK)
            except BlockingIOError:
                return True
            if not data:
                return False
            most -= len(data)
            self._write(data)
        return True

    def _make(self) -> None:
        self.file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)

    def _write(self, data: bytes) -> None:
        if self.file < 0:
            self._make()
        if self.keep:
            self.end = (self.end + data)[-self.keep :]
        while data:
            if self.total < self.head:
                at, room = self.total, self.head - self.total
            else:
                turn = (self.total - self.head) % self.ring
                at, room = self.head + turn, self.ring - turn
            piece, data = data[:room], data[room:]
            try:
                os.pwrite(self.file, piece, at)
            except OSError:  # a full disk must not end the simulation
                pass
            self.total += len(piece)

    def close(self) -> None:
        """Take the rest and leave a file that reads from top to bottom, with a line where something is missing."""
        self.drain(1 << 30)
        if not self.lasting:
            os.close(self.source)
        missing = self.total - self.head - self.ring
        if missing > 0:
            turn = (self.total - self.head) % self.ring
            spare = self.path + ".part"
            with open(spare, "wb") as out:
                self._copy(out, 0, self.head)
                out.write(f"\n… {missing} bytes are not kept …\n".encode())
                self._copy(out, self.head + turn, self.head + self.ring)
                self._copy(out, self.head, self.head + turn)
            os.replace(spare, self.path)
        if self.file >= 0:
            os.close(self.file)

    def _copy(self, out: Any, start: int, stop: int) -> None:
        while start < stop:
            data = os.pread(self.file, min(CHUNK, stop - start), start)
            if not data:
                return
            out.write(data)
            start += len(data)


def last_words(stderr: bytes) -> tuple[bool, str]:
    """Whether stderr ends in a Python exception, and the line that says why the simulation ended."""
    lines = [line.rstrip() for line in stderr.decode("utf-8", "replace").splitlines() if line.strip()]
    for at in range(len(lines) - 1, -1, -1):
        if lines[at].startswith("Traceback (most recent call last)"):
            said = [line for line in lines[at + 1 :] if not line.startswith(" ")]
            return (True, said[0][:500]) if said else (True, lines[-1].strip()[:500])
    return False, lines[-1].strip()[:500] if lines else ""


def oom_kills() -> int:
    """How often this machine's kernel killed for want of memory, so far."""
    try:
        with open("/proc/vmstat", "rb") as file:
            for line in file:
                if line.startswith(b"oom_kill "):
                    return int(line.split()[1])
    except (OSError, ValueError):
        pass
    return 0


# --- one member -------------------------------------------------------------------------------------------------------


def settle_in(supervisor_pid: int, stdout: int, stderr: int) -> None:
    """What a simulation's process does first after the fork: a session of its own, default signals, its own output."""
    os.setsid()
    proctree.die_with_parent(supervisor_pid)
    for number in (signal.SIGPIPE, signal.SIGXFSZ, *SIGNALS):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    nothing = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    for handle, target in ((nothing, 0), (stdout, 1), (stderr, 2)):
        os.dup2(handle, target)
    try:  # if memory runs out, the kernel shall take the simulation and not its supervisor or controller
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("500")
    except OSError:
        pass


def judge(status: int | None, stderr: bytes, oom_before: int) -> tuple[str, int | None, int | None, str]:
    """Why a simulation that ended by itself did so.

    Args:
        status: as ``waitpid`` gave it.
        stderr: the end of what it said.
        oom_before: ``oom_kills`` when it began.

    Returns:
        The cause, the exit code, the signal and one line for people.
    """
    code, number = exit_of(status)
    if code == 0:
        return "done", code, None, ""
    traceback, words = last_words(stderr)
    if number is not None:
        name = signal.Signals(number).name if number in set(signal.Signals) else str(number)
        if number == signal.SIGKILL and oom_kills() > oom_before:
            return "out of memory", None, number, "killed by the kernel, which ran out of memory"
        if b"std::bad_alloc" in stderr:
            return "out of memory", None, number, words
        return "signal", None, number, f"ended by {name}" + (f": {words}" if words else "")
    if traceback:
        memory = words.partition(":")[0].endswith("MemoryError")
        return "out of memory" if memory else "exception", code, None, words
    return "exit code", code, None, f"exit code {code}" + (f": {words}" if words else "")


def exit_of(status: int | None) -> tuple[int | None, int | None]:
    """The exit code and the signal in a status of ``waitpid``."""
    if status is None:
        return None, None
    return (None, os.WTERMSIG(status)) if os.WIFSIGNALED(status) else (os.WEXITSTATUS(status), None)


def write_record(directory: str, record: dict[str, Any]) -> None:
    """Write how a member ended into its directory, whole or not at all; what fails is said in the record's detail."""
    path = os.path.join(directory, EXIT_FILE)
    try:
        part = os.open(path + ".part", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            os.write(part, json.dumps(record).encode())
        finally:
            os.close(part)
        os.replace(path + ".part", path)
    except OSError as error:
        record["detail"] = f"{record['detail']}; the exit record cannot be written: {error}".lstrip("; ")


class DiskWatch:
    """How much a directory holds, looked at seldom enough that looking costs at most a twentieth of a core.

    Args:
        directory: the directory.
        limit_mb: the limit, MiB; None or 0 is no limit.
    """

    def __init__(self, directory: str, limit_mb: float | None) -> None:
        self.directory = directory
        self.limit = float(limit_mb or 0) * 2**20
        self.due = 0.0

    def exceeded(self, now: float) -> str:
        """One line for people if the limit is exceeded, else nothing."""
        if not self.limit or now < self.due:
            return ""
        used = disk_used(self.directory)
        self.due = now + max(DISK_POLL_S, 20 * (time.monotonic() - now))
        if used <= self.limit:
            return ""
        return f"its directory holds {used / 2**20:.1f} MB of the allowed {self.limit / 2**20:g} MB"


def disk_used(directory: str) -> int:
    """Bytes that the files below a directory take on disk; a file with two names counts once, links are not followed."""
    total = 0
    seen: set[tuple[int, int]] = set()
    todo = [directory]
    while todo:
        try:
            entries = list(os.scandir(todo.pop()))
        except OSError:  # gone meanwhile
            continue
        for entry in entries:
            try:
                if entry.is_dir(follow_symlinks=False):
                    todo.append(entry.path)
                    continue
                facts = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            if facts.st_nlink > 1:
                if (facts.st_dev, facts.st_ino) in seen:
                    continue
                seen.add((facts.st_dev, facts.st_ino))
            total += facts.st_blocks * 512
    return total


class Supervisor:
    """Runs one member from a specification.

    The specification's keys: member, attempt, argv, directory, tag; and, all optional: environ (the whole environment;
    default: the supervisor's own), env (added to it), cpus (a list), memory_mb, disk_mb, wall_s, output_mb, grace_s, channel
    and report (file descriptors; report defaults to channel), controller (a process id whose end ends the member).

    Args:
        spec: the specification.
        controller: a pidfd of the controller's process, instead of ``spec["controller"]``.
    """

    def __init__(self, spec: dict[str, Any], controller: int | None = None) -> None:
        self.spec = spec
        self.me = os.getpid()
        self.mark = f"{TAG}={spec['tag']}\0".encode()
        self.grace = float(spec.get("grace_s", 2.0))
        self.memory = float(spec["memory_mb"]) * 2**20 if spec.get("memory_mb") else 0.0
        self.disk = DiskWatch(spec["directory"], spec.get("disk_mb"))
        self.channel: int | None = spec.get("channel")
        self.report_to: int | None = spec.get("report", self.channel)
        for handle in (self.channel, self.report_to):
            if handle is not None:
                os.set_inheritable(handle, False)
        if self.channel is not None:
            os.set_blocking(self.channel, False)
        self.controller = controller if controller is not None else proctree.watch(spec.get("controller"))
        self.main = 0
        self.status: int | None = None
        self.gone = False
        self.cause = ""
        self.detail = ""
        self.kill_at: float | None = None
        self.left_behind = 0
        self.heard = b""

    def run(self) -> dict[str, Any]:
        """Start the member, wait until its whole tree is gone, and write down how it ended."""
        proctree.become_subreaper()
        os.makedirs(self.spec["directory"], exist_ok=True)
        try:
            os.unlink(os.path.join(self.spec["directory"], EXIT_FILE))
        except FileNotFoundError:
            pass
        half = int(float(self.spec.get("output_mb", 16.0)) * 2**20 / 2)
        self.stdout = Output(os.path.join(self.spec["directory"], "stdout.log"), half)
        self.stderr = Output(os.path.join(self.spec["directory"], "stderr.log"), half, EVIDENCE)
        wake, wake_in = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_in, warn_on_full_buffer=False)
        for number in SIGNALS:
            signal.signal(number, lambda *_: None)
        self.oom_before = oom_kills()
        self.begun = time.monotonic()
        exec_error = self._start()
        poller = select.poll()
        for handle in (wake, exec_error, self.stdout.source, self.stderr.source, self.channel, self.controller):
            if handle is not None and handle >= 0:
                poller.register(handle, select.POLLIN)
        if self.controller == -1:
            self._end("cancelled", "the controller is gone", ORPHAN_GRACE_S)
        while True:
            for handle, _ in poller.poll(self._patience()):
                if handle == wake:
                    if any(number != signal.SIGCHLD for number in os.read(wake, 512)):
                        self._end("preempted", "the supervisor was asked to end", self.grace)
                elif handle == exec_error:
                    self._started(os.read(exec_error, 4096))
                    poller.unregister(exec_error)
                    os.close(exec_error)
                elif handle == self.channel:
                    if not self._listen():
                        poller.unregister(handle)
                elif handle == self.controller:
                    poller.unregister(handle)
                    self._end("cancelled", "the controller is gone", ORPHAN_GRACE_S)
                else:
                    output = self.stdout if handle == self.stdout.source else self.stderr
                    if not output.drain():
                        poller.unregister(handle)
            self._reap()
            if self.gone or self._enforce():
                break
        self._hear_together(wake)
        signal.set_wakeup_fd(-1)
        self.stdout.close()
        self.stderr.close()
        return self._record()

    def _start(self) -> int:
        """Fork and exec the simulation; return the pipe on which a failing exec speaks."""
        heard, say = os.pipe2(os.O_CLOEXEC)
        # A signal that comes before the child has put its handlers off must wait, or it would be lost.
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        self.main = os.fork()
        if self.main:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            for handle in (say, self.stdout.sink, self.stderr.sink):
                os.close(handle)
            return heard
        try:
            settle_in(self.me, self.stdout.sink, self.stderr.sink)
            if self.spec.get("cpus"):
                os.sched_setaffinity(0, self.spec["cpus"])
            os.chdir(self.spec["directory"])
            base = self.spec.get("environ")
            environ = dict(os.environ if base is None else base)
            environ.update(self.spec.get("env") or {})
            environ[TAG] = self.spec["tag"]
            os.execvpe(self.spec["argv"][0], self.spec["argv"], environ)
        except BaseException as error:
            os.write(say, str(error).encode())
        finally:
            os._exit(127)

    def _started(self, trouble: bytes) -> None:
        if trouble:
            self._end("exit code", f"{self.spec['argv'][0]} cannot be started: {trouble.decode()}", 0.0)
        else:
            self._report({"started": self.main})

    def _listen(self) -> bool:
        """Read the channel; False once it has ended."""
        assert self.channel is not None
        try:
            data = os.read(self.channel, 4096)
        except BlockingIOError:
            return True
        except OSError:
            data = b""
        if not data:
            self._end("cancelled", "the controller is gone", ORPHAN_GRACE_S)
            return False
        *lines, self.heard = (self.heard + data).split(b"\n")
        for line in lines:
            word, seconds, why = (*line.split(b" ", 2), b"", b"")[:3]
            if word == b"cancel":
                self._end("cancelled", why.decode() or "cancelled by the controller", float(seconds or self.grace))
        return True

    def _end(self, cause: str, detail: str, grace: float) -> None:
        """Begin to end the tree for a reason; a later reason can only shorten the grace."""
        now = time.monotonic()
        if self.kill_at is None:
            if self.status is None:
                self.cause, self.detail = cause, detail
            proctree.terminate(self._tree, self._ours)
            self.kill_at = now + grace
        else:
            self.kill_at = min(self.kill_at, now + grace)

    def _hear_together(self, wake: int) -> None:
        """A scheduler that ends a job signals all of it: when one from elsewhere ended the simulation, does it come here too?"""
        ended = not self.cause and self.status is not None and os.WIFSIGNALED(self.status) and os.WTERMSIG(self.status) == signal.SIGTERM
        until = time.monotonic() + TOGETHER_S
        while ended and select.select([wake], [], [], max(0.0, until - time.monotonic()))[0]:
            if any(number != signal.SIGCHLD for number in os.read(wake, 512)):
                self.cause, self.detail = "preempted", "the supervisor was asked to end"
                return

    def _tree(self) -> list[int]:
        return proctree.descendants(self.me)

    def _marked(self) -> list[int]:
        """The tree, and whatever else carries the tag."""
        tree = self._tree()
        known = {*tree, self.me}
        return tree + [pid for pid in proctree.processes() if pid not in known and proctree.carries(pid, [self.mark])]

    def _ours(self, pid: int) -> bool:
        return proctree.descends(pid, self.me) or (pid != self.me and proctree.carries(pid, [self.mark]))

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                self.gone = True
                return
            if pid == 0:
                return
            if pid == self.main:
                self.status = status

    def _patience(self) -> float:
        """Milliseconds until something has to be looked at again."""
        now = time.monotonic()
        until = [now + 1.0]
        if self.kill_at is not None:
            until.append(max(self.kill_at, now + 0.002))
        elif self.memory:
            until.append(now + MEMORY_POLL_S)
        elif self.disk.limit:
            until.append(self.disk.due)
        if self.spec.get("wall_s") is not None and self.kill_at is None:
            until.append(self.begun + float(self.spec["wall_s"]))
        return max(0.0, min(until) - now) * 1000

    def _enforce(self) -> bool:
        """Apply the limits and the grace; True if the tree cannot be ended and is given up."""
        now = time.monotonic()
        if self.kill_at is None:
            if self.status is not None:
                self.left_behind = len(self._tree())
                self._end("", "", ORPHAN_GRACE_S)
            elif self.spec.get("wall_s") is not None and now >= self.begun + float(self.spec["wall_s"]):
                self._end("wall time", f"the wall-time limit of {self.spec['wall_s']} s is reached", self.grace)
            elif self.memory and (used := proctree.resident(self._tree())) > self.memory:
                self._end("out of memory", f"the tree uses {used >> 20} MB of the allowed {int(self.memory) >> 20} MB", 0.0)
            elif full := self.disk.exceeded(now):
                self._end("disk", full, 0.0)
        if self.kill_at is not None and now >= self.kill_at:
            proctree.slay(self._marked, self._ours)
            self._reap()
            return not self.gone and now >= self.kill_at + GIVE_UP_S
        return False

    def _record(self) -> dict[str, Any]:
        cause, code, number, detail = judge(self.status, self.stderr.end, self.oom_before)
        if self.cause:
            cause, (code, number), detail = self.cause, exit_of(self.status), self.detail
        elif cause == "done" and self.left_behind:
            detail = f"{self.left_behind} process(es) it left running were ended"
        core_s, max_rss = proctree.usage()
        survivors = [] if self.gone else self._marked()
        if survivors:
            detail = f"{detail}; the processes {survivors[:5]} cannot be killed".lstrip("; ")
        record = {
            "member": self.spec["member"],
            "attempt": self.spec["attempt"],
            "cause": cause,
            "code": code,
            "signal": number,
            "detail": detail,
            "wall_s": round(time.monotonic() - self.begun, 4),
            "core_s": round(core_s, 4),
            "max_rss": max_rss,
            "ended_at": time.time(),
        }
        write_record(self.spec["directory"], record)
        self._report({"exit": record})
        return record

    def _report(self, fact: dict[str, Any]) -> None:
        if self.report_to is not None:
            os.set_blocking(self.report_to, True)
            try:
                os.write(self.report_to, json.dumps(fact).encode() + b"\n")
            except OSError:  # nobody is left to hear it; the exit record is on disk
                pass
            os.set_blocking(self.report_to, False)


def main(arguments: list[str]) -> int:
    """Run from the command line: a specification's file, or ``-`` for stdin.

    Returns:
        The member's exit code, or 128 plus the signal that ended it.
    """
    if len(arguments) != 1:
        print("usage: supervisor.py SPEC.json | -", file=sys.stderr)
        return 2
    if arguments[0] == "-":
        spec = json.loads(sys.stdin.read())
    else:
        with open(arguments[0], encoding="utf-8") as file:
            spec = json.load(file)
    record = Supervisor(spec).run()
    return int(record["code"] if record["code"] is not None else 128 + (record["signal"] or 0))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
