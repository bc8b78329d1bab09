"""The POD codec: what it promises about every field, how it grows, and what it keeps when it cannot."""

import dataclasses
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alearn.errors import ConfigError, SchemaError, UnknownName
from alearn.simulators.heat import heat
from alearn.testing.transform import SCHEMA, check_transform, keys_of
from alearn.transform.basis import Basis, BasisFiles
from alearn.transform.diagnostics import DIAGNOSTICS, spectrum_scale
from alearn.transform.misfits import Misfits
from alearn.transform.pod import POD
from alearn.types import Field, Schema

LINE = Schema((Field("u", (48,), "float32", "K"), Field("mean")))


def wave(k: float, phase: float = 0.0, size: float = 1.0) -> dict[str, np.ndarray]:
    x = np.arange(48) / 48
    u = (2.0 + size * np.sin(2 * np.pi * k * x + phase)).astype(np.float32)
    return {"u": u, "mean": np.asarray(float(u.mean()))}


def ready(directory, **options) -> POD:
    codec = POD(field="u", **{"rank": 8, "error": 0.01, "learn": 4, **options})
    codec.keep_in(directory, True)
    codec.schema(LINE)
    return codec


def test_conformance():
    check_transform(lambda: POD(field="v", rank=12, error=0.01), tolerance=0.05)
    check_transform(lambda: POD(field="w", rank=3, error=1e-4, keep={"max": 1e-3}), tolerance=0.01)


def test_a_step_becomes_coefficients_and_says_its_version():
    codec = POD(field="v", rank=5)
    out = codec.schema(SCHEMA)
    assert out.fields[1:4] == (Field("v_pod", (5,), "float32", "m/s"), Field("_v_version", (), "int32"), Field("_v_misfit", (), "float32"))
    assert out.scalars == ("energy", "n")


def test_every_stored_field_decodes_within_what_is_stated_or_exactly(tmp_path):
    rng = np.random.default_rng(0)
    codec = ready(tmp_path, rank=6, keep={"max": 0.02, "scale": 0.05})
    steps = [wave(rng.uniform(0.5, 4), rng.uniform(0, 6), rng.uniform(0.1, 2)) for _ in range(60)]
    made = [m for i in range(0, 60, 5) for m in codec.take(steps[i : i + 5], keys_of(5, i))]
    assert codec.modes == 6
    scale = float(np.load(tmp_path / "u.pod" / "basis-0001.npz")["scale"])
    kept = set(codec._files.misfits.kept())
    assert 0 < len(kept) < 60
    for key, raw, stored in zip(keys_of(60), steps, made, strict=True):
        u = codec.decode(stored, key)["u"]
        assert (key in kept) == np.array_equal(u, raw["u"])
        assert np.sqrt(np.mean((u - raw["u"]) ** 2)) <= 0.01 * scale * 1.001
        assert abs(float(u.max()) - float(raw["u"].max())) <= 0.02
        assert abs(spectrum_scale(u) - spectrum_scale(raw["u"])) <= 0.05


FIELDS = st.tuples(st.floats(0, 5), st.floats(0, 6), st.sampled_from([0.0, 1e-3, 1.0, 50.0]))
ACTIONS = st.lists(
    st.tuples(st.sampled_from(["reader", "writer", "restart"]), st.lists(FIELDS, min_size=1, max_size=5)), min_size=1, max_size=8
)


