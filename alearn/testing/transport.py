"""The conformance suite that every carrier passes.

::

    class TestMyCarrier(TransportConformance):
        def make_reader(self, **options):
            return MyReader(**options)

Carriers that writers in other processes can reach derive from ``alearn.testing.processes.ProcessTransportConformance`` instead.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any, cast

import numpy as np
import pytest

from alearn import client
from alearn.testing.streams import PATIENCE_S, Background, Owner, abandon, field_of
from alearn.transport.base import End, Reader, Steering
from alearn.types import Sample


class TransportConformance:
    """What a carrier promises, seen with writers in threads of this process."""

    settle_s = 0.2
    """Seconds after which what was put lies at the reader."""
    writers = 32
    """How many write at a time where many do."""

    def make_reader(self, **options: Any) -> Reader:
        """A fresh reader; options are those that every carrier has: window_mb, deadline_s, reconnect_s."""
        raise NotImplementedError

    def environment(self, reader: Reader, member: str, attempt: int = 1, **parameters: Any) -> dict[str, str]:
        """What the launcher would give to this attempt."""
        return {**reader.address(member, attempt), "ALEARN_PARAMETERS": json.dumps(parameters)}

    def break_stream(self, run: client.Run) -> None:
        """Break the writer's connection as a failing network would."""
        link = cast(Any, run)._link
        assert link is not None
        link._sock.shutdown(socket.SHUT_RDWR)

    @pytest.fixture
    def reader(self) -> Iterator[Reader]:
        reader = self.make_reader()
        yield reader
        reader.close()

    @contextlib.contextmanager
    def opened(self, **options: Any) -> Iterator[Reader]:
        reader = self.make_reader(**options)
        try:
            yield reader
        finally:
            reader.close()

    def test_a_stream_arrives_as_it_was_put(self, reader: Reader) -> None:
        env = self.environment(reader, "m0001", 1, a=0.1, kind="hot")

        def write() -> None:
            with client.connect(steps_total=3, units={"u": "m/s"}, environ=env) as run:
                assert run.parameters == {"a": 0.1, "kind": "hot"}
                for step in range(3):
                    run.put(t=0.5 * step, u=field_of(1, step), n=np.int32(step), energy=step)

        owner, writer = Owner(reader), Background(write)
        owner.until(lambda o: bool(o.ends), "the end")
        writer.join()
        (hello,) = owner.hellos
        assert (hello.member, hello.attempt, hello.steps_total) == ("m0001", 1, 3)
        assert hello.parameters == {"a": 0.1, "kind": "hot"}
        assert [(f.name, f.shape, f.dtype, f.unit) for f in hello.schema.fields] == [
            ("u", (16,), "float64", "m/s"),
            ("n", (), "int32", ""),
            ("energy", (), "float64", ""),
        ]
        assert hello.provenance["pid"] == os.getpid()
        assert list(owner.kept) == [("m0001", step) for step in range(3)]
        for step in range(3):
            sample = owner.kept["m0001", step]
            assert sample.t == 0.5 * step
            assert sample.parameters == {"a": 0.1, "kind": "hot"}
            assert np.array_equal(sample.values["u"], field_of(1, step))
            assert sample.values["n"] == step
            assert sample.values["n"].dtype == np.int32
            assert not sample.values["u"].flags.writeable
        assert owner.ends == [End("m0001", 1, 3, "done", "")]

    def test_arrays_of_any_layout_are_made_right(self, reader: Reader) -> None:
        env = self.environment(reader, "m0001")
        base = np.arange(24, dtype=np.float32).reshape(4, 6)
        put: dict[str, Any] = {
            "fortran": np.asfortranarray(base),
            "strided": base[::2, ::-1],
            "transposed": base.T,
            "readonly": np.broadcast_to(np.float16(1.5), (3, 2)),
            "swapped": base.astype(">f4"),
            "flags": base > 5,
            "empty": np.empty((0, 3)),
            "listed": [[1, 2], [3, 4]],
        }

        def write() -> None:
            with client.connect(environ=env) as run:
                run.put(t=0.0, **put)

        owner, writer = Owner(reader), Background(write)
        owner.until(lambda o: bool(o.ends), "the end")
        writer.join()
        got = owner.kept["m0001", 0].values
        for name, value in put.items():
            assert np.array_equal(got[name], np.asarray(value)), name
            assert got[name].shape == np.shape(value)
        assert got["readonly"].dtype == np.float16
        assert got["flags"].dtype == np.bool_

    def test_nan_passes(self, reader: Reader) -> None:
        env = self.environment(reader, "m0001")

        def write() -> None:
            with client.connect(environ=env) as run:
                run.put(t=0.0, y=float("nan"))

        owner, writer = Owner(reader), Background(write)
        owner.until(lambda o: bool(o.ends), "the end")
        writer.join()
        assert not owner.kept["m0001", 0].finite

    def test_close_waits_for_the_acknowledgement(self, reader: Reader) -> None:
        env = self.environment(reader, "m0001")
        closed = threading.Event()

        def write() -> None:
            with client.connect(environ=env) as run:
                run.put(t=0.0, y=1.0)
                run.put(t=1.0, y=2.0)
            closed.set()

        owner, writer = Owner(reader, durable=False), Background(write)
        owner.until(lambda o: len(o.kept) == 2, "two steps")
        reader.acknowledge("m0001", 1, 1)
        time.sleep(0.1)
        owner.turn()
        assert not closed.is_set()
        assert not owner.ends
        reader.acknowledge("m0001", 1, 2)
        owner.until(lambda o: bool(o.ends), "the end")
        writer.join()
        assert closed.is_set()

    def test_a_full_window_holds_the_writer(self) -> None:
        step = field_of(0, 0, 1024)
        with self.opened(window_mb=4 * step.nbytes / (1 << 20)) as reader:
            env, put = self.environment(reader, "m0001"), []

            def write() -> None:
                with client.connect(environ=env) as run:
                    for n in range(12):
                        run.put(t=n, u=step)
                        put.append(n)

            owner, writer = Owner(reader, durable=False), Background(write)
            owner.until(lambda o: len(o.kept) == 4, "a full window")
            time.sleep(0.1)
            owner.turn()
            assert len(put) == len(owner.kept) == 4
            reader.acknowledge("m0001", 1, 3)
            owner.until(lambda o: len(o.kept) == 7, "three more")
            time.sleep(0.1)
            assert len(put) == 7
            owner.durable = True
            reader.acknowledge("m0001", 1, 7)
            owner.until(lambda o: bool(o.ends), "the end")
            writer.join()

    def test_a_step_larger_than_the_window_passes(self) -> None:
        with self.opened(window_mb=0.001) as reader:
            env = self.environment(reader, "m0001")

            def write() -> None:
                with client.connect(environ=env) as run:
                    for n in range(3):
                        run.put(t=n, u=field_of(1, n, 100_000))

            owner, writer = Owner(reader), Background(write)
            owner.until(lambda o: bool(o.ends), "the end")
            writer.join()
            assert np.array_equal(owner.kept["m0001", 2].values["u"], field_of(1, 2, 100_000))

    def test_a_broken_connection_is_mended_without_loss(self, reader: Reader) -> None:
        env = self.environment(reader, "m0001")

        def write() -> None:
            with client.connect(environ=env) as run:
                for n in range(60):
                    run.put(t=n, u=field_of(1, n))
                    if n % 20 == 10:
                        self.break_stream(run)

        owner, writer = Owner(reader), Background(write)
        owner.until(lambda o: bool(o.ends), "the end")
        writer.join()
        assert owner.steps("m0001") == 60
        assert len(owner.hellos) == 4
        for n in range(60):
            assert np.array_equal(owner.kept["m0001", n].values["u"], field_of(1, n))

    def test_what_was_acknowledged_is_not_sent_again(self, reader: Reader) -> None:
        env = self.environment(reader, "m0001")
        go = threading.Event()

        def write() -> None:
            with client.connect(environ=env) as run:
                for n in range(5):
                    run.put(t=n, y=float(n))
                assert go.wait(PATIENCE_S)
                self.break_stream(run)
                run.put(t=5, y=5.0)

        owner, writer = Owner(reader, durable=False), Background(write)
        owner.until(lambda o: len(o.kept) == 5, "five steps")
        reader.acknowledge("m0001", 1, 3)
        owner.durable = True  # as one whose later steps were lost before they were durable
        del owner.kept["m0001", 4], owner.kept["m0001", 3]
        go.set()
        owner.until(lambda o: bool(o.ends), "the end")
        writer.join()
        assert [step for _, _, step in owner.arrived] == [0, 1, 2, 3, 4, 3, 4, 5]

    def test_a_restarted_attempt_skips_what_is_stored(self, reader: Reader) -> None:
        env = self.environment(reader, "m0001")

        def first() -> None:
            run = client.connect(environ=env)
            for n in range(4):
                run.put(t=n, y=float(n))
            while run.acknowledged < 4:
                assert not run.stopped
                time.sleep(0.005)
            abandon(run)

        owner, writer = Owner(reader), Background(first)
        owner.until(lambda o: bool(o.broken), "the break")
        writer.join()
        again = self.environment(reader, "m0001", 2)
        seen: list[int] = []

        def second() -> None:
            with client.connect(environ=again) as run:
                assert run.attempt == 2
                seen.append(run.announce(y=0.0))
                for n in range(6):
                    run.put(t=n, y=float(n))

        writer = Background(second)
        owner.until(lambda o: bool(o.ends), "the end")
        writer.join()
        assert seen == [4]
        assert [(a, s) for _, a, s in owner.arrived] == [(1, 0), (1, 1), (1, 2), (1, 3), (2, 4), (2, 5)]
        assert owner.ends == [End("m0001", 2, 6, "done", "")]

    def test_a_checkpointed_simulation_resumes_where_it_was(self, reader: Reader) -> None:
        reader.address("m0001", 1)
        reader.acknowledge("m0001", 1, 10)
        env = self.environment(reader, "m0001", 2)

        def write() -> None:
            with client.connect(environ=env) as run:
                run.resume_at(run.announce(y=0.0))
                with pytest.raises(client.StreamError, match="has 10 steps"):
                    run.resume_at(11)
                run.put(t=10.0, y=1.0)

        owner = Owner(reader)
        owner.durable = False
        writer = Background(write)
        owner.until(lambda o: bool(o.hellos), "the hello")
        reader.acknowledge("m0001", 2, 10)
        until = time.monotonic() + PATIENCE_S
        messages: list[Any] = []
        while not any(isinstance(m, End) for m in messages):
            assert time.monotonic() < until
            messages += reader.poll(0.05)
            for message in messages:
                if isinstance(message, Sample):
                    reader.acknowledge("m0001", 2, message.step + 1)
        writer.join()
        assert [m.step for m in messages if isinstance(m, Sample)] == [10]

    def test_stop_raises_at_the_next_put(self, reader: Reader) -> None:
        env = self.environment(reader, "m0001")
        reached: list[int] = []

        def write() -> None:
            with client.connect(environ=env) as run:
                for n in range(100_000):
                    reached[:] = [n]
                    run.put(t=n, y=1.0)
                    time.sleep(0.001)
                raise AssertionError("was never stopped")

        owner, writer = Owner(reader), Background(write)
        owner.until(lambda o: len(o.kept) > 5, "some steps")
        reader.stop("m0001", 1)
        owner.until(lambda o: bool(o.ends), "the end")
        writer.join()
        (end,) = owner.ends
        assert end.status == "stopped"
        assert end.steps == owner.steps("m0001") == reached[0]

    def test_stop_before_the_stream_opened(self, reader: Reader) -> None:
        env = self.environment(reader, "m0001")
        reader.stop("m0001", 1)

        def write() -> None:
            with client.connect(environ=env) as run:
                while not run.stopped:
                    run.put(t=run.step, y=1.0)

        owner, writer = Owner(reader), Background(write)
        owner.until(lambda o: bool(o.ends), "the end")
        writer.join()

    def test_a_running_simulation_is_steered(self, reader: Reader) -> None:
        if not isinstance(reader, Steering):
            pytest.skip("skipped, because this carrier cannot hand values to a running simulation")
        env = self.environment(reader, "m0001")
        taken: list[tuple[int, dict[str, Any]]] = []

        def write() -> None:
            with client.connect(environ=env) as run:
                dt = 0.1
                while dt < 0.5:
                    new = run.steering()
                    if new:
                        taken.append((run.step, new))
                    dt = new.get("dt", dt)
                    run.put(t=run.step, dt=dt)
                    if run.step == 10:
                        self.break_stream(run)
                    time.sleep(0.002)
                assert (run.steered("dt", 0.1), run.steered("solver"), run.steered("unheard of", 7)) == (0.5, "cg", 7)
                assert "dt" not in run.parameters

        owner, writer = Owner(reader), Background(write)
        owner.until(lambda o: len(o.kept) > 3, "some steps")
        reader.steer("m0001", 1, {"dt": 0.2, "solver": "cg", "limit": True})
        owner.until(lambda o: len(o.steered) == 1, "the first values to be taken")
        owner.until(lambda o: len(o.hellos) == 2, "the reconnection")
        reader.steer("m0001", 2, {"dt": 99.0})  # of another attempt
        reader.steer("m0001", 1, {"dt": 0.5})
        owner.until(lambda o: bool(o.ends), "the end")
        writer.join()
        assert [(s.step, s.values) for s in owner.steered] == taken
        assert [values for _, values in taken] == [{"dt": 0.2, "solver": "cg", "limit": True}, {"dt": 0.5}]
        got = [float(owner.kept["m0001", n].values["dt"]) for n in range(owner.steps("m0001"))]
        assert got == [0.1] * taken[0][0] + [0.2] * (taken[1][0] - taken[0][0]) + [0.5]

    def test_values_given_before_the_stream_opened_are_taken_by_its_first_step(self, reader: Reader) -> None:
        if not isinstance(reader, Steering):
            pytest.skip("skipped, because this carrier cannot hand values to a running simulation")
        env = self.environment(reader, "m0001")
        reader.steer("m0001", 1, {"dt": 0.2})
        reader.steer("m0001", 1, {"dt": 0.3, "nu": 1})

        def write() -> None:
            with client.connect(environ=env) as run:
                run.announce(dt=0.1)
                until = time.monotonic() + PATIENCE_S
                while not (new := run.steering()):
                    assert time.monotonic() < until
                    time.sleep(0.002)
                assert new == {"dt": 0.3, "nu": 1}
                assert run.steering() == {}
                run.put(t=0.0, dt=new["dt"])

        owner, writer = Owner(reader), Background(write)
        owner.until(lambda o: bool(o.ends), "the end")
        writer.join()
        assert [(s.step, s.values) for s in owner.steered] == [(0, {"dt": 0.3, "nu": 1})]

    def test_an_exception_is_told(self, reader: Reader) -> None:
        env = self.environment(reader, "m0001")

        def write() -> None:
            with client.connect(environ=env) as run:
                run.put(t=0.0, y=1.0)
                raise ArithmeticError("CFL number 3.2\nexceeds 1")

        owner, writer = Owner(reader), Background(write)
        owner.until(lambda o: bool(o.ends), "the end")
        with pytest.raises(ArithmeticError):
            writer.join()
        assert owner.ends == [End("m0001", 1, 1, "failed", "ArithmeticError: CFL number 3.2 exceeds 1")]
        assert owner.steps("m0001") == 1

    def test_a_changed_step_is_refused_at_the_writer(self, reader: Reader) -> None:
        env = self.environment(reader, "m0001")
        said: list[str] = []

        def write() -> None:
            with client.connect(environ=env) as run:
                run.put(t=0.0, u=np.zeros(3), n=np.int64(1))
                for wrong in (
                    {"u": np.zeros(4), "n": 1},
                    {"u": np.zeros(3)},
                    {"u": np.zeros(3), "n": 1, "v": 1},
                    {"u": np.zeros(3), "n": 1.5},
                    {"u": np.zeros(3, complex), "n": 1},
                    {"u": "three", "n": 1},
                ):
                    with pytest.raises(client.SchemaError) as caught:
                        run.put(1.0, wrong)
                    said.append(str(caught.value))
                run.put(t=1.0, u=np.ones(3, np.float32), n=2)

        owner, writer = Owner(reader), Background(write)
        owner.until(lambda o: bool(o.ends), "the end")
        writer.join()
        assert "shape (4,); it was announced with (3,)" in said[0]
        assert "missing ['n']" in said[1]
        assert "unexpected ['v']" in said[2]
        assert "complex128" in said[4]
        assert owner.steps("m0001") == 2
        assert owner.kept["m0001", 1].values["u"].dtype == np.float64

    def test_a_member_without_steps_ends(self, reader: Reader) -> None:
        env = self.environment(reader, "m0001")
        owner, writer = Owner(reader), Background(lambda: client.connect(environ=env).close())
        owner.until(lambda o: bool(o.ends), "the end")
        writer.join()
        assert owner.ends == [End("m0001", 1, 0, "done", "")]
        assert owner.hellos[0].schema.fields == ()

    def test_a_lower_attempt_is_fenced_off(self, reader: Reader) -> None:
        env = self.environment(reader, "m0001")
        go = threading.Event()

        def old() -> None:
            with client.connect(environ=env) as run:
                run.put(t=0.0, y=1.0)
                assert go.wait(PATIENCE_S)
                for n in range(1, 1000):
                    run.put(t=n, y=1.0)
                    time.sleep(0.005)

        owner, writer = Owner(reader), Background(old)
        owner.until(lambda o: len(o.kept) == 1, "the first step")
        self.environment(reader, "m0001", 2)
        go.set()
        with pytest.raises(client.Refused, match="replaced by attempt 2"):
            writer.join()
        owner.turn()
        assert ("m0001", 1) in [(b.member, b.attempt) for b in owner.broken]

    def test_a_member_that_was_not_announced_is_refused(self) -> None:
        with self.opened(reconnect_s=0.2) as reader:
            env = {**self.environment(reader, "m0001"), "ALEARN_MEMBER": "m0666"}
            run = client.connect(environ=env)
            with pytest.raises(client.DeadlineExceeded, match="m0666 was not announced"):
                run.announce(y=1.0)
            owner = Owner(reader)
            owner.until(lambda o: bool(o.broken), "the refusal")
            assert not owner.hellos

    def test_a_second_process_with_the_same_name_is_refused(self, reader: Reader) -> None:
        env = self.environment(reader, "m0001")
        go = threading.Event()

        def rank_0() -> None:
            with client.connect(environ=env) as run:
                run.put(t=0.0, y=1.0)
                assert go.wait(PATIENCE_S)
                run.put(t=1.0, y=1.0)

        owner, writer = Owner(reader), Background(rank_0)
        owner.until(lambda o: bool(o.kept), "the first step")
        second = client.connect(environ=env)
        with pytest.raises(client.Refused, match="only one"):
            second.announce(y=1.0)
        abandon(second)
        go.set()
        owner.until(lambda o: bool(o.ends), "the end")
        writer.join()
        assert owner.steps("m0001") == 2

    def test_a_reader_that_does_not_acknowledge_is_named(self) -> None:
        with self.opened(window_mb=0.0001, deadline_s=0.3) as reader:
            run = client.connect(environ=self.environment(reader, "m0001"))
            run.put(t=0.0, u=np.zeros(100))
            with pytest.raises(client.DeadlineExceeded, match=r"Member m0001 waited 0\.3 s for step 0 to be acknowledged"):
                run.put(t=1.0, u=np.zeros(100))
            with pytest.raises(client.DeadlineExceeded):
                run.close()

    def test_a_reader_that_is_gone_is_named(self) -> None:
        with self.opened(reconnect_s=0.3) as reader:
            run = client.connect(environ=self.environment(reader, "m0001"))
            run.put(t=0.0, y=1.0)
        with pytest.raises(client.DeadlineExceeded, match=r"No reader has opened member m0001's stream at .* in [\d.]+ s"):
            run.close()

    def test_many_writers_at_a_time(self, reader: Reader) -> None:
        members, steps = self.writers, 25

        def write(number: int, env: Mapping[str, str]) -> None:
            with client.connect(environ=env) as run:
                for n in range(steps):
                    run.put(t=n, u=field_of(number, n))

        writers = []
        for number in range(members):
            env = self.environment(reader, f"m{number:04d}")
            writers.append(Background(lambda number=number, env=env: write(number, env)))  # type: ignore[misc]
        owner = Owner(reader)
        owner.until(lambda o: len(o.ends) == members, "all ends")
        for writer in writers:
            writer.join()
        for number in range(members):
            own = [step for member, _, step in owner.arrived if member == f"m{number:04d}"]
            assert own == list(range(steps))
            for n in range(steps):
                assert np.array_equal(owner.kept[f"m{number:04d}", n].values["u"], field_of(number, n))

    def test_poll_is_fair(self, reader: Reader) -> None:
        runs = {member: client.connect(environ=self.environment(reader, member)) for member in ("loud", "quiet")}
        for member, run in runs.items():
            for n in range(200 if member == "loud" else 3):
                run.put(t=n, y=1.0)
        time.sleep(self.settle_s)
        first = reader.poll(1.0, 8)
        assert {m.member for m in first} == {"loud", "quiet"}
        assert sum(m.member == "quiet" for m in first) == 4
        for run in runs.values():
            abandon(run)

    def test_poll_waits_no_longer_than_it_was_told(self, reader: Reader) -> None:
        assert list(reader.poll(0.0)) == []
        began = time.monotonic()
        assert list(reader.poll(0.1)) == []
        assert 0.05 < time.monotonic() - began < 5.0

    def test_late_calls_are_harmless(self, reader: Reader) -> None:
        reader.acknowledge("m9999", 1, 5)
        reader.stop("m9999", 1)
        reader.address("m0001", 2)
        reader.acknowledge("m0001", 1, 5)
        reader.stop("m0001", 1)
        reader.close()
        reader.close()
