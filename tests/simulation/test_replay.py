import numpy as np
import pytest

from alearn.errors import ConfigError, UnknownName
from alearn.events import MemberEnded, MemberLaunched, MemberQueued, MemberRunning
from alearn.ledger import Ledger
from alearn.simulation import Recorded, ReplaySimulation
from alearn.space import Space
from alearn.types import ExitCause, Field, Sample, Schema

SCHEMA = Schema((Field("y", unit="K"), Field("u", (3,), "float32")))
POINTS = {"m0000": 0.1, "m0001": 0.9, "m0002": 0.5, "m0003": 0.52, "m0004": 0.3}
SPACE = Space.from_config({"a": [0, 1]})


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    """Five members of four steps; m0003 was killed after two, m0004 failed after one."""
    directory = tmp_path_factory.mktemp("record") / "study"
    with Ledger.create(directory, study="record") as ledger:
        for member, a in POINTS.items():
            steps, state = {"m0003": (2, "killed"), "m0004": (1, "failed")}.get(member, (4, "done"))
            ledger.append(
                [
                    MemberQueued(at=1.0, member=member, parameters={"a": a}, x=(a,), origin="design"),
                    MemberLaunched(at=2.0, member=member, attempt=1),
                    MemberRunning(at=3.0, member=member, attempt=1),
                ]
            )
            ledger.store([Sample(member, 1, n, n / 10, {"a": a}, values(a, n)) for n in range(steps)], SCHEMA)
            ledger.append([MemberEnded(at=4.0, member=member, attempt=1, state=state, reason="", cause=state)])
        ledger.seal()
    return directory


def values(a, n):
    return {"y": np.asarray(a * 10 + n), "u": np.full(3, n, np.float32)}


def test_a_recorded_member_is_streamed_as_it_was(bench, record):
    simulation = ReplaySimulation(study=str(record))
    simulation.check(["a"])
    run = bench.run(simulation, {"a": 0.5})
    assert (run.exit.cause, run.exit.code) == (ExitCause.DONE, 0), run.stderr
    assert [s.t for s in run.samples] == [0.0, 0.1, 0.2, 0.3]
    assert [float(s.values["y"]) for s in run.samples] == [5.0, 6.0, 7.0, 8.0]
    assert run.samples[3].values["u"].dtype == np.float32
    assert run.hellos[0].steps_total == 4
    assert [(f.name, f.unit) for f in run.hellos[0].schema.fields] == [("y", "K"), ("u", "")]
    assert [(e.status, e.steps) for e in run.ends] == [("done", 4)]


def test_a_stop_ends_the_replay(bench, record):
    simulation = ReplaySimulation(study=str(record), pace_s=0.2, fields=["y"])
    bench.start(simulation, {"a": 0.9})
    bench.owner.until(lambda o: o.steps("m0001") == 1, "a step")
    bench.owner.reader.stop("m0001", 1)
    run = bench.end()
    assert run.ends[0].status == "stopped"
    assert set(run.samples[0].values) == {"y"}


def test_the_nearest_recorded_member_answers_once(record):
    simulation = ReplaySimulation(study=str(record))
    assert isinstance(simulation, Recorded)
    assert simulation.available(SPACE) == 3
    first = simulation.settle([(0.6,), (0.55,)], [], SPACE)
    assert [s.parameters["a"] for s in first] == [0.5, 0.9]
    assert first[0].why == "answered by recorded member m0002, the nearest not used yet, at distance 0.1"
    np.testing.assert_allclose([s.x for s in first], [[0.5], [0.9]])
    last = simulation.settle([(0.6,), (0.55,)], [s.parameters for s in first], SPACE)
    assert [s.parameters["a"] for s in last] == [0.1]  # fewer than asked: the record is used up
    assert simulation.settle([(0.6,)], [{"a": a} for a in (0.1, 0.5, 0.9)], SPACE) == []


def test_all_in_order_or_shuffled(record):
    points = [(0.9,)] * 3
    assert [s.parameters["a"] for s in ReplaySimulation(str(record), "ordered").settle(points, [], SPACE)] == [0.1, 0.9, 0.5]
    shuffled = [[s.parameters["a"] for s in ReplaySimulation(str(record), "shuffled", seed=n).settle(points, [], SPACE)] for n in range(8)]
    assert len({tuple(order) for order in shuffled}) > 1
    assert all(sorted(order) == [0.1, 0.5, 0.9] for order in shuffled)
    later = ReplaySimulation(str(record), "ordered").settle(points, [{"a": 0.1}], SPACE)  # as after a resume
    assert [s.parameters["a"] for s in later] == [0.9, 0.5]


def test_killed_members_only_on_demand_and_only_inside_the_space(record):
    assert ReplaySimulation(str(record), truncated=True).available(SPACE) == 4
    assert ReplaySimulation(str(record), truncated=True).available(Space.from_config({"a": [0.4, 0.6]})) == 2
    with pytest.raises(ConfigError, match="None of the 3 recorded members"):
        ReplaySimulation(str(record)).available(Space.from_config({"a": [0.6, 0.7]}))


def test_what_is_wrong_is_told(record, tmp_path):
    with pytest.raises(ConfigError, match=r"simulation\.study=DIR"):
        ReplaySimulation()
    with pytest.raises(UnknownName, match="Did you mean 'nearest'"):
        ReplaySimulation(str(record), "neares")
    with pytest.raises(ConfigError, match="There is no study in"):
        ReplaySimulation(str(tmp_path)).check(["a"])
    with pytest.raises(ConfigError, match=r"is over \['a'\], but the space has \['b'\]"):
        ReplaySimulation(str(record)).check(["b"])
    with pytest.raises(UnknownName, match="no field in the recorded study 'v'"):
        ReplaySimulation(str(record), fields=["v"]).check(["a"])
    with pytest.raises(ConfigError, match="No member was recorded at"):
        ReplaySimulation(str(record)).command({"a": 0.52})
    with Ledger.create(tmp_path / "empty", study="empty"):
        pass
    with pytest.raises(ConfigError, match="no member that ran to its end"):
        ReplaySimulation(str(tmp_path / "empty")).check(["a"])
