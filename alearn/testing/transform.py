"""What every transform must do: run ``check_transform`` over your own in your tests."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from alearn.transform.base import Codec, Key, Learning, Transform
from alearn.types import ALLOWED_DTYPES, Array, Field, Schema

SCHEMA = Schema(
    (
        Field("energy", (), "float64", "J"),
        Field("v", (16, 12), "float32", "m/s"),
        Field("w", (16, 12), "float64"),
        Field("n", (), "int32"),
    )
)
"""Steps of a kind that most transforms can work on."""


def steps_of(schema: Schema, n: int, seed: int = 0) -> list[dict[str, Array]]:
    """``n`` steps: travelling waves of a few wavelengths in floating fields, small whole numbers in others."""
    rng = np.random.default_rng(seed)
    out = []
    for step in range(n):
        values: dict[str, Array] = {}
        for number, f in enumerate(schema.fields):
            grid = np.indices(f.shape, dtype=np.float64).sum(axis=0) if f.shape else np.zeros(())
            wave = 1.0 + np.sin(2 * math.pi * (grid / 12 + 0.07 * step)) * (1 + 0.1 * number) + 0.2 * np.cos(grid / 3 - 0.3 * step)
            exact = wave if f.dtype.startswith("float") else rng.integers(0, 9, f.shape)
            values[f.name] = np.asarray(exact, dtype=f.dtype)
        out.append(values)
    return out


def keys_of(n: int, first: int = 0) -> list[Key]:
    """Identities of ``n`` steps of one member."""
    return [("m0000", first + step) for step in range(n)]


def check_schema(given: Schema, out: Schema) -> None:
    """Assert that what a transform announces can travel and be stored."""
    assert isinstance(out, Schema), f"schema() returned a {type(out).__name__}; give a Schema."
    assert out.fields, "schema() left no field."
    assert len(set(out.names)) == len(out.names), f"schema() has a name twice: {out.names}."
    for f in out.fields:
        assert f.name.isidentifier(), f"The field '{f.name}' is no identifier."
        assert f.dtype in ALLOWED_DTYPES, f"The field '{f.name}' has dtype {f.dtype}; allowed: {', '.join(ALLOWED_DTYPES)}."
        assert all(isinstance(n, int) and n >= 0 for n in f.shape), f"The field '{f.name}' has shape {f.shape}."
    assert Schema.from_json(out.to_json()) == out, "The schema does not survive its journey as JSON."
    untouched = [f for f in given.fields if f.name in out.names and f in out.fields]
    for f in untouched:
        assert out.fields[out.names.index(f.name)].unit == f.unit, f"The field '{f.name}' lost its unit."


def check_steps(out: Schema, steps: Sequence[dict[str, Array]]) -> None:
    """Assert that steps carry exactly what was announced."""
    for values in steps:
        assert tuple(sorted(values)) == tuple(sorted(out.names)), f"A step carries {sorted(values)}; announced were {sorted(out.names)}."
        for f in out.fields:
            array = values[f.name]
            assert isinstance(array, np.ndarray), f"The field '{f.name}' is a {type(array).__name__}; give numpy arrays."
            assert array.shape == f.shape, f"The field '{f.name}' has shape {array.shape}; announced was {f.shape}."
            assert array.dtype.name == f.dtype, f"The field '{f.name}' has dtype {array.dtype.name}; announced was {f.dtype}."


def check_transform(make: Callable[[], Transform], *, given: Schema = SCHEMA, tolerance: float = 0.0) -> None:
    """The conformance suite: assert everything that writer, reader and archive rely on.

    Args:
        make: builds a fresh transform; called several times, as each place does.
        given: what a raw step carries.
        tolerance: for a codec, the largest error after decoding, relative to the field's standard deviation.
    """
    steps = steps_of(given, 24)
    before = [{n: v.copy() for n, v in s.items()} for s in steps]
    with tempfile.TemporaryDirectory() as folder:
        here = make()
        if isinstance(here, Learning):
            check_learning(make, given, Path(folder))
            here.keep_in(Path(folder), True)
        out = here.schema(given)
        check_schema(given, out)
        assert here.schema(given) == out, "schema() of the same steps gives another answer the second time."
        made = here.take(steps, keys_of(len(steps))) if isinstance(here, Learning) else [here.apply(s) for s in steps]
        check_steps(out, made)
        for old, new in zip(before, steps, strict=True):
            for name in old:
                assert np.array_equal(old[name], new[name]), f"The transform changed its argument '{name}'."
        there = make()
        if isinstance(there, Learning):
            there.keep_in(Path(folder), False)
        assert there.schema(given) == out, "Two instances of the same options announce different steps."
        for step, mine in zip(steps, made, strict=True):
            theirs = there.apply(step)
            for name in out.names:
                if not (isinstance(here, Learning) and name.startswith("_")):
                    assert np.allclose(theirs[name], mine[name], rtol=1e-5, atol=1e-5, equal_nan=True), (
                        f"Writer and reader disagree about '{name}'."
                    )
        if isinstance(there, Codec):
            check_codec(there, given, out, steps, made, tolerance)
    check_frozen(make, given)


def check_frozen(make: Callable[[], Transform], given: Schema) -> None:
    """Assert that read-only arrays, as the transport hands them over, are good enough, and NaN passes."""
    (step,) = steps_of(given, 1)
    with tempfile.TemporaryDirectory() as folder:
        transform = make()
        if isinstance(transform, Learning):
            transform.keep_in(Path(folder), True)
        out = transform.schema(given)
        sound = {n: np.frombuffer(v.tobytes(), v.dtype).reshape(v.shape) for n, v in step.items()}
        broken = {n: np.full_like(v, np.nan) if v.dtype.kind == "f" else v for n, v in step.items()}
        if isinstance(transform, Learning):
            made = transform.take([sound, broken], keys_of(2))
        else:
            made = [transform.apply(sound), transform.apply(broken)]
        check_steps(out, made)
        kept = [v for v in made[1].values() if v.dtype.kind == "f"]
        assert not kept or any(np.isnan(v).any() for v in kept), "NaN went in and none came out: no monitor would see it."


def check_codec(
    codec: Codec, given: Schema, out: Schema, raw: Sequence[dict[str, Array]], made: Sequence[dict[str, Array]], tolerance: float
) -> None:
    """Assert that decoding gives back what went in, within the tolerance."""
    assert set(codec.encoded) <= set(out.names), f"The codec needs {codec.encoded}; stored are {out.names}."
    again = codec.decoded(out)
    assert {f.name: f for f in again.fields} == {f.name: f for f in given.fields}, "Decoded steps are not what the raw ones were."
    for key, values, stored in zip(keys_of(len(raw)), raw, made, strict=True):
        decoded = codec.decode(stored, key)
        check_steps(again, [decoded])
        for name, value in values.items():
            error = float(np.max(np.abs(decoded[name].astype(np.float64) - value), initial=0.0))
            size = float(np.std(value.astype(np.float64))) or 1.0
            assert error <= max(tolerance, 1e-5) * size, (
                f"The decoded field '{name}' is off by {error / size:.3g} of its standard deviation."
            )


def check_learning(make: Callable[[], Transform], given: Schema, folder: Path) -> None:
    """Assert that versions are kept, found again, followed by others, and never made where nothing is to be learned."""
    learner, follower = make(), make()
    assert isinstance(learner, Learning)
    assert isinstance(follower, Learning)
    place = folder / "learning"
    learner.keep_in(place, True)
    follower.keep_in(place, False)
    for one in (learner, follower):
        one.schema(given)
        assert one.version == 0, "A codec that has seen nothing has a version."
        assert one.wanted > 0, "A codec without a version wants no steps."
    learner.take(steps_of(given, 12), keys_of(12))
    assert learner.version == 1, "The first steps made no first version."
    assert learner.wanted == 0, "A codec with a version still wants steps."
    assert follower.refresh(), "A new version was not found."
    assert follower.version == learner.version
    follower.take(steps_of(given, 4, seed=3), keys_of(4, 50))
    assert follower.version == learner.version, "A codec learned where it was told not to."
    later = make()
    assert isinstance(later, Learning)
    later.keep_in(place, True)
    later.schema(given)
    assert later.version == learner.version, "After a restart the version is another."
