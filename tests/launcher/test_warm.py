"""Warm processes: the whole conformance suite with members as Python functions, and what is theirs alone."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from alearn.errors import ConfigError
from alearn.launcher import Job, LocalLauncher, past_exit
from alearn.launcher.proctree import children, descendants, parent
from alearn.simulation import PythonSimulation
from alearn.testing.launcher import LauncherConformance, alive, collect, eventually
from alearn.types import ExitCause

RUN = "def run(code):\n    exec(code, {'__name__': 'member'})\n    return {'y': 1.0}\n"


def warm_job(directory, member, code, attempt=1, **options):
    """Source that runs inside the warm process."""
    file = directory / "warm_simulation.py"
    if not file.exists():
        file.write_text(RUN)
    command = PythonSimulation(f"{file}:run").command({"code": textwrap.dedent(code)})
    env = {**command.env, **options.pop("env", {})}
    return Job(member, attempt, command.argv, directory / member, env, warm=command.warm, **options)


class TestWarmLauncher(LauncherConformance):
    reuse = 1

    def make_launcher(self, slots):
        return LocalLauncher(slots=slots, oversubscribe=True, warm=True, reuse=self.reuse)

    def python(self, directory, member, code, **options):
        return warm_job(directory, member, code, **options)


class TestReusedLauncher(TestWarmLauncher):
    reuse = 100


@pytest.fixture(params=[1, 50])
def launcher(request):
    with LocalLauncher(slots=2, oversubscribe=True, grace_s=0.5, warm=True, reuse=request.param) as launcher:
        launcher.reuse = request.param
        yield launcher


def said(directory, member):
    return (directory / member / "stdout.log").read_text().strip()


def test_a_process_runs_as_many_members_as_reuse_says(launcher, tmp_path):
    pids = []
    for n in range(4):
        launcher.submit(warm_job(tmp_path, f"m{n}", "import os; print(os.getpid())"))
        assert collect(launcher, 1)[f"m{n}"].cause is ExitCause.DONE
        pids.append(said(tmp_path, f"m{n}"))
    assert len(set(pids)) == (4 if launcher.reuse == 1 else 1)


def test_the_function_is_imported_once(launcher, tmp_path):
    (tmp_path / "warm_simulation.py").write_text(f"open({str(tmp_path / 'imports')!r}, 'a').write('x')\n" + RUN)
    for n in range(3):
        launcher.submit(warm_job(tmp_path, f"m{n}", "pass"))
        collect(launcher, 1)
    assert (tmp_path / "imports").read_text() == "x"


def test_what_members_are_told_does_not_stay(launcher, tmp_path):
    launcher.submit(warm_job(tmp_path, "a", "import os; os.environ['LEFT'] = '1'; print(os.environ['GIVEN'])", env={"GIVEN": "x"}))
    collect(launcher, 1)
    launcher.submit(warm_job(tmp_path, "b", "import os; print(os.environ.get('LEFT'), os.environ.get('GIVEN'), os.getcwd())"))
    collect(launcher, 1)
    assert said(tmp_path, "a") == "x"
    assert said(tmp_path, "b") == f"None None {tmp_path / 'b'}"


def test_a_crash_costs_one_member(launcher, tmp_path):
    endings = [
        ("pass", "done"),
        ("import os; os.abort()", "signal"),
        ("pass", "done"),
        ("raise KeyError(1)", "exception"),
        ("pass", "done"),
    ]
    for n, (code, cause) in enumerate(endings):
        launcher.submit(warm_job(tmp_path, f"m{n}", code))
        assert collect(launcher, 1)[f"m{n}"].cause == cause


def test_threads_and_exit_functions_end_with_their_member(launcher, tmp_path):
    code = """
    import atexit, threading, time
    atexit.register(lambda: print("at exit", flush=True))
    threading.Thread(target=lambda: (time.sleep(0.2), print("thread", flush=True))).start()
    """
    launcher.submit(warm_job(tmp_path, "a", code))
    assert collect(launcher, 1)["a"].cause is ExitCause.DONE
    assert said(tmp_path, "a").split("\n") == ["thread", "at exit"]


def test_core_seconds_are_the_members_own(launcher, tmp_path):
    burn = "import time; until = time.process_time() + 0.3\nwhile time.process_time() < until: pass"
    launcher.submit(warm_job(tmp_path, "a", burn))
    first = collect(launcher, 1)["a"]
    launcher.submit(warm_job(tmp_path, "b", "import os; os._exit(0)"))
    second = collect(launcher, 1)["b"]
    assert first.core_s >= 0.3
    assert 0 <= second.core_s < 0.2


def test_members_have_random_numbers_of_their_own(tmp_path):
    (tmp_path / "warm_simulation.py").write_text("import numpy\n" + RUN)
    with LocalLauncher(slots=2, oversubscribe=True, warm=True) as launcher:
        for n in range(2):
            launcher.submit(warm_job(tmp_path, f"m{n}", "import numpy; print(numpy.random.random())"))
        collect(launcher, 2)
    assert said(tmp_path, "m0") != said(tmp_path, "m1")


def test_a_function_that_cannot_be_imported_says_so_in_each_member(launcher, tmp_path):
    (tmp_path / "warm_simulation.py").write_text("import no_such_library\n")
    for member in ("a", "b"):
        launcher.submit(warm_job(tmp_path, member, "pass"))
        gone = collect(launcher, 1)[member]
        assert gone.cause is ExitCause.EXCEPTION
        assert "no_such_library" in gone.detail


def test_kill_nine_of_a_ward_ends_its_member_only(launcher, tmp_path):
    for member in ("a", "b"):
        launcher.submit(warm_job(tmp_path, member, "import time; time.sleep(120)"))
    eventually(lambda: len(launcher.pids()) == 2, "both to begin")
    pids = launcher.pids()
    ward = parent(pids["a", 1])
    os.kill(ward, signal.SIGKILL)
    gone = collect(launcher, 1)["a"]
    assert gone.cause is ExitCause.NODE_LOST
    eventually(lambda: not alive(pids["a", 1]), "the warm process to be gone")
    assert alive(pids["b", 1])


def test_nothing_is_left_when_the_launcher_is_closed(tmp_path):
    before = set(children(os.getpid()))
    launcher = LocalLauncher(slots=1, warm=True, reuse=10)
    launcher.submit(warm_job(tmp_path, "a", "pass"))
    collect(launcher, 1)
    nurses = set(children(os.getpid())) - before
    family = [pid for nurse in nurses for pid in (nurse, *children(nurse))]
    assert len(family) >= 2
    launcher.close()
    eventually(lambda: not any(map(alive, family)), "the warm processes to be gone")


def test_auto_waits_until_members_turn_out_short(tmp_path):
    with LocalLauncher(slots=1, warm="auto") as launcher:
        parents = []
        for n in range(5):
            launcher.submit(warm_job(tmp_path, f"m{n}", "import sys; print('alearn.launcher.warm' in sys.orig_argv)"))
            collect(launcher, 1)
            parents.append(said(tmp_path, f"m{n}"))
    assert parents == ["False"] * 3 + ["True"] * 2


def test_programs_stay_cold(tmp_path):
    with LocalLauncher(slots=1, warm=True) as launcher:
        launcher.submit(Job("a", 1, (sys.executable, "-S", "-c", "import sys; print('alearn' in sys.modules)"), tmp_path / "a"))
        collect(launcher, 1)
    assert said(tmp_path, "a") == "False"


@pytest.mark.parametrize(
    "options", [{"warm": "yes"}, {"warm": True, "reuse": 0}, {"disk_mb": -1}, {"memory_mb": 0}, {"wall_s": float("nan")}]
)
def test_bad_options(options):
    with pytest.raises(ConfigError, match=r"launcher\."):
        LocalLauncher(slots=1, **options)


def test_the_disk_limit_holds_for_a_warm_member(launcher, tmp_path):
    code = "import time\nfor n in range(1000):\n    open(f'f{n}', 'wb').write(b'x' * 100_000)\n    time.sleep(0.01)"
    launcher.submit(warm_job(tmp_path, "a", code, disk_mb=2))
    gone = collect(launcher, 1)["a"]
    assert gone.cause is ExitCause.DISK
    assert "of the allowed 2 MB" in gone.detail
    assert not Path(tmp_path / "a" / "f999").exists()


def test_kill_nine_of_the_controller_ends_warm_processes(tmp_path):
    (tmp_path / "warm_simulation.py").write_text(RUN)
    code = f"""
