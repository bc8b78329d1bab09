"""The autoencoder codec: what it promises about every field, what it keeps when it cannot, its versions, and the patches below."""

import numpy as np
import pytest

from alearn.errors import ConfigError, SchemaError
from alearn.simulators.gray_scott import gray_scott
from alearn.testing.transform import SCHEMA, check_transform, keys_of
from alearn.transform.autoencoder import Autoencoder
from alearn.transform.diagnostics import spectrum_scale
from alearn.transform.monitor import Unrepresented
from alearn.transform.network import Patches, begun
from alearn.types import Field, Sample, Schema

PLANE = Schema((Field("v", (40, 30), "float32", "K"), Field("mean")))
X, Y = np.meshgrid(np.arange(40), np.arange(30), indexing="ij")


def bumps(rng, sharp=4.0):
    """Fronts at random places: what a global linear basis is bad at."""
    v = np.zeros((40, 30))
    for _ in range(3):
        a, b, r = rng.uniform(0, 40), rng.uniform(0, 30), rng.uniform(4, 9)
        v = np.maximum(v, 1 / (1 + np.exp((np.hypot(X - a, Y - b) - r) / sharp * 4)))
    return {"v": v.astype(np.float32), "mean": np.asarray(float(v.mean()))}


def ready(directory, **options):
    codec = Autoencoder(field="v", **{"latents": 8, "patch": 10, "error": 0.1, "learn": 8, "updates": 100, **options})
    codec.keep_in(directory, True)
    codec.schema(PLANE)
    return codec


def test_conformance():
    check_transform(lambda: Autoencoder(field="v", latents=12, error=0.05, updates=20, keep={"mean": 0.01}), tolerance=0.3)
    check_transform(lambda: Autoencoder(field="w", latents=20, patch=[8, 6], error=0.01, updates=0), tolerance=0.1)


def test_a_field_becomes_private_latents():
    assert Autoencoder(field="v", error=0.01).schema(SCHEMA).fields[1].dtype == "int16"
    out = Autoencoder(field="v", latents=5, patch=(8, 5)).schema(SCHEMA)
    assert out.fields[1:4] == (
        Field("_v_latents", (6, 6), "int8"), Field("_v_version", (), "int32"), Field("_v_misfit", (), "float32"),
    )  # fmt: skip
    assert out.scalars == ("energy", "n")


@pytest.mark.parametrize(("shape", "sides"), [((7,), (3,)), ((8, 6), (4, 6)), ((5, 4, 7), (2, 3, 7))])
def test_patches_join_to_what_was_cut(shape, sides):
    patches = Patches(shape, sides)
    fields = np.random.default_rng(0).random((3, *shape))
    cut = patches.cut(fields)
    assert cut.shape == (3, patches.number, patches.size)
    assert np.array_equal(patches.joined(cut), fields)
    first = fields[(0, *(slice(0, n) for n in sides))].ravel()
    assert np.array_equal(cut[0, 0], first)
    drawn = patches.drawn(fields, 50, np.random.default_rng(1))
    assert drawn.shape == (50, patches.size)
    assert np.isin(drawn, fields).all()


def test_it_begins_as_the_best_linear_codec_of_its_patches():
    rng = np.random.default_rng(0)
    fields = np.array([bumps(rng)["v"] for _ in range(6)], np.float64)
    patches = Patches((40, 30), (10, 10))
    network = begun(patches, fields, 5, 0.0, 1.0)
    cut = patches.cut(fields)
    cut = (cut - cut.mean(axis=2, keepdims=True)).reshape(-1, 100)
    left = np.linalg.svd(cut, compute_uv=False)[5:]
    found = network.decode(network.encode(fields))
    assert np.sum((found - fields) ** 2) == pytest.approx(np.sum(left**2), rel=0.02)


def test_training_improves_on_the_best_linear_codec(tmp_path):
    rng = np.random.default_rng(1)
    steps = [bumps(rng, 2.0) for _ in range(24)]
    errors = {}
    for updates in (0, 400):
        codec = ready(tmp_path / str(updates), latents=4, learn=16, updates=updates, error=0.01, misfit_mb=0.0)
        codec.take(steps[:16], keys_of(16))
        errors[updates] = np.mean([codec.take([s], keys_of(1, 20))[0]["_v_misfit"] for s in steps[16:]])
    assert errors[400] < 0.8 * errors[0]


def test_every_stored_field_decodes_within_what_is_stated_or_exactly(tmp_path):
    rng = np.random.default_rng(0)
    codec = ready(tmp_path, error=0.12, keep={"max": 0.1, "scale": 0.15})
    steps = [bumps(rng, rng.choice([1.0, 4.0])) for _ in range(40)]
    made = [m for i in range(0, 40, 8) for m in codec.take(steps[i : i + 8], keys_of(8, i))]
    scale = float(np.load(tmp_path / "v.autoencoder" / "network-0001.npz")["scale"])
    kept = set(codec._misfits.kept())
    assert 0 < len(kept) < 40
    for key, raw, stored in zip(keys_of(40), steps, made, strict=True):
        v = codec.decode(stored, key)["v"]
        assert (key in kept) == np.array_equal(v, raw["v"])
        assert np.sqrt(np.mean((v - raw["v"]) ** 2)) <= 0.12 * scale * 1.001
        assert abs(float(v.max()) - float(raw["v"].max())) <= 0.1001
        assert abs(spectrum_scale(v) - spectrum_scale(raw["v"])) <= 0.1501


