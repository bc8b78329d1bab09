import json

import numpy as np

from alearn.testing.streams import Owner, finished, started
from alearn.transport import SocketReader


def env_of(reader, member="m0001", attempt=1, **parameters):
    return {**reader.address(member, attempt), "ALEARN_PARAMETERS": json.dumps(parameters)}


def test_steps_arrive_exactly_and_a_restart_skips(fortran_writer):
    reader = SocketReader()
    owner = Owner(reader)
    with started(fortran_writer, "stream", env=env_of(reader, number=2)) as writer:
        owner.until(lambda o: bool(o.ends), "the end")
        assert finished(writer) == ("step 100, result 0\n", "")
    assert owner.hellos[0].steps_total == 100
    for n in range(100):
        sample = owner.kept["m0001", n]
        assert sample.t == 0.5 * n
        assert np.array_equal(sample.values["u"], np.full((2, 3), 2000.0 + n))
    with started(fortran_writer, "stream", env=env_of(reader, attempt=2, number=2)) as writer:
        owner.until(lambda o: len(o.ends) == 2, "the second end")
        finished(writer)
    assert len(owner.arrived) == 100
    reader.close()


def test_every_type_rank_and_section(fortran_writer):
    reader = SocketReader(kind="tcp", encrypt=False)
    owner = Owner(reader)
    with started(fortran_writer, "types", env=env_of(reader, number=2)) as writer:
        owner.until(lambda o: bool(o.ends), "the end")
        finished(writer)
    got = owner.kept["m0001", 0].values
    i, j, k = np.indices((2, 3, 4)) + 1
    big = np.array([[10.0 * i + j for j in range(1, 7)] for i in range(1, 5)])
    expected = {
        "a": (100.0 * i + 10 * j + k).T,
        "b": np.arange(1, 6, dtype=np.float32),
        "i1": np.int8(-1),
        "i2": np.array([-2, 3], np.int16),
        "i4": np.int32(-4),
        "i8": np.array([-(2**63) + 1]),
        "l": np.array([True, False, True]),
        "l1": np.bool_(True),
        "section": big[::-2, 1::3].T,
        "energy": np.float64(0.25),
        "row": big[1],
    }
    assert list(got) == list(expected)
    for name, value in expected.items():
        assert got[name].dtype == value.dtype, name
        assert np.array_equal(got[name], value), name
    assert [f.unit for f in owner.hellos[0].schema.fields][:2] == ["m/s", ""]
    reader.close()


def test_stop_failure_and_what_cannot_be_sent(fortran_writer):
    reader = SocketReader()
    owner = Owner(reader)
    with started(fortran_writer, "endless", env=env_of(reader, number=2)) as writer:
        owner.until(lambda o: len(o.kept) > 5, "some steps")
        reader.stop("m0001", 1)
        owner.until(lambda o: bool(o.ends), "the end")
        finished(writer)
    assert (owner.ends[0].status, owner.ends[0].steps) == ("stopped", owner.steps("m0001"))
    with started(fortran_writer, "failing", env=env_of(reader, "m0002", number=2)) as writer:
        owner.until(lambda o: len(o.ends) == 2, "the second end")
        finished(writer)
    assert (owner.ends[1].status, owner.ends[1].reason) == ("failed", "the time step became too small")
    with started(fortran_writer, "unsent", env=env_of(reader, "m0003", number=2)) as writer:
        _, error = finished(writer, 1)
    assert "The value 'z' is of a Fortran type with 16 bytes that cannot be sent" in error
    reader.close()


def test_steered(fortran_writer):
    reader = SocketReader()
    owner = Owner(reader)
    with started(fortran_writer, "steered", env=env_of(reader, number=2)) as writer:
        owner.until(lambda o: len(o.kept) > 3, "some steps")
        reader.steer("m0001", 1, {"dt": 0.5})
        owner.until(lambda o: bool(o.ends), "the end")
        finished(writer)
    (steered,) = owner.steered
    assert steered.values == {"dt": 0.5}
    assert steered.step == owner.steps("m0001") - 1
    assert [float(owner.kept["m0001", n].values["dt"]) for n in (0, steered.step - 1, steered.step)] == [0.1, 0.1, 0.5]
    reader.close()


def test_alone(fortran_writer):
    with started(fortran_writer, "stream", env={}) as writer:
        assert finished(writer) == ("step 100, result 0\n", "")