import time
from pathlib import Path
from alearn.launcher import Job, LocalLauncher, past_exit
from alearn.simulation import PythonSimulation
command = PythonSimulation({str(tmp_path / "warm_simulation.py")!r} + ":run").command({{"code": "import time; time.sleep(120)"}})
launcher = LocalLauncher(slots=1, warm=True, reuse=5)
launcher.submit(Job("m", 1, command.argv, Path({str(tmp_path / "m")!r}), command.env, warm=command.warm))
while not launcher.pids(): time.sleep(0.01)
print("ready", flush=True)
time.sleep(60)
"""
    controller = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        assert controller.stdout.readline() == b"ready\n"
        family = descendants(controller.pid)
        assert len(family) >= 3
    finally:
        controller.kill()
        controller.wait()
        controller.stdout.close()
    eventually(lambda: not any(map(alive, family)), "the warm processes to be gone")


def test_an_ended_child_that_nobody_waited_for_holds_nothing_up(launcher, tmp_path):
    code = "import os, time\nif os.fork() == 0: os._exit(0)\ntime.sleep(0.1)"
    for n in range(2):
        launcher.submit(warm_job(tmp_path, f"m{n}", code))
        gone = collect(launcher, 1)[f"m{n}"]
        assert (gone.cause, gone.detail) == (ExitCause.DONE, "")


def test_only_a_bad_end_leaves_a_record_on_disk(launcher, tmp_path):
    for member, code in (("good", "pass"), ("bad", "raise KeyError(1)")):
        launcher.submit(warm_job(tmp_path, member, code))
        collect(launcher, 1)
    assert [past_exit(tmp_path / member) is None for member in ("good", "bad")] == [True, False]
