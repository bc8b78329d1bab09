"""Training on whole fields: coefficients learned while members stream, snapshots, kills, and the error on the field."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

from alearn.errors import ConfigError
from alearn.space import Space
from alearn.trainer import InlineTrainer
from alearn.types import Sample, Schema

SMALL = {"estimators": 4, "width": 32, "depth": 2, "max_updates": 2000}
CELLS = np.linspace(0.0, 1.0, 96)
T = np.linspace(0.0, 1.0, 6)


@dataclass
class Wave:
    """A bump that moves with ``speed`` and decays with ``loss``: a field of 8 x 12 cells, and its mean."""

    space: Space = field(default_factory=lambda: Space.from_config({"speed": [0.0, 0.5], "loss": [0.0, 2.0]}))
    schema: Schema = field(default_factory=lambda: Schema.of({"u": np.zeros((8, 12), np.float32), "mean": 0.0}, {"u": "m"}))

    def fields(self, p: Any) -> np.ndarray:
        bump = np.exp(-25.0 * (CELLS - 0.25 - p["speed"] * T[:, None]) ** 2) * np.exp(-p["loss"] * T)[:, None]
        return bump.reshape(len(T), 8, 12).astype(np.float32)

    def samples(self, number: int, p: Any, steps: int | None = None) -> list[Sample]:
        frames = self.fields(p)[:steps]
        return [Sample(f"m{number:04d}", 1, i, float(T[i]), p, {"u": u, "mean": np.array(u.mean())}) for i, u in enumerate(frames)]

    def points(self, n: int, seed: int = 5) -> list[dict[str, Any]]:
        return self.space.from_unit(self.space.sobol(n, seed=seed))


@dataclass
class WaveTruth:
    parameters: Any
    values: np.ndarray
    fields: Any
    outputs: tuple[str, ...] = ("mean",)
    t: np.ndarray = field(default_factory=lambda: T)


@pytest.fixture
def wave():
    return Wave()


@pytest.fixture
def truth(wave):
    points = wave.points(16, seed=77)
    u = np.stack([wave.fields(p) for p in points])
    return WaveTruth(points, u.mean(axis=(2, 3))[..., None], {"u": u})


def make(wave, outputs=("u",), **options):
    given = {"surrogate_options": SMALL, "device": "cpu", "buffer_options": {"watermark": 16}, "field": {"first": 24}, **options}
    return InlineTrainer(wave.space, wave.schema, outputs=outputs, **given)


def feed(trainer, wave, numbers):
    points = wave.points(64)
    for n in numbers:
        trainer.add(wave.samples(n, points[n]))
        trainer.work(1e9, max_updates=8)


def test_it_learns_a_whole_field_and_says_how_wrong_it_is(wave, truth):
    trainer = make(wave, outputs=("u", "mean"), updates_per_row=2.0)
    feed(trainer, wave, range(10))
    trainer.refit()
    early, _ = trainer.evaluate(truth)
    feed(trainer, wave, range(10, 40))
    trainer.final_fit()
    late, calibration = trainer.evaluate(truth)
    assert trainer.features.outputs[:2] == ("mean", "u.pod0")
    assert trainer.fields == ("mean", "u")
    assert late["rmse"] < 0.6 * early["rmse"]
    assert late["relative_l2"] < 0.1
    assert late["relative_l2"] <= late["relative_l2_p95"] <= late["relative_l2_p99"] <= late["relative_l2_max"]
    assert 0.8 <= calibration["coverage95"] <= 1.0
    decoder = trainer.features.decoders()[0]
    assert (decoder.shape, decoder.unit, decoder.first) == ((8, 12), "m", 1)


def test_fields_wait_for_a_basis_and_are_all_learned(wave):
    trainer = make(wave)
    points = wave.points(8)
    for n in range(3):
        assert trainer.add(wave.samples(n, points[n])) == 0
        assert trainer.add(wave.samples(n, points[n])) == 0  # known, though not learned yet
    assert trainer.samples == 18
    trainer.ended("m0001", killed=True)
    assert trainer.add(wave.samples(3, points[3])) == 24  # enough: those that waited come first
    assert trainer.samples == 24
    few = make(wave)
    few.add(wave.samples(0, points[0]))
    few.refit()  # the first fit does not wait for more
    assert few.updates > 0


def test_fields_that_are_not_finite_are_left_out(wave):
    trainer = make(wave)
    broken = wave.samples(0, wave.points(1)[0])
    broken[2].values["u"][0, 0] = np.nan
    trainer.add(broken)
    trainer.refit()
    assert trainer.buffered == 5


@pytest.mark.parametrize("members", [2, 12])
def test_a_restored_training_goes_on_exactly(wave, tmp_path, members):
    a = make(wave, seed=3)
    feed(a, wave, range(members))
    a.snapshot(tmp_path)
    b = make(wave, seed=3)
    assert b.restore(tmp_path)
    assert b.samples == a.samples
    for trainer in (a, b):
        feed(trainer, wave, range(20))
        trainer.refit()
    for key, value in a.surrogate.state_dict().items():
        torch.testing.assert_close(value, b.surrogate.state_dict()[key], rtol=0, atol=0)
    for mine, theirs in zip(a.features.decoders(), b.features.decoders(), strict=True):
        np.testing.assert_array_equal(mine.modes, theirs.modes)


def test_the_uncertainty_of_a_field_counts_coefficients_by_their_variance(wave):
    trainer = make(wave, holdout_share=0.0)
    feed(trainer, wave, range(12))
    trainer.refit()
    point = wave.space.sobol(5, seed=1)
    decoder = trainer.features.decoders()[0]
    rows = torch.as_tensor(trainer.features.inputs(point, trainer.times))
    std = trainer.surrogate.predict(rows).epistemic.numpy()[:, decoder.columns][:, : decoder.used].reshape(5, len(trainer.times), -1)
    scale = trainer.surrogate.output_scale.numpy()[decoder.columns][: decoder.used]
    expected = np.sqrt((std**2).sum(axis=2).mean(axis=1) / (scale**2).sum())
    np.testing.assert_allclose(trainer.trajectory_std(point), expected, rtol=1e-4)


def test_running_members_are_scored_by_what_their_fields_have_left_to_teach(wave):
    trainer = make(wave)
    feed(trainer, wave, range(12))
    trainer.refit()
    ask = {"best_std": 0.5, "seconds_per_step": 1.0, "startup_s": 0.0}
    points = wave.points(64)
    for n in range(20, 26):  # forecast when they are fresh, then seen to their end: without these nobody is judged
        rows = wave.samples(n, points[n])
        trainer.add(rows[:1])
        trainer.member_scores({f"m{n:04d}": (tuple(wave.space.to_unit([points[n]])[0]), 0, 0.0, 6)}, **ask)
        trainer.add(rows[1:])
        trainer.ended(f"m{n:04d}")
    p = points[40]
    trainer.add(wave.samples(40, p, steps=3))
    x = tuple(wave.space.to_unit([p])[0])
    (scored,) = trainer.member_scores({"m0040": (x, 2, float(T[2]), 6)}, **ask)
    assert 0 < scored.remaining_value < 10
    assert scored.remaining_steps == 3
    assert scored.error > 0


def test_a_gaussian_process_learns_fields_too(wave, truth):
    trainer = make(wave, surrogate="gp", surrogate_options={"max_updates": 30}, field={"rank": 6, "error": 0.05})
    feed(trainer, wave, range(12))
    trainer.refit()
    error, _ = trainer.evaluate(truth)
    assert error["relative_l2"] < 0.15


def test_a_test_set_without_the_field_is_refused(wave, truth):
    trainer = make(wave)
    feed(trainer, wave, range(4))
    trainer.refit()
    truth.fields = {}
    with pytest.raises(ConfigError, match="the surrogate learns u; they share none"):
        trainer.evaluate(truth)


def test_options_of_fields(wave):
    assert make(wave, field={"elements": 96}).features.m == 96
    assert make(wave, field={"rank": 3}).features.outputs == ("u.pod0", "u.pod1", "u.pod2")
    with pytest.raises(ConfigError, match="no option 'modes'"):
        make(wave, field={"modes": 3})
