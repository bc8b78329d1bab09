"""Steps transformed on their way: at writers that can, here for those that cannot, learned, held, refused, resumed."""

import json
import time

import numpy as np
import pytest

from alearn import client
from alearn.testing.streams import Background, Owner
from alearn.transform import Pipeline, Planner
from alearn.transport import InProcessReader
from alearn.transport.base import Hello
from alearn.transport.transformed import TransformedReader
from alearn.types import Field

COARSE = [{"name": "coarsen", "factor": 4, "fields": ["v"]}]
POD = [{"name": "pod", "field": "v", "rank": 6, "error": 0.02, "learn": 8}]


def field(step: int, k: float = 1.0) -> np.ndarray:
    x = np.indices((8, 8), dtype=np.float32).sum(axis=0) / 8
    return np.sin(2 * np.pi * k * x + 0.3 * step).astype(np.float32)


def opened(tmp_path, steps=COARSE, where="reader", **options):
    pipeline = Pipeline(steps, options.pop("keep_raw", False))
    return TransformedReader(InProcessReader(), pipeline, Planner(where), tmp_path, **options)


def write(env, steps=5, k=1.0, **more):
    def run() -> None:
        with client.connect(units={"v": "m/s"}, environ=env) as run:
            for step in range(steps):
                run.put(t=0.5 * step, y=step, v=field(step, k), **more)

    return run


def environment(reader, member="m0001", attempt=1, tmp_path=None):
    if tmp_path is not None:
        (tmp_path / "members" / member / str(attempt)).mkdir(parents=True, exist_ok=True)
    return {**reader.address(member, attempt), "ALEARN_PARAMETERS": "{}"}


def received(reader, writers, ends=1):
    owner, running = Owner(reader), [Background(w) for w in writers]
    owner.until(lambda o: len(o.ends) == ends, f"{ends} ends")
    for one in running:
        one.join()
    return owner


@pytest.mark.parametrize("where", ["writer", "reader"])
def test_a_stream_comes_out_transformed_wherever_that_happens(tmp_path, where):
    reader = opened(tmp_path, where=where)
    try:
        owner = received(reader, [write(environment(reader, tmp_path=tmp_path))])
    finally:
        reader.close()
    (hello,) = owner.hellos
    assert hello.schema.fields == (Field("y"), Field("v", (2, 2), "float32", "m/s"))
    assert bool(hello.provenance["transformed"]) == (where == "writer")
    for step in range(5):
        sample = owner.kept["m0001", step]
        assert sample.t == 0.5 * step
        assert sample.values["y"] == step
        assert np.allclose(sample.values["v"], field(step).reshape(2, 4, 2, 4).mean(axis=(1, 3)), atol=1e-6)
    assert reader.steps[where] == 5
    plan = json.loads((tmp_path / "transform" / "plan.json").read_text())
    assert (plan["place"], plan["raw_bytes"], plan["out_bytes"], plan["steps"][where]) == (where, 264, 24, 5)
    costs = json.loads((tmp_path / "members" / "m0001" / "1" / "transform.json").read_text())
    assert costs["at"] == where
    assert costs["put_s"] > 0
    assert (costs["transform_s"] > 0) == (where == "writer")


def test_a_client_without_alearn_sends_raw_steps_and_they_are_transformed_here(tmp_path):
    reader = opened(tmp_path, where="writer")
    try:
        env = environment(reader)
        del env["ALEARN_TRANSFORM"]  # what a C, Fortran or copied client makes of it
        owner = received(reader, [write(env)])
    finally:
        reader.close()
    assert owner.kept["m0001", 4].values["v"].shape == (2, 2)
    assert reader.steps == {"writer": 0, "reader": 5}


def test_both_kinds_of_writers_agree(tmp_path):
    reader = opened(tmp_path, where="auto")
    try:
        envs = [environment(reader, f"m{n:04d}", tmp_path=tmp_path) for n in range(4)]
        owner = received(reader, [write(env) for env in envs], ends=4)
    finally:
        reader.close()
    assert reader.steps == {"writer": 10, "reader": 10}
    assert len({hello.schema for hello in owner.hellos}) == 1
    for step in range(5):
        values = [owner.kept[f"m{n:04d}", step].values["v"] for n in range(4)]
        assert all(np.array_equal(values[0], v) for v in values)


def test_a_codec_is_learned_from_the_first_steps_which_wait_for_it(tmp_path):
    reader = opened(tmp_path, POD, where="writer")
    try:
        owner = received(reader, [write(environment(reader), steps=12)])
        assert owner.kept["m0001", 0].values["_v_version"] >= 1
        assert owner.kept["m0001", 0].values["_v_misfit"] == 0
        env = environment(reader, "m0002", tmp_path=tmp_path)
        assert json.loads(env["ALEARN_TRANSFORM"])["pipeline"] is not None
        owner = received(reader, [write(env, steps=3)])
        assert reader.steps["writer"] == 3
        env = environment(reader, "m0003")
        strange = received(reader, [write(env, steps=3, k=3.0)])
        assert strange.kept["m0003", 0].values["_v_misfit"] > 0.5
    finally:
        reader.close()
    decoder = Pipeline.described_in(tmp_path)
    for owner_of, member, k in ((owner, "m0002", 1.0), (strange, "m0003", 3.0)):
        for step in range(3):
            v = decoder.decode(owner_of.kept[member, step].values, (member, step))["v"]
            assert np.sqrt(np.mean((v - field(step, k)) ** 2)) < 0.03


