"""Where learner and members compute: cores shared, divided or taken in turns; slots that come and go; two systems."""

import contextlib
import os
import subprocess
import sys
import threading
import time

import pytest

from alearn import events as ev
from alearn.cli import main
from alearn.controller import Launch
from alearn.controller.decisions import Evaluate, Kill, Refit
from alearn.controller.turns import take_turns
from alearn.errors import ConfigError, LaunchError
from alearn.launcher import Elastic, Job, LocalLauncher
from alearn.ledger import Ledger
from alearn.slots import Meter, usage
from alearn.study import Study
from alearn.testing.launcher import collect, eventually

SLEEPER = (sys.executable, "-S", "-c", "import time; time.sleep(120)")
CORES = sorted(os.sched_getaffinity(0))
several = pytest.mark.skipif(len(CORES) < 2, reason="skipped, because there is one core only")


def study_of(tmp_path, code, **entries):
    (tmp_path / "sim.py").write_text(code)
    given = {
        "surrogate": "gp", "budget": 6, "design": {"initial": 4, "batch": 2, "holdout": 0.0}, "kill": "never", "view": "quiet",
        "directory": tmp_path / "study", **entries,
    }  # fmt: skip
    return Study({"a": (0.0, 1.0)}, f"{tmp_path}/sim.py:run", **given)


def story(directory):
    with Ledger.open(directory, readonly=True) as ledger:
        return [event for _, event in ledger.events()]


# --- space ------------------------------------------------------------------------------------------------------------


@several
@pytest.mark.parametrize("warm", [False, True])
def test_learner_and_members_have_cores_of_their_own(tmp_path, warm):
    code = "import os\ndef run(a):\n    cpus = os.sched_getaffinity(0)\n    yield {'core': float(max(cpus)), 'n': float(len(cpus))}\n"
    launcher = {"name": "local", "placement": "space", "learner_cores": 1, "slots": 1, "warm": warm}
    seen = []
    with contextlib.ExitStack() as after:
        after.callback(lambda: seen.append(sorted(os.sched_getaffinity(0))))
        study = study_of(tmp_path, code, launcher=launcher).run()
    assert seen == [CORES]  # given back
    data = study.archive()
    assert (data["n"].values == len(CORES) - 1).all()
    assert (data["core"].values == CORES[-1]).all()


@several
def test_the_learners_thread_is_kept_on_its_cores():
    with LocalLauncher(slots=1, placement="space", learner_cores=1):
        assert sorted(os.sched_getaffinity(0)) == CORES[:1]
        inherited = []
        thread = threading.Thread(target=lambda: inherited.append(sorted(os.sched_getaffinity(0))))
        thread.start()
        thread.join()
        assert inherited == [CORES[:1]]
    assert sorted(os.sched_getaffinity(0)) == CORES


def test_what_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match=r"each side needs one at least"):
        LocalLauncher(slots=1, placement="space", learner_cores=len(CORES))
    with pytest.raises(ConfigError, match="Did you mean 'space'"):
        LocalLauncher(slots=1, placement="spice")
    if len(CORES) > 1:
        with pytest.raises(ConfigError, match="beside the learner's 1"):
            LocalLauncher(slots=len(CORES), placement="space")
    assert sorted(os.sched_getaffinity(0)) == CORES


# --- time -------------------------------------------------------------------------------------------------------------


def test_turns():
    launch, refit, kill = Launch("m1", ""), Refit(""), Kill("m0", 1, "")
    assert take_turns([launch, kill], running=True, training=False) == [launch, kill]
    assert take_turns([launch, refit, kill], running=True, training=False) == [kill]
    assert take_turns([launch, refit], running=False, training=False) == [refit]
    assert take_turns([launch, Evaluate("")], running=True, training=True) == []


def test_members_and_training_never_run_at_the_same_time(tmp_path):
    code = "import time\ndef run(a):\n    for n in range(3):\n        time.sleep(0.02)\n        yield {'t': float(n), 'y': a * n}\n"
    study_of(tmp_path, code, launcher={"name": "local", "slots": 2, "oversubscribe": True, "placement": "time"}).run()
    events = story(tmp_path / "study")
    assert type(events[-1]).__name__ == "StudyEnded"
    assert events[-1].state == "done"
    trained = [(e.at - e.seconds, e.at) for e in events if isinstance(e, ev.Refitted)]
    assert len(trained) >= 2
    began = {e.member: e.at for e in events if isinstance(e, ev.MemberLaunched)}
    ended = {e.member: e.at for e in events if isinstance(e, ev.MemberEnded)}
    for first, last in trained:
        assert not [m for m in began if began[m] < last and ended[m] > first]


