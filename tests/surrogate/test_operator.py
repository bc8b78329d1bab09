"""Neural operators on a bundled solver: from parameters and t to the field, and from one state to the next with roll-outs."""

import functools

import numpy as np
import pytest
import torch

from alearn.errors import ConfigError, UnknownName
from alearn.simulators.burgers import BOX, burgers
from alearn.space import Space
from alearn.surrogate import Batch, load_snapshot, save_snapshot
from alearn.surrogate.bodies import FNO, SpectralConv, UNet
from alearn.surrogate.operator import FieldOperator
from alearn.surrogate.rollout import NextState
from alearn.trainer import InlineTrainer
from alearn.types import Sample, Schema

CELLS, FRAMES = 32, 8
SPACE = Space.from_config({n: list(v) for n, v in BOX.items()})


@functools.cache
def solutions(n, seed):
    """``n`` runs of Burgers' equation: points in the unit cube, times, and fields ``n x T x cells``."""
    x = SPACE.sobol(n, seed=seed)
    runs = [list(burgers(**p, grid=CELLS, frames=FRAMES)) for p in SPACE.from_unit(x)]
    return x, np.array([f["t"] for f in runs[0]]), np.array([[f["u"] for f in run] for run in runs], dtype=np.float64)


def batch(n=24, seed=0):
    x, t, u = solutions(n, seed)
    X = np.concatenate([np.repeat(x, FRAMES, axis=0), np.tile(t, n)[:, None]], axis=1)
    return Batch(
        torch.as_tensor(X), torch.as_tensor(u.reshape(n * FRAMES, CELLS)), torch.ones(n * FRAMES), torch.arange(n).repeat_interleave(FRAMES)
    )


def relative(surrogate, test):
    off = surrogate.predict(test.X).mean - test.Y
    return float(off.norm() / (test.Y - test.Y.mean(dim=0)).norm())


SMALL = {"grid": [CELLS], "estimators": 2, "width": 12, "depth": 2}
KINDS = {
    "fno": lambda seed=0: FieldOperator(SPACE.d + 1, CELLS, True, seed, **SMALL, lr=1e-2),
    "unet": lambda seed=0: FieldOperator(SPACE.d + 1, CELLS, True, seed, **SMALL, body="unet", lr=1e-2),
    "next_state": lambda seed=0: NextState(SPACE.d + 1, CELLS, True, seed, **SMALL, lr=1e-2),
}


@pytest.fixture(scope="module")
def fitted():
    made = {name: make() for name, make in KINDS.items()}
    for surrogate in made.values():
        surrogate.fit(batch(), updates=160)
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns_the_solver(fitted, kind):
    assert relative(fitted[kind], batch(16, seed=9)) < 0.5