def test_what_was_kept_raw_teaches_the_next_version_and_old_samples_stay_readable(tmp_path):
    rng = np.random.default_rng(2)
    codec = ready(tmp_path, latents=6, error=0.06, learn=6, updates=200)
    old = bumps(rng, 8.0)
    first = codec.take([old] + [bumps(rng, 8.0) for _ in range(5)], keys_of(6))[0]
    before = codec.decode(first, ("elsewhere", 0))["v"]
    assert not codec.refresh()
    sharp = [bumps(rng, 1.0) for _ in range(8)]
    misfits = [float(m["_v_misfit"]) for m in codec.take(sharp, keys_of(8, 6))]
    assert codec.refresh()
    assert codec.version == 2
    after = [float(codec.apply(s)["_v_misfit"]) for s in sharp]
    assert np.mean(after) < np.mean(misfits)
    assert np.array_equal(codec.decode(first, ("elsewhere", 0))["v"], before)
    assert not codec.refresh()  # nothing new since
    later = ready(tmp_path, latents=6, error=0.06, learn=6)
    assert later.version == 2
    assert np.array_equal(later.decode(first, ("elsewhere", 0))["v"], before)


def test_what_is_unlike_all_others_alarms_and_is_kept(tmp_path):
    rng = np.random.default_rng(3)
    codec, monitor = ready(tmp_path), Unrepresented(limit=3.0, confirm=2)
    codec.take([bumps(rng) for _ in range(8)], keys_of(8))
    wild = {"v": (1e4 * rng.standard_normal((40, 30))).astype(np.float32), "mean": np.asarray(0.0)}
    said = []
    for step in range(2):
        (made,) = codec.take([wild], keys_of(1, 10 + step))
        said.append(monitor.see(Sample("m0000", 1, step, 0.0, {}, made)))
        assert np.array_equal(codec.decode(made, ("m0000", 10 + step))["v"], wild["v"])
    assert said[0] is None
    assert "unlike all others" in said[1]


def test_nan_is_neither_learned_nor_hidden(tmp_path):
    rng = np.random.default_rng(4)
    codec = ready(tmp_path)
    bad = {"v": np.full((40, 30), np.nan, np.float32), "mean": np.asarray(0.0)}
    assert np.isnan(codec.take([bad], keys_of(1))[0]["_v_misfit"])
    assert codec.version == 0
    made = codec.take([bumps(rng), bad, bumps(rng)], keys_of(3, 1))
    assert codec.version == 1
    assert np.isnan(made[1]["_v_misfit"])
    assert np.isnan(codec.decode(made[1])["v"]).all()
    assert np.isfinite(codec.decode(made[2])["v"]).all()
    assert not codec._misfits.kept().keys() & {("m0000", 2)}


def test_constant_fields_are_no_trouble(tmp_path):
    codec = ready(tmp_path)
    still = {"v": np.full((40, 30), 3.0, np.float32), "mean": np.asarray(3.0)}
    made = codec.take([still] * 4, keys_of(4))
    assert np.allclose(codec.decode(made[0])["v"], 3.0, atol=0.01)


def test_gray_scott_members_never_seen_are_represented_by_what_others_taught(tmp_path):
    taught = [{"v": s["v"]} for k in (0.056, 0.062) for s in gray_scott(F=0.03, k=k, frames=8, grid=48)]
    unseen = [{"v": s["v"]} for s in gray_scott(F=0.04, k=0.06, frames=8, grid=48)]
    codec = Autoencoder(field="v", latents=16, error=0.2, learn=16, updates=200)
    codec.keep_in(tmp_path, True)
    codec.schema(Schema.of(taught[0], {}))
    codec.take(taught, keys_of(16))
    made = codec.take(unseen, keys_of(8, 16))
    assert np.median([float(m["_v_misfit"]) for m in made]) < 0.2


def test_damaged_and_foreign_files_are_refused_with_a_sentence(tmp_path):
    rng = np.random.default_rng(5)
    codec = ready(tmp_path, updates=0)
    (sample, *_) = codec.take([bumps(rng) for _ in range(4)], keys_of(4))
    with pytest.raises(ConfigError, match="has 8 latents for patches of \\[10, 10\\]"):
        ready(tmp_path, latents=4)
    with pytest.raises(SchemaError, match="names version 7"):
        codec.decode({**sample, "_v_version": np.asarray(7, np.int32)})
    (tmp_path / "v.autoencoder" / "network-0001.npz").write_bytes(b"PK")
    with pytest.raises(ConfigError, match="cannot be read"):
        ready(tmp_path)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"field": ""}, "has no field"),
        ({"latents": 0}, "latents=0"),
        ({"updates": -1}, "updates=-1"),
        ({"error": 0}, "error=0"),
        ({"keep": {"mean": -1}}, "keeps mean within -1"),
        ({"keep": {"meen": 1}}, "Did you mean 'mean'"),
        ({"patch": -2}, "patch=-2"),
    ],
)
def test_wrong_options_get_a_sentence(options, words):
    with pytest.raises(ConfigError, match=words):
        Autoencoder(**{"field": "v", **options})


def test_fields_that_cannot_be_compressed_are_refused():
    with pytest.raises(SchemaError, match="is int32"):
        Autoencoder(field="n").schema(SCHEMA)
    with pytest.raises(SchemaError, match="only 4 numbers"):
        Autoencoder(field="v", patch=2, latents=4).schema(SCHEMA)
    with pytest.raises(SchemaError, match="has 2 axes"):
        Autoencoder(field="v", patch=[2, 2, 2]).schema(SCHEMA)