# --- slots that come and go -------------------------------------------------------------------------------------------


def test_slots_are_added_and_removed(tmp_path):
    with LocalLauncher(slots=1, oversubscribe=True, grace_s=0.1) as launcher:
        assert isinstance(launcher, Elastic)
        launcher.submit(Job("a", 1, SLEEPER, tmp_path / "a"))
        with pytest.raises(LaunchError, match="slot"):
            launcher.submit(Job("b", 1, SLEEPER, tmp_path / "b"))
        launcher.resize(2)
        launcher.submit(Job("b", 1, SLEEPER, tmp_path / "b"))
        launcher.resize(1)
        assert len(launcher.pids()) <= 2
        with pytest.raises(LaunchError, match="slot"):
            launcher.submit(Job("c", 1, SLEEPER, tmp_path / "c"))
        launcher.cancel("a", 1)
        collect(launcher, 1)
        with pytest.raises(LaunchError, match="slot"):
            launcher.submit(Job("c", 1, SLEEPER, tmp_path / "c"))
        with pytest.raises(ConfigError, match="at least one slot"):
            launcher.resize(0)
    with LocalLauncher(slots=1) as launcher, pytest.raises(ConfigError, match=r"launcher\.oversubscribe=true"):
        launcher.resize(1000)


def test_a_running_study_is_given_more_slots(tmp_path, capsys):
    code = "import time\ndef run(a):\n    for n in range(20):\n        time.sleep(0.05)\n        yield {'t': float(n), 'y': a * n}\n"
    study = study_of(tmp_path, code, launcher={"name": "local", "slots": 1, "oversubscribe": True})
    thread = threading.Thread(target=study.run)
    thread.start()
    try:
        eventually(lambda: (tmp_path / "study" / "status.json").exists() and study.status().state == "running", "the study to run", 60)
        assert main(["slots", str(tmp_path / "study"), "3"]) == 0
        assert "for 3 slots; a running controller acts within a second" in capsys.readouterr().out
        eventually(lambda: any(isinstance(e, ev.CapacityChanged) and e.slots == 3 for e in story(tmp_path / "study")), "three slots", 60)
    finally:
        thread.join(120)
    running = most = 0
    for event in story(tmp_path / "study"):
        running += isinstance(event, ev.MemberLaunched) - isinstance(event, ev.MemberEnded)
        most = max(most, running)
    assert most == 3
    assert main(["slots", str(tmp_path / "study")]) == 0
    assert "3 slots, 0 members run; in " in capsys.readouterr().out
    assert main(["slots", str(tmp_path / "study"), "0"]) == 2
    assert "at least 1" in capsys.readouterr().err


def test_usage():
    def launched(at, member):
        return ev.MemberLaunched(at=at, member=member, attempt=1)

    def ended(at, member):
        return ev.MemberEnded(at=at, member=member, attempt=1, state="done")

    events = [
        ev.StudyStarted(at=0.0, study="s", arm="active", seed=0), ev.CapacityChanged(at=0.0, slots=2),
        launched(0.0, "a"), launched(0.0, "b"),
        ended(4.0, "a"), ended(5.0, "b"), ev.Refitted(at=8.0, updates=1, samples=1, seconds=3.0),
        ev.StudyEnded(at=10.0, state="done", reason="budget"),
    ]  # fmt: skip
    found = usage(events)
    assert (found.slots, found.running, found.wall_s) == (2, 0, 10.0)
    assert found.simulating == pytest.approx(9 / 20)
    assert found.learning == pytest.approx(0.3)
    assert usage([]).simulating == 0.0
    busy = [*events[:-2], ev.Refitted(at=8.0, updates=1, samples=1, seconds=3.0, busy_s=6.0), events[-1]]
    assert usage(busy).learning == pytest.approx(0.6)