@settings(max_examples=40, deadline=None)
@given(ACTIONS)
def test_whatever_comes_from_wherever_is_decoded_within_the_error_or_exactly(actions):
    """Readers that learn and restart, writers that follow late: the promise holds for every stored step, by every later version."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        reader = ready(place, rank=5)
        stored: list = []
        for who, waves in actions:
            steps = [wave(*w) for w in waves]
            keys = keys_of(len(steps), len(stored))
            if who == "restart":
                reader = ready(place, rank=5)
            writer = POD(field="u", rank=5, error=0.01)
            writer.keep_in(place, False)
            writer.schema(LINE)
            at = writer if who == "writer" and writer.version else reader
            before = None if reader._basis is None else reader._basis.modes.copy()
            stored += list(zip(keys, steps, at.take(steps, keys), strict=True))
            reader.refresh()
            if before is not None:
                assert np.array_equal(reader._basis.modes[: len(before)], before)
            assert reader.modes <= 5
        scale = reader._basis.scale
        for key, raw, made in stored:
            u = reader.decode(made, key)["u"]
            size = float(np.abs(raw["u"]).max())
            assert np.sqrt(np.mean((u - raw["u"]) ** 2, dtype=np.float64)) <= 0.01 * scale * 1.001 + 1e-6 * size


def test_a_later_attempt_replaces_what_was_kept_of_a_step_that_was_not_stored(tmp_path):
    files = Misfits(tmp_path, 1e-3)
    assert files.keep(("m0000", 4), np.ones(3))
    assert files.keep(("m0000", 4), np.zeros(3))
    assert np.array_equal(files.read(("m0000", 4)), np.zeros(3))
    assert not files.keep(("m0000", 5), np.ones(200))


def test_growing_adds_modes_behind_those_there_are(tmp_path):
    codec = ready(tmp_path)
    first = codec.take([wave(1, p) for p in (0, 1, 2, 3)], keys_of(4))
    before = codec._basis
    assert (codec.version, codec.modes) == (1, 2)
    assert codec.take([wave(1, 0.5)], keys_of(1, 4))[0]["_u_misfit"] < 0.01
    assert codec.version == 1
    (new,) = codec.take([wave(3, 0.2)], keys_of(1, 5))
    after = codec._basis
    assert (codec.version, codec.modes) == (2, 3)
    assert new["_u_misfit"] > 0.5
    assert new["_u_version"] == 2
    assert np.array_equal(after.modes[:2], before.modes)
    assert np.allclose(after.modes @ after.modes.T, np.eye(3), atol=1e-5)
    assert np.allclose(codec.decode(first[1])["u"], wave(1, 1)["u"], atol=0.02)


def test_versions_survive_a_restart_and_reach_others(tmp_path):
    codec = ready(tmp_path)
    codec.take([wave(1, p) for p in (0, 1, 2, 3)], keys_of(4))
    follower = POD(field="u", rank=8, error=0.01)
    follower.keep_in(tmp_path, False)
    follower.schema(LINE)
    assert follower.version == 1
    codec.take([wave(2)], keys_of(1, 4))
    assert follower.refresh()
    assert follower.version == 2
    assert not follower.refresh()
    again = ready(tmp_path)
    assert (again.version, again.modes) == (2, codec.modes)
    assert np.array_equal(again._basis.modes, codec._basis.modes)


def test_what_a_writer_cannot_represent_is_kept_and_learned_by_the_reader(tmp_path):
    reader = ready(tmp_path)
    reader.take([wave(1, p) for p in (0, 1, 2, 3)], keys_of(4))
    writer = POD(field="u", rank=8, error=0.01)
    writer.keep_in(tmp_path, False)
    writer.schema(LINE)
    (stored,) = writer.take([wave(4)], [("m0007", 3)])
    assert stored["_u_misfit"] > 0.5
    assert writer.version == 1
    assert np.array_equal(reader.decode(stored, ("m0007", 3))["u"], wave(4)["u"])
    assert reader.refresh()
    assert reader.version == 2
    assert writer.refresh()
    assert writer.take([wave(4)], [("m0007", 4)])[0]["_u_misfit"] < 0.01


def test_fields_beyond_all_proportion_are_kept_and_not_learned(tmp_path):
    codec = ready(tmp_path)
    codec.take([wave(1, p) for p in (0, 1, 2, 3)], keys_of(4))
    (stored,) = codec.take([wave(3, size=1e4)], keys_of(1, 4))
    assert stored["_u_misfit"] > 10
    assert codec.version == 1
    assert np.array_equal(codec.decode(stored, ("m0000", 4))["u"], wave(3, size=1e4)["u"])


def test_without_room_for_misfits_they_are_counted_and_told(tmp_path, caplog):
    codec = ready(tmp_path, rank=2, misfit_mb=0.0)
    codec.take([wave(1, p) for p in (0, 1, 2, 3)], keys_of(4))
    codec.take([wave(2), wave(3)], keys_of(2, 4))
    assert codec.lossy == 2
    assert codec.described() == {"field": "u", "version": 1, "what": "2 of 2 modes", "modes": 2, "exact": 0, "lossy": 2}
    assert len(caplog.records) == 1
    assert "raise rank, error or misfit_mb" in caplog.text


def test_nan_is_neither_learned_nor_hidden(tmp_path):
    codec = ready(tmp_path)
    bad = {"u": np.full(48, np.nan, np.float32), "mean": np.asarray(0.0)}
    made = codec.take([bad], keys_of(1))
    assert np.isnan(made[0]["u_pod"]).all()
    assert codec.version == 0
    made = codec.take([wave(1, 0), bad, wave(1, 1), wave(1, 2)], keys_of(4, 1))
    assert codec.version == 1
    assert np.isnan(made[1]["u_pod"]).any()
    assert np.isfinite(made[2]["u_pod"]).all()


def test_a_constant_field_needs_no_mode(tmp_path):
    codec = ready(tmp_path)
    still = {"u": np.full(48, 3.0, np.float32), "mean": np.asarray(3.0)}
    made = codec.take([still] * 4, keys_of(4))
    assert (codec.version, codec.modes) == (1, 0)
    assert np.allclose(codec.decode(made[0])["u"], 3.0)


def test_a_real_solver_is_compressed_to_a_few_modes(tmp_path):
    rng = np.random.default_rng(3)
    runs = [list(heat(*rng.uniform(300, 500, 5), alpha=0.05 + 0.02 * i, grid=16)) for i in range(6)]
    raw = Schema.of({"T": runs[0][0]["T"]}, {"T": "K"})
    codec = POD(field="T", rank=40, error=0.02, keep={"mean": 0.5})
    codec.keep_in(tmp_path, True)
    out = codec.schema(raw)
    for number, run in enumerate(runs[:5]):
        codec.take([{"T": step["T"]} for step in run], [(f"m{number:04d}", i) for i in range(len(run))])
    assert codec.modes <= 25  # the boundary's four temperatures, the plate's, and how fast they mix
    new = codec.take([{"T": step["T"]} for step in runs[5]], [("m0005", i) for i in range(len(runs[5]))])
    assert out.nbytes * 5 < raw.nbytes
    for i, (stored, step) in enumerate(zip(new, runs[5], strict=True)):
        assert abs(float(codec.decode(stored, ("m0005", i))["T"].mean() - step["T"].mean())) <= 0.5


def test_growth_takes_the_fewest_directions_that_are_enough():
    rng = np.random.default_rng(1)
    fields = rng.standard_normal((10, 3)) @ rng.standard_normal((3, 40))
    empty = Basis(0, np.zeros(40, np.float32), 1.0, np.empty((0, 40), np.float32))
    whole = empty.grown(fields, 1e-4, None, 8)
    assert whole.rank == 3
    assert np.allclose(whole.decode(whole.encode(fields)), fields, atol=1e-4)
    _, sizes, directions = np.linalg.svd(fields, full_matrices=False)
    assert np.allclose(np.abs(np.sum(whole.modes * directions[:3], axis=1)), 1.0, atol=1e-5)
    assert empty.grown(fields, 1e-4, None, 2).rank == 2
    assert empty.grown(fields, 100.0, None, 8).rank == 1
    assert empty.grown(fields, 100.0, lambda b: b.rank >= 2, 8).rank == 2
    assert sizes[2] > 1e-3


def test_damaged_and_foreign_files_are_refused_with_a_sentence(tmp_path):
    codec = ready(tmp_path)
    codec.take([wave(1, p) for p in (0, 1, 2, 3)], keys_of(4))
    path = tmp_path / "u.pod" / "basis-0001.npz"
    with pytest.raises(SchemaError, match="fields of shape \\(48,\\)"):
        BasisFiles(path.parent, (12,), 1.0)
    with pytest.raises(ConfigError, match="rank=1 is too small"):
        ready(tmp_path, rank=1)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ConfigError, match="cannot be read"):
        ready(tmp_path)


def test_a_sample_of_a_version_that_is_not_there_is_not_decoded(tmp_path):
    codec = ready(tmp_path)
    (stored, *_) = codec.take([wave(1, p) for p in (0, 1, 2, 3)], keys_of(4))
    with pytest.raises(SchemaError, match="names version 9 of the basis of 'u'; the study has 1"):
        codec.decode({**stored, "_u_version": np.asarray(9, np.int32)})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "no field"),
        ({"field": "u", "rank": 0}, "rank=0"),
        ({"field": "u", "error": 0}, "error=0"),
        ({"field": "u", "keep": {"mean": -1}}, "keeps mean within -1"),
    ],
)
def test_wrong_options_get_a_sentence(options, words):
    with pytest.raises(ConfigError, match=words):
        POD(**options)


def test_unknown_diagnostics_are_refused():
    with pytest.raises(UnknownName, match="Did you mean 'scale'"):
        POD(field="u", keep={"scael": 1.0})
    assert set(DIAGNOSTICS) == {"mean", "std", "min", "max", "rms", "scale"}


def test_fields_that_cannot_be_compressed_are_refused():
    with pytest.raises(SchemaError, match="only 48 numbers"):
        POD(field="u", rank=48).schema(LINE)
    with pytest.raises(SchemaError, match="array of floating numbers"):
        POD(field="mean").schema(LINE)
    codec = POD(field="u", rank=4)
    codec.schema(LINE)
    with pytest.raises(SchemaError, match="All members must agree"):
        codec.schema(Schema((dataclasses.replace(LINE.fields[0], shape=(50,)),)))
    with pytest.raises(SchemaError, match="has learned nothing yet"):
        codec.apply(wave(1))