@pytest.mark.parametrize("kind", KINDS)
def test_posterior_and_prediction_agree_and_are_calibrated_alike(fitted, kind):
    surrogate = fitted[kind]
    X = batch(4, seed=9).X
    mean, std, _ = surrogate.predict(X)
    posterior = surrogate.posterior(X.reshape(4, FRAMES, -1))
    assert posterior.mean.shape == (4, FRAMES, CELLS)
    torch.testing.assert_close(posterior.mean.detach().reshape(-1, CELLS), mean, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(posterior.variance.detach().sqrt().reshape(-1, CELLS), std, rtol=1e-3, atol=1e-4)
    surrogate.scale_variance(torch.full((CELLS,), 2.0))
    torch.testing.assert_close(surrogate.predict(X).epistemic, 2.0 * std, rtol=1e-4, atol=1e-6)
    surrogate.scale_variance(torch.ones(CELLS))
    point = X[:1].clone().requires_grad_()
    surrogate.posterior(point).variance.sum().backward()
    assert float(point.grad.abs().sum()) > 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_snapshot_gives_the_same_surrogate(fitted, kind, tmp_path):
    name = "next_state" if kind == "next_state" else "operator"
    save_snapshot(tmp_path / "s.pt", fitted[kind], name=name, space=SPACE, outputs=[f"u.cell{i}" for i in range(CELLS)])
    again, _ = load_snapshot(tmp_path / "s.pt")
    X = batch(4, seed=9).X
    assert torch.equal(again.predict(X).mean, fitted[kind].predict(X).mean)


def test_every_estimator_rolls_out_by_itself(fitted):
    surrogate = fitted["next_state"]
    X = batch(3, seed=9).X
    with torch.no_grad():
        values = surrogate.posterior(X).values
        points = 2.0 * X[::FRAMES, :-1].float() - 1.0
        state = surrogate.first[1](points).reshape(3, 1, CELLS)
        for _ in range(FRAMES - 1):
            state = surrogate._next(1, state, points)
    last = state.double().flatten(1) * surrogate.scaling.scale + surrogate.scaling.mean
    torch.testing.assert_close(values[1, FRAMES - 1 :: FRAMES], last, rtol=1e-3, atol=1e-4)
    assert float((values[0] - values[1]).abs().max()) > 1e-3


def test_between_two_steps_a_roll_out_is_linear_and_before_the_first_constant(fitted):
    surrogate = fitted["next_state"]
    x, t, _ = solutions(1, 3)
    rows = np.array([t[2], 0.5 * (t[2] + t[3]), t[3], t[0], t[0] - 1.0])
    mean = surrogate.predict(torch.as_tensor(np.concatenate([np.repeat(x, 5, axis=0), rows[:, None]], axis=1))).mean
    torch.testing.assert_close(mean[1], 0.5 * (mean[0] + mean[2]), rtol=1e-4, atol=1e-5)
    assert torch.equal(mean[3], mean[4])


def test_steps_are_learned_from_pairs_alone():
    """What a buffer of pairs draws: two neighbouring steps of a member, members in any order."""
    data = batch()
    surrogate = KINDS["next_state"]()
    surrogate.observe(data)
    before = relative(surrogate, data)
    generator = torch.Generator().manual_seed(0)
    for _ in range(160):
        member = torch.randint(24, (8,), generator=generator)
        step = torch.randint(FRAMES - 1, (8,), generator=generator)
        rows = member * FRAMES + step
        surrogate.update(data.take(torch.cat([rows, rows + 1])))
    assert int(surrogate.updates) == 160
    assert relative(surrogate, data) < 0.7 * before


def test_rows_of_no_pair_teach_no_step_and_break_nothing():
    surrogate = KINDS["next_state"]()
    data = batch()
    surrogate.observe(data)
    lone = data.take(torch.arange(0, 24 * FRAMES, FRAMES) + 3)
    before = [p.clone() for p in surrogate.step.parameters()]
    assert surrogate.update(lone) == 0.0
    assert all(torch.equal(a, b) for a, b in zip(before, surrogate.step.parameters(), strict=True))


def test_a_spectral_convolution_of_all_modes_can_be_the_identity_and_knows_no_grid():
    conv = SpectralConv(1, (8, 6), 8)
    with torch.no_grad():
        conv.weight.zero_()
        conv.weight[..., 0] = 1.0
    smooth = torch.cos(2 * torch.pi * torch.arange(8.0) / 8)[:, None] * torch.sin(2 * torch.pi * torch.arange(6.0) / 6)
    torch.testing.assert_close(conv(smooth[None, None])[0, 0], smooth, atol=1e-5, rtol=0)


@pytest.mark.parametrize("body", [FNO(2, 3, (9, 7), 4, 2, 3), UNet(2, 3, (9, 7), 4, 3), UNet(2, 3, (5,), 4, 4)])
def test_bodies_keep_any_grid(body):
    grid = (5,) if getattr(body, "dimensions", 2) == 1 else (9, 7)
    assert body(torch.randn(4, 2, *grid)).shape == (4, 3, *grid)


def test_the_trainer_tells_the_grid_and_decodes_nothing():
    schema = Schema.of({"u": np.zeros(CELLS, np.float32), "mean": 0.0})
    x, t, u = solutions(6, 0)
    given = {"outputs": ["u"], "device": "cpu", "surrogate": "operator", "buffer_options": {"watermark": 4}}
    trainer = InlineTrainer(SPACE, schema, surrogate_options={"estimators": 2, "width": 8, "depth": 1}, refit_updates=30, **given)
    assert trainer.surrogate.grid == (CELLS,)
    for i, p in enumerate(SPACE.from_unit(x)):
        trainer.add(
            [Sample(f"m{i:04d}", 1, s, float(t[s]), p, {"u": u[i, s].astype(np.float32), "mean": np.array(0.0)}) for s in range(FRAMES)]
        )
    trainer.refit()
    decoder = trainer.features.decoders()[0]
    assert decoder.modes is None
    assert trainer.trajectory_std(x).shape == (6,)
    running = {"m0003": (tuple(x[3]), 3, float(t[3]), FRAMES)}
    (scored,) = trainer.member_scores(running, best_std=0.5, seconds_per_step=1.0, startup_s=0.0)
    assert scored.remaining_steps == FRAMES - 4
    with pytest.raises(ConfigError, match="learns whole fields of one shape, and the outputs are mean, u"):
        InlineTrainer(SPACE, schema, **{**given, "outputs": ["u", "mean"]})


def test_wrong_options_are_named():
    with pytest.raises(UnknownName, match="Did you mean 'unet'"):
        FieldOperator(2, 16, True, grid=[16], body="unit")
    with pytest.raises(ConfigError, match="no whole fields"):
        FieldOperator(2, 17, True, grid=[16])
    with pytest.raises(ConfigError, match="one or two axes"):
        FieldOperator(2, 8, True, grid=[2, 2, 2])
    with pytest.raises(ConfigError, match="needs t"):
        NextState(2, 16, False)
    with pytest.raises(ConfigError, match="unroll=0"):
        NextState(2, 16, True, unroll=0)


def test_a_buffer_of_pairs_feeds_the_next_state_operator_from_the_stream():
    schema = Schema.of({"u": np.zeros(CELLS, np.float32)})
    x, t, u = solutions(24, 0)
    trainer = InlineTrainer(
        SPACE, schema, outputs=["u"], device="cpu", surrogate="next_state", buffer="paired", batch_size=32, updates_per_row=1.0,
        surrogate_options={k: v for k, v in SMALL.items() if k != "grid"} | {"lr": 1e-2},
        buffer_options={"watermark": 16, "length": 4}, holdout_share=0.0,
    )  # fmt: skip
    for i, p in enumerate(SPACE.from_unit(x)):
        trainer.add([Sample(f"m{i:04d}", 1, s, float(t[s]), p, {"u": u[i, s].astype(np.float32)}) for s in range(FRAMES)])
        trainer.work(1e9, max_updates=5)
    assert trainer.updates > 100
    assert relative(trainer.surrogate, batch(16, seed=9)) < 0.8