def test_meter():
    meter = Meter()
    assert meter.see(0.0, slots=2, running=1, busy_s=0.0).wall_s == 0.0
    meter.see(4.0, slots=2, running=2, busy_s=1.0)
    found = meter.see(8.0, slots=2, running=0, busy_s=3.0)
    assert (found.wall_s, found.simulating, found.learning) == (8.0, pytest.approx(8 / 16), pytest.approx(3 / 8))
    assert meter.see(10.0, slots=2, running=0, busy_s=0.0).learning == pytest.approx(0.3)  # a learner that began anew


# --- two systems ------------------------------------------------------------------------------------------------------


def ip(*words):
    return subprocess.run(["ip", *words], capture_output=True, text=True, timeout=20, check=False)


@pytest.fixture
def two_hosts():
    """Two network namespaces joined by one virtual cable: the names, and the address of the first."""
    if os.geteuid() != 0:
        pytest.skip("skipped, because only root can make network namespaces")
    learner, members = f"al{os.getpid()}", f"am{os.getpid()}"
    try:
        made = [ip("netns", "add", name) for name in (learner, members)]
        made.append(ip("link", "add", learner, "netns", learner, "type", "veth", "peer", "name", members, "netns", members))
        if any(m.returncode for m in made):
            pytest.skip(f"skipped, because network namespaces cannot be made here: {[m.stderr.strip() for m in made if m.returncode]}")
        for name, address in ((learner, "10.231.7.1/24"), (members, "10.231.7.2/24")):
            for words in (["addr", "add", address, "dev", name], ["link", "set", name, "up"], ["link", "set", "lo", "up"]):
                assert ip("-n", name, *words).returncode == 0
        yield learner, members, "10.231.7.1"
    finally:
        for name in (learner, members):
            ip("netns", "del", name)


@pytest.mark.slow
def test_two_systems_and_a_cut_cable(two_hosts, tmp_path):
    """The learner on one, members on the other, over authenticated TCP; ten seconds without a link, and nothing is lost."""
    learner, members, address = two_hosts
    steps = 60
    (tmp_path / "sim.py").write_text(
        "import socket, time\n"
        "from alearn.client import connect\n"
        "with connect() as run:\n"
        f"    for n in range({steps}):\n"
        "        time.sleep(0.2)\n"
        "        run.put(t=float(n), y=run.parameters['a'] * n)\n"
    )
    directory = tmp_path / "study"
    argv = ["ip", "netns", "exec", members, sys.executable, str(tmp_path / "sim.py"), "'{a}'"]
    overrides = [
        "simulation=command", f"simulation.argv=[{','.join(argv)}]", "simulation.format=client", "space={a: [1, 2]}", "budget.members=2",
        "design.initial=2", "surrogate=gp", "kill=never", "monitors.stall=false", "launcher.slots=2", "launcher.oversubscribe=true",
        "transport.kind=tcp", f"transport.host={address}", "view=quiet", f"hydra.run.dir={directory}",
    ]  # fmt: skip
    controller = subprocess.Popen(["ip", "netns", "exec", learner, sys.executable, "-m", "alearn.cli", "run", *overrides])

    def stored():
        if not (directory / "ledger.sqlite").exists():
            return [0, 0]
        with Ledger.open(directory, readonly=True) as ledger:
            return [ledger.stored_steps(member) for member in ("m0000", "m0001")]

    try:
        eventually(lambda: min(stored()) >= 5, "both members to stream", 60)
        assert ip("-n", members, "link", "set", members, "down").returncode == 0
        before = stored()
        time.sleep(10.0)
        assert max(b - a for a, b in zip(before, stored(), strict=True)) <= 3  # what was on its way
        assert ip("-n", members, "link", "set", members, "up").returncode == 0
        assert controller.wait(120) == 0
    finally:
        controller.kill()
        controller.wait()
    assert stored() == [steps, steps]
    launched = [e for e in story(directory) if isinstance(e, ev.MemberLaunched)]
    assert sorted((e.member, e.attempt) for e in launched) == [("m0000", 1), ("m0001", 1)]
    data = Study.open(directory).archive()
    assert data["y"].values == pytest.approx(data["a"].values[:, None] * range(steps))
