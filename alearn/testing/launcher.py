"""The conformance suite that every launcher passes: starts, ends, causes, and trees that are gone when they should be.

::

    class TestMyLauncher(LauncherConformance):
        def make_launcher(self, slots):
            return MyLauncher(slots=slots)

The members of the suite are small Python programs and write their process ids into their directory, so the launcher under
test must start them where this process can see /proc (the same machine, or virtual nodes on it).
"""

from __future__ import annotations

import os
import signal
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from alearn.errors import LaunchError
from alearn.launcher.base import Job, Launcher
from alearn.types import Exit, ExitCause

PATIENCE_S = 30.0

TREE = """
import os, signal, subprocess, sys, time
def note(pid): open("pids", "a").write(f"{pid}\\n")
note(os.getpid())
"""
STUBBORN = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
SLEEP = "time.sleep(120)\n"


def alive(pid: int) -> bool:
    """True if the process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] != b"Z"
    except (OSError, IndexError):
        return False


def eventually(true: Callable[[], Any], what: str, patience_s: float = PATIENCE_S) -> None:
    """Wait until something is true.

    Raises:
        AssertionError: it did not become so in time; says what was waited for.
    """
    until = time.monotonic() + patience_s
    while not true():
        if time.monotonic() > until:
            raise AssertionError(f"After {patience_s:g} s still waiting for {what}.")
        time.sleep(0.01)


def collect(launcher: Launcher, n: int, patience_s: float = PATIENCE_S) -> dict[str, Exit]:
    """The next ``n`` exits by member; fails if one comes twice or too few come."""
    exits: dict[str, Exit] = {}

    def enough() -> bool:
        for gone in launcher.poll():
            assert gone.member not in exits, f"The exit of {gone.member} was reported twice."
            exits[gone.member] = gone
        return len(exits) >= n

    eventually(enough, f"{n} exits, have {sorted(exits)}", patience_s)
    assert len(exits) == n
    return exits


class LauncherConformance:
    """Derive from this, give ``make_launcher``, and pytest does the rest."""

    def make_launcher(self, slots: int) -> Launcher:
        """The launcher under test, with this many slots (they may share cores)."""
        raise NotImplementedError

    @pytest.fixture
    def launcher(self) -> Iterator[Launcher]:
        launcher = self.make_launcher(4)
        yield launcher
        launcher.close()

    def python(self, directory: Path, member: str, code: str, **options: Any) -> Job:
        """A job that runs Python source."""
        return Job(member, 1, (sys.executable, "-S", "-c", textwrap.dedent(code)), directory / member, **options)

    def tree(self, launcher: Launcher, directory: Path, member: str, code: str, n: int, **options: Any) -> list[int]:
        """Start source that notes its processes, wait until there are ``n``, and return them."""
        launcher.submit(self.python(directory, member, TREE + textwrap.dedent(code), **options))
        file = directory / member / "pids"
        eventually(lambda: file.exists() and len(file.read_text().split()) >= n, f"{n} processes of {member}")
        return [int(pid) for pid in file.read_text().split()]

    def test_slots(self, launcher: Launcher) -> None:
        assert launcher.slots == 4

    def test_done(self, launcher: Launcher, tmp_path: Path) -> None:
        launcher.submit(self.python(tmp_path, "a", "print('said')"))
        gone = collect(launcher, 1)["a"]
        assert (gone.cause, gone.code, gone.signal, gone.attempt) == (ExitCause.DONE, 0, None, 1)
        assert gone.wall_s > 0
        assert gone.core_s > 0
        assert gone.max_rss > 2**20
        assert (tmp_path / "a" / "stdout.log").read_text() == "said\n"

    def test_directory_and_environment(self, launcher: Launcher, tmp_path: Path) -> None:
        code = "import os; print(os.getcwd(), os.environ['GIVEN'], os.environ['OMP_NUM_THREADS'])"
        launcher.submit(self.python(tmp_path, "a", code, env={"GIVEN": "a b $HOME"}))
        collect(launcher, 1)
        assert (tmp_path / "a" / "stdout.log").read_text() == f"{(tmp_path / 'a').resolve()} a b $HOME 1\n"

    def test_nothing_goes_through_a_shell(self, launcher: Launcher, tmp_path: Path) -> None:
        argv = (sys.executable, "-S", "-c", "import sys; print(sys.argv[1:])", "$(touch hacked); *", "é")
        launcher.submit(Job("a", 1, argv, tmp_path / "a"))
        collect(launcher, 1)
        assert (tmp_path / "a" / "stdout.log").read_text() == "['$(touch hacked); *', 'é']\n"

    @pytest.mark.parametrize(
        ("code", "cause", "expected"),
        [
            ("import sys; print('bad mesh', file=sys.stderr); sys.exit(3)", ExitCause.EXIT_CODE, {"code": 3, "detail": "bad mesh"}),
            ("raise ValueError('kappa is negative')", ExitCause.EXCEPTION, {"code": 1, "detail": "ValueError: kappa is negative"}),
            ("import os; os.kill(os.getpid(), 11)", ExitCause.SIGNAL, {"signal": signal.SIGSEGV, "detail": "SIGSEGV"}),
            ("import os; os.kill(os.getpid(), 9)", ExitCause.SIGNAL, {"signal": signal.SIGKILL, "detail": "SIGKILL"}),
            ("raise MemoryError", ExitCause.OUT_OF_MEMORY, {"detail": "MemoryError"}),
        ],
    )
    def test_causes(self, launcher: Launcher, tmp_path: Path, code: str, cause: ExitCause, expected: Mapping[str, Any]) -> None:
        launcher.submit(self.python(tmp_path, "a", code))
        gone = collect(launcher, 1)["a"]
        assert gone.cause is cause
        for name, value in expected.items():
            said = getattr(gone, name)
            assert value in said if name == "detail" else value == said

    def test_wall_time(self, launcher: Launcher, tmp_path: Path) -> None:
        pids = self.tree(launcher, tmp_path, "a", SLEEP, 1, wall_s=1.0)
        gone = collect(launcher, 1)["a"]
        assert gone.cause is ExitCause.WALL_TIME
        assert "1.0 s" in gone.detail
        assert gone.wall_s >= 1.0
        assert not any(map(alive, pids))

    def test_memory(self, launcher: Launcher, tmp_path: Path) -> None:
        """The limit is that of the tree: here it is a child that is too large."""
        hog = "[sys.executable, '-S', '-c', 'x = bytearray(150 << 20); import time; time.sleep(120)']"
        self.tree(launcher, tmp_path, "a", f"child = subprocess.Popen({hog}); note(child.pid); child.wait()", 2, memory_mb=80)
        gone = collect(launcher, 1)["a"]
        assert gone.cause is ExitCause.OUT_OF_MEMORY
        assert "80 MB" in gone.detail
        assert not any(alive(int(pid)) for pid in (tmp_path / "a" / "pids").read_text().split())

    def test_disk(self, launcher: Launcher, tmp_path: Path) -> None:
        """The limit is that of the attempt's directory."""
        code = "for n in range(60): (open(f'f{n}', 'wb').write(bytes(1 << 18)), time.sleep(0.02))\n" + SLEEP
        pids = self.tree(launcher, tmp_path, "a", code, 1, disk_mb=2.0)
        gone = collect(launcher, 1)["a"]
        assert gone.cause is ExitCause.DISK
        assert "of the allowed 2 MB" in gone.detail
        assert not any(map(alive, pids))

    def test_unknown_program(self, launcher: Launcher, tmp_path: Path) -> None:
        with pytest.raises(LaunchError, match="no-such-solver"):
            launcher.submit(Job("a", 1, ("no-such-solver",), tmp_path / "a"))
        with pytest.raises(LaunchError, match="no such file"):
            launcher.submit(Job("b", 1, (str(tmp_path / "nothing"),), tmp_path / "b"))
        launcher.submit(self.python(tmp_path, "c", "pass"))  # and nothing was lost by it
        assert set(collect(launcher, 1)) == {"c"}

    def test_cancel(self, launcher: Launcher, tmp_path: Path) -> None:
        """SIGTERM comes first, and a simulation that heeds it has its time."""
        code = """
        def bye(*_):
            print("bye", flush=True)
            sys.exit(0)
        signal.signal(signal.SIGTERM, bye)
        note(0)
        time.sleep(120)
        """
        pids = self.tree(launcher, tmp_path, "a", code, 2)
        launcher.cancel("a", 1, grace_s=20.0)
        gone = collect(launcher, 1)["a"]
        assert gone.cause is ExitCause.CANCELLED
        assert gone.wall_s < 15
        assert not alive(pids[0])
        assert (tmp_path / "a" / "stdout.log").read_text() == "bye\n"

    def test_cancel_of_one_that_ignores_it(self, launcher: Launcher, tmp_path: Path) -> None:
        pids = self.tree(launcher, tmp_path, "a", STUBBORN + SLEEP, 1)
        launcher.cancel("a", 1, grace_s=0.3)
        assert collect(launcher, 1)["a"].cause is ExitCause.CANCELLED
        assert not any(map(alive, pids))

    @pytest.mark.parametrize("how", ["child", "group", "session", "daemon", "clean environment", "stopped"])
    def test_cancel_of_a_tree(self, launcher: Launcher, tmp_path: Path, how: str) -> None:
        """Children that ignore SIGTERM, in a process group or a session of their own, reparented, or without our tag."""
        child = "import signal, os, time; signal.signal(15, 1); open('pids', 'a').write(f'{os.getpid()}\\n'); time.sleep(120)"
        options = {"group": ", process_group=0", "session": ", start_new_session=True", "clean environment": ", env={}"}.get(how, "")
        popen = f"subprocess.Popen([sys.executable, '-S', '-c', {child!r}]{options})"
        code = f"c = {popen}\n" + SLEEP
        if how == "daemon":
            code = f"if os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0: {popen}\n    os._exit(0)\n" + SLEEP
        pids = self.tree(launcher, tmp_path, "a", code, 2)
        if how == "stopped":
            os.kill(pids[1], signal.SIGSTOP)
        launcher.cancel("a", 1, grace_s=0.2)
        assert collect(launcher, 1)["a"].cause is ExitCause.CANCELLED
        assert not any(map(alive, pids))

    def test_what_a_finished_member_leaves_running_is_ended(self, launcher: Launcher, tmp_path: Path) -> None:
        child = "import signal, os, time; signal.signal(15, 1); open('pids', 'a').write(f'{os.getpid()}\\n'); time.sleep(120)"
        code = f"""
        subprocess.Popen([sys.executable, '-S', '-c', {child!r}], start_new_session=True)
        while len(open('pids').read().split()) < 2: time.sleep(0.01)
        os._exit(0)
        """
        pids = self.tree(launcher, tmp_path, "a", code, 2)
        gone = collect(launcher, 1)["a"]
        assert gone.cause is ExitCause.DONE
        assert "left running" in gone.detail
        assert not any(map(alive, pids))

    def test_fork_bomb(self, launcher: Launcher, tmp_path: Path) -> None:
        """Processes that keep forking, up to a bound, while they are killed."""
        code = STUBBORN + (
            "for _ in range(4):\n    os.fork()\n"
            "until = time.time() + 60\n"
            "note(os.getpid())\n"
            "while time.time() < until:\n    if os.fork() > 0: os._exit(0)\n    os.setsid()\n    time.sleep(0.02)\n"
        )
        self.tree(launcher, tmp_path, "a", code, 10, env={"FORKER": str(tmp_path)})
        launcher.cancel("a", 1, grace_s=0.1)
        assert collect(launcher, 1)["a"].cause in (ExitCause.CANCELLED, ExitCause.DONE)
        time.sleep(0.1)
        assert not with_variable("FORKER", str(tmp_path))

    def test_cancel_of_nothing(self, launcher: Launcher, tmp_path: Path) -> None:
        """A member that has just ended, or never was, is no error; and other attempts are not meant."""
        launcher.cancel("never", 1)
        launcher.submit(self.python(tmp_path, "a", "import time; time.sleep(0.5)"))
        launcher.cancel("a", 2)
        assert collect(launcher, 1)["a"].cause is ExitCause.DONE
        launcher.cancel("a", 1)
        assert not launcher.poll()

    def test_output_is_bounded(self, launcher: Launcher, tmp_path: Path) -> None:
        code = "print('FIRST')\nfor i in range(200_000): print(i, 'x' * 20)\nprint('LAST')"
        launcher.submit(self.python(tmp_path, "a", code, output_mb=0.25))
        assert collect(launcher, 1)["a"].cause is ExitCause.DONE
        text = (tmp_path / "a" / "stdout.log").read_text()
        assert len(text.encode()) < 0.25 * 2**20 + 200
        assert text.startswith("FIRST\n0 x")
        assert text.endswith("199999 xxxxxxxxxxxxxxxxxxxx\nLAST\n")
        assert "are not kept" in text

    def test_many_quick_members(self, tmp_path: Path) -> None:
        """Every exit is reported exactly once, and slots are free again after poll."""
        launcher = self.make_launcher(4)
        waiting = [f"q{n}" for n in range(60)]
        exits: dict[str, Exit] = {}
        active = 0
        until = time.monotonic() + 4 * PATIENCE_S
        while len(exits) < 60:
            assert time.monotonic() < until, f"only {len(exits)} of 60 ended"
            while waiting and active < 4:
                launcher.submit(Job(waiting[0], 1, ("true",), tmp_path / waiting.pop(0)))
                active += 1
            for gone in launcher.poll():
                assert gone.member not in exits
                exits[gone.member] = gone
                active -= 1
            time.sleep(0.001)
        assert {gone.cause for gone in exits.values()} == {ExitCause.DONE}
        assert not launcher.poll()
        launcher.close()

    def test_no_slot(self, tmp_path: Path) -> None:
        launcher = self.make_launcher(1)
        try:
            launcher.submit(self.python(tmp_path, "a", "import time; time.sleep(120)"))
            with pytest.raises(LaunchError, match="slot"):
                launcher.submit(self.python(tmp_path, "b", "pass"))
        finally:
            launcher.close()

    def test_attempts_follow_each_other(self, launcher: Launcher, tmp_path: Path) -> None:
        for attempt in (1, 2):
            launcher.submit(Job("a", attempt, ("true",), tmp_path / "a" / str(attempt)))
            assert collect(launcher, 1)["a"].attempt == attempt

    def test_close_leaves_nothing(self, tmp_path: Path) -> None:
        launcher = self.make_launcher(2)
        stubborn = "import signal, time; " + STUBBORN + SLEEP
        child = f"note(subprocess.Popen([sys.executable, '-S', '-c', {stubborn!r}]).pid)\n"
        pids = self.tree(launcher, tmp_path, "a", child + STUBBORN + SLEEP, 2)
        pids += self.tree(launcher, tmp_path, "b", SLEEP, 1)
        launcher.close(deadline_s=6.0)
        assert not any(map(alive, pids))
        assert {gone.member for gone in launcher.poll()} == {"a", "b"}
        launcher.close()  # twice is harmless
        with pytest.raises(LaunchError, match="closed"):
            launcher.submit(self.python(tmp_path, "c", "pass"))

    @pytest.mark.parametrize("member", ["../up", "a/b", "", ".hidden", "a\nb", "-rf"])
    def test_ids_that_are_no_names(self, launcher: Launcher, tmp_path: Path, member: str) -> None:
        with pytest.raises(LaunchError, match="plain name"):
            launcher.submit(Job(member, 1, ("true",), tmp_path / "a"))


def with_variable(name: str, value: str) -> list[int]:
    """Living processes that were started with an environment variable of this value."""
    found = []
    for entry in os.listdir("/proc"):
        try:
            if entry.isdigit() and f"{name}={value}\0".encode() in Path(f"/proc/{entry}/environ").read_bytes():
                found.append(int(entry))
        except OSError:
            continue
    return [pid for pid in found if alive(pid)]