def test_held_steps_come_out_when_nobody_sends_more(tmp_path):
    reader = opened(tmp_path, POD)
    try:
        began = time.monotonic()
        owner = received(reader, [write(environment(reader), steps=3)])
        assert time.monotonic() - began > 1.5  # 8 are wanted, 3 are all there is
    finally:
        reader.close()
    assert list(owner.kept) == [("m0001", step) for step in range(3)]
    assert owner.ends[0].steps == 3


def test_a_stream_that_does_not_fit_costs_its_member_only(tmp_path):
    reader = opened(tmp_path, [{"name": "coarsen", "factor": 3, "fields": ["v"]}])
    try:
        env = {**environment(reader), "ALEARN_DEADLINE_S": "0.5"}

        def run() -> None:
            with pytest.raises(client.DeadlineExceeded):  # nothing of it is acknowledged; in a study it is ended
                write(env, steps=100)()

        writer, owner = Background(run), Owner(reader)
        owner.until(lambda o: bool(o.broken), "the refusal")
        (broken,) = owner.broken
        assert broken.fault
        assert "field 'v' has shape (8, 8), which cannot be coarsened by [3]" in broken.reason
        owner.until(lambda o: not writer.running, "the writer to give up")
        writer.join()
        assert owner.kept == {}
    finally:
        reader.close()


def test_at_the_writer_the_same_is_the_writers_error(tmp_path):
    reader = opened(tmp_path, [{"name": "coarsen", "factor": 3, "fields": ["v"]}], where="writer")
    try:
        said = []

        def run() -> None:
            try:
                write(env)()
            except client.SchemaError as error:
                said.append(str(error))

        env = environment(reader)
        owner = received(reader, [run])
        assert "cannot be coarsened by [3]" in said[0]
        assert owner.ends[0].status == "failed"
    finally:
        reader.close()


def test_the_raw_may_be_kept_beside(tmp_path):
    reader = opened(tmp_path, keep_raw=True)
    try:
        owner = received(reader, [write(environment(reader))])
    finally:
        reader.close()
    assert owner.hellos[0].schema.names == ("y", "v", "v_raw")
    assert np.array_equal(owner.kept["m0001", 2].values["v_raw"], field(2))


def test_on_read_the_raw_is_stored_and_the_learner_gets_the_rest(tmp_path):
    reader = opened(tmp_path, on_read=True)
    try:
        owner = received(reader, [write(environment(reader))])
        assert owner.hellos[0].schema.names == ("y", "v")
        samples = list(owner.kept.values())
        assert samples[0].values["v"].shape == (8, 8)
        assert reader.learned(owner.hellos[0].schema).fields[1].shape == (2, 2)
        assert reader.needed(["v"]) is None
        assert reader.prepared(samples, ["v"])[3].values["v"].shape == (2, 2)
        assert reader.read == 5
        assert reader.prepared(samples, ["y"])[3].values["v"].shape == (8, 8)  # nothing of it is needed: nothing is done
        assert reader.read == 5
    finally:
        reader.close()


def test_a_reconnect_of_a_transforming_writer_sends_the_same_steps(tmp_path):
    reader = opened(tmp_path, where="writer")
    try:
        env = environment(reader, tmp_path=tmp_path)

        def run() -> None:
            with client.connect(environ=env) as stream:
                for step in range(6):
                    stream.put(t=step, y=step, v=field(step))
                    if step == 2:
                        stream._link._sock.close()

        owner = received(reader, [run])
    finally:
        reader.close()
    assert sorted(owner.kept) == [("m0001", step) for step in range(6)]
    assert all(isinstance(h, Hello) and h.schema.fields[1].shape == (2, 2) for h in owner.hellos)


def slow(values, seconds):
    time.sleep(seconds)
    return values


def test_a_transform_that_takes_long_does_not_hold_the_loop(tmp_path):
    """The loop turns while a step is transformed, in order for its member, and others' words pass."""
    steps = [{"name": "function", "target": f"{__file__}:slow", "arguments": {"seconds": 0.4}}]
    reader = opened(tmp_path, steps)
    owner = Owner(reader)
    try:
        slowly = Background(write(environment(reader), steps=3))
        owner.until(lambda o: "m0001" in {h.member for h in o.hellos}, "the slow member")
        owner.until(lambda _: reader._bench.busy, "its first step to be transformed")
        quickly = Background(client.connect(environ=environment(reader, "m0002")).close)  # without steps: nothing to transform
        owner.until(lambda o: len(o.ends) == 2, "both ends")
        slowly.join()
        quickly.join()
    finally:
        reader.close()
    assert [e.member for e in owner.ends] == ["m0002", "m0001"]
    assert [key for key in owner.kept if key[0] == "m0001"] == [("m0001", step) for step in range(3)]


def broken(values):
    raise RuntimeError("a bug of mine")


def test_a_bug_in_a_transform_reaches_the_loop_and_is_no_silent_end(tmp_path):
    steps = [{"name": "function", "target": f"{__file__}:broken"}]
    reader = opened(tmp_path, steps)
    try:
        env = {**environment(reader), "ALEARN_DEADLINE_S": "2"}
        writer, owner = Background(lambda: write(env, steps=1)()), Owner(reader)
        owner.until(lambda o: bool(o.broken), "the refusal")
        assert "a bug of mine" in owner.broken[0].reason
        with pytest.raises(client.StreamError):
            writer.join()
    finally:
        reader.close()
