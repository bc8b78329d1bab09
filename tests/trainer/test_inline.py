import numpy as np
import pytest
import torch

from alearn.errors import ConfigError, UnknownName
from alearn.types import Sample

SMALL = {"estimators": 4, "width": 32, "depth": 2}


def weights_of(trainer):
    return {k: v.clone() for k, v in trainer.surrogate.state_dict().items()}


def assert_same(a, b):
    assert a.keys() == b.keys()
    for key, value in a.items():
        torch.testing.assert_close(value, b[key], rtol=0, atol=0, equal_nan=True)


# --- learning -------------------------------------------------------------------------------------------------------


def test_it_learns_from_the_stream_and_is_calibrated(make, stream, truth):
    trainer = make(updates_per_row=2.0, refit_updates=150, surrogate_options={**SMALL, "max_updates": 2000})
    stream(trainer, range(12))
    trainer.refit()
    early, _ = trainer.evaluate(truth)
    stream(trainer, range(12, 40))
    trainer.refit()
    late, calibration = trainer.evaluate(truth)
    trainer.final_fit()
    final, after = trainer.evaluate(truth)
    assert early["mean"] < 1.0  # the mean of all data would give about one
    assert late["mean"] < 0.5 * early["mean"]
    assert final["mean"] < late["mean"]
    assert final["mean"] < 0.06
    for found in (calibration, after):
        assert 0.8 <= found["coverage95"] <= 1.0
        assert 0.3 < found["z_median"] < 1.6
    assert trainer.samples == 40 * 16
    assert np.isfinite(trainer.loss)


def test_prequential_error_falls_and_knows_its_members(make, stream):
    trainer = make(holdout_share=0.0, updates_per_row=2.0)
    stream(trainer, range(8))
    first = trainer.residuals([f"m{i:04d}" for i in range(4, 8)])
    stream(trainer, range(8, 32))
    last = trainer.residuals([f"m{i:04d}" for i in range(24, 32)])
    assert np.isfinite(first).all()
    assert np.nanmean(last) < 0.6 * np.nanmean(first)
    assert np.isnan(trainer.residuals(["m9999"])).all()
    assert 0 < trainer.prequential()["coverage95"] <= 1


def test_a_gaussian_process_learns_by_refits_alone(make, toy, truth):
    trainer = make(surrogate="gp", surrogate_options={}, outputs=["z"], holdout_share=0.0)
    for i, p in enumerate(toy.points(12, seed=5)):
        trainer.add(toy.samples(i, p)[::4])
        assert trainer.work(0.01) == 0
    trainer.refit()
    error, calibration = trainer.evaluate(truth)
    assert error["mean"] < 0.3
    assert calibration["coverage95"] > 0.5
    assert trainer.trajectory_std(np.array([[0.5, 0.5]])).shape == (1,)


def test_one_step_members_without_t(make, toy):
    trainer = make(over_t=False, holdout_share=0.0)
    points = toy.points(40, seed=5)
    for i, p in enumerate(points):
        trainer.add(toy.samples(i, p, steps=1))
    trainer.refit()
    mean, std = trainer.predict(points[:3], [0.0])
    assert mean.shape == std.shape == (3, 1, 2)
    assert trainer.parameter_model().num_outputs == 2
    assert np.abs(mean[:, 0, 1] - [p["a"] for p in points[:3]]).max() < 0.2


# --- determinism and snapshots --------------------------------------------------------------------------------------


def test_the_same_seed_and_order_give_the_same_weights(make, stream):
    a, b, c = make(seed=1), make(seed=1), make(seed=2)
    for trainer in (a, b, c):
        stream(trainer, range(6))
        trainer.refit()
    assert_same(weights_of(a), weights_of(b))
    assert any((v != weights_of(c)[k]).any() for k, v in weights_of(a).items())


@pytest.mark.parametrize("buffer", ["reservoir", "firo", "fifo"])
def test_a_restored_training_goes_on_exactly(make, stream, toy, tmp_path, buffer):
    a = make(buffer=buffer, holdout_share=0.3, seed=4)
    stream(a, range(10))
    a.refit()
    a.ended("m0003", killed=True)
    a.hold("m0030")
    a.add(toy.samples(30, toy.points(64, seed=5)[30], steps=5))
    a.snapshot(tmp_path)
    b = make(buffer=buffer, holdout_share=0.3, seed=4)
    assert b.restore(tmp_path)
    assert (b.updates, b.samples, b.buffered) == (a.updates, a.samples, a.buffered)
    for trainer in (a, b):
        trainer.add(toy.samples(30, toy.points(64, seed=5)[30]))
        stream(trainer, range(10, 16))
        trainer.refit()
        trainer.work(1e9, max_updates=20)
    assert_same(weights_of(a), weights_of(b))
    assert a.prequential() == b.prequential()
    assert a.loss == b.loss


def test_samples_that_come_again_after_a_restore_are_dropped(make, stream, toy, tmp_path):
    a = make()
    stream(a, range(4))
    a.snapshot(tmp_path)
    b = make()
    assert b.restore(tmp_path)
    points = toy.points(64, seed=5)
    again = [s for n in range(4) for s in toy.samples(n, points[n])]
    assert b.add(again) == 0
    assert b.add(again + toy.samples(4, points[4]) + toy.samples(4, points[4])) == 16
    assert b.samples == a.samples + 16


def test_a_snapshot_of_another_study_is_refused_by_name(make, stream, tmp_path):
    a = make()
    stream(a, range(2))
    a.snapshot(tmp_path)
    with pytest.raises(ConfigError, match="outputs"):
        make(outputs=["z", "y"]).restore(tmp_path)
    with pytest.raises(ConfigError, match="buffer = Reservoir"):
        make(buffer="fifo").restore(tmp_path)
    with pytest.raises(ConfigError, match="options"):
        make(surrogate_options={"estimators": 5}).restore(tmp_path)
    assert not make().restore(tmp_path / "empty")


def test_a_diverged_training_recovers(make, stream, truth):
    trainer = make(updates_per_row=4.0)
    stream(trainer, range(12), updates=10)
    before, _ = trainer.evaluate(truth)
    with torch.no_grad():
        for p in trainer.surrogate.net.parameters():
            p.fill_(float("nan"))
    stream(trainer, range(12, 16), updates=10)
    after, _ = trainer.evaluate(truth)
    assert np.isfinite(after["mean"])
    assert after["mean"] < 2 * before["mean"] + 0.1


# --- policy of the stream -------------------------------------------------------------------------------------------


def test_the_trainer_idles_when_it_has_made_its_updates(make, toy):
    trainer = make(updates_per_row=0.5, batch_size=16, holdout_share=0.0)
    p = toy.points(64, seed=5)
    for i in range(20):
        trainer.add(toy.samples(i, p[i]))
    done = trainer.work(1e9)
    assert done == int(0.5 * (320 + 256))
    assert trainer.work(1e9) == 0


def test_rows_wait_while_training_is_behind_and_none_is_lost(make, toy):
    trainer = make(min_updates_per_row=0.2, batch_size=16, holdout_share=0.0)
    p = toy.points(64, seed=5)
    for i in range(40):
        trainer.add(toy.samples(i, p[i]))
    assert trainer.holding
    while trainer.holding:
        assert trainer.work(1e9, max_updates=5) > 0
    assert trainer.buffered == 640


def test_a_full_buffer_of_unseen_rows_holds_and_then_takes_all(make, toy):
    trainer = make(buffer_options={"capacity": 50, "watermark": 10}, holdout_share=0.0, batch_size=16)
    p = toy.points(64, seed=5)
    for i in range(10):
        trainer.add(toy.samples(i, p[i]))
    assert trainer.holding
    while trainer.holding:
        assert trainer.work(1e9, max_updates=1) == 1
    assert trainer.buffer.counts.received == 160


def test_samples_that_are_not_finite_cost_nothing(make, toy):
    trainer = make(holdout_share=0.0)
    p = toy.points(2, seed=5)[0]
    bad = [Sample(s.member, 1, s.step, s.t, p, {"y": np.array(np.nan), "z": s.values["z"]}) for s in toy.samples(0, p)]
    assert trainer.add(bad) == 0
    assert trainer.add(toy.samples(1, p)) == 16
    assert trainer.work(1e9, max_updates=3) in (0, 3)
    trainer.refit()
    assert np.isfinite(trainer.loss)


# --- hold-out and calibration ---------------------------------------------------------------------------------------


def test_held_out_members_are_judged_before_they_are_learned(make, toy):
    trainer = make(holdout_share=0.0)
    p = toy.points(64, seed=5)
    trainer.hold("m0000")
    for i in range(1, 9):
        trainer.add(toy.samples(i, p[i]))
    trainer.add(toy.samples(0, p[0]))
    assert trainer.buffered == 8 * 16
    trainer.work(1e9, max_updates=100)
    trainer.refit()
    assert trainer.buffered == 9 * 16
    assert trainer._jury.calibrator.groups == 1


def test_an_unfinished_held_out_member_waits_until_it_is_quiet_or_ended(make, toy):
    trainer = make(holdout_share=0.0)
    p = toy.points(64, seed=5)
    for name in ("m0000", "m0001"):
        trainer.hold(name)
    for i in range(6, 12):
        trainer.add(toy.samples(i, p[i]))
    trainer.add(toy.samples(0, p[0], steps=5))
    trainer.add(toy.samples(1, p[1], steps=5))
    trainer.refit()
    assert trainer._jury.calibrator.groups == 0
    trainer.ended("m0000", killed=True)
    trainer.refit()  # m0001 streamed nothing since the last refit either
    assert trainer._jury.calibrator.groups == 2


def test_overconfidence_is_corrected(make, stream, truth):
    """Estimators that are nearly copies are overconfident; the calibration must widen them."""
    bold = make(surrogate_options={"estimators": 2, "width": 32, "depth": 2, "bootstrap": "none"}, holdout_share=0.4)
    stream(bold, range(30), updates=4)
    bold.refit()
    factor = bold._jury.factor
    _, with_factor = bold.evaluate(truth)
    bold.surrogate.scale_variance(torch.ones(2))
    _, without = bold.evaluate(truth)
    assert (factor > 1.05).any()
    assert abs(with_factor["coverage95"] - 0.95) < abs(without["coverage95"] - 0.95)


# --- answers --------------------------------------------------------------------------------------------------------


def test_the_value_of_continuing(make, stream, toy):
    trainer = make(holdout_share=0.0)
    assert trainer.member_scores({"m0000": ((0.5, 0.5), 1, 0.3, 16)}, best_std=1.0, seconds_per_step=0.1, startup_s=1.0) == []
    stream(trainer, range(12))
    trainer.refit()  # a surrogate that contradicts what it has learned is not to be trusted with the rest
    known = trainer.features.X[0]
    x = {
        "m0000": (tuple(known), 7, float(toy.t[7]), 16),
        "m0050": ((0.99, 0.01), 7, float(toy.t[7]), 0),
        "m0051": ((0.5, 0.5), 15, 5.0, 16),
    }
    ask = {"best_std": 0.5, "seconds_per_step": 0.1, "startup_s": 0.4}
    scores = {s.member: s for s in trainer.member_scores(x, **ask)}
    assert set(scores) == {"m0000", "m0050"}  # m0051 has nothing left
    one = scores["m0000"]
    assert one.remaining_steps == 8
    assert np.isnan(one.remaining_value)  # no member was forecast and seen to its end: nobody knows
    assert np.isfinite(one.surprise)
    assert np.isnan(scores["m0050"].surprise)


def test_the_value_is_at_least_what_the_forecasts_of_members_seen_to_their_end_came_to(make, stream, toy):
    trainer = make(holdout_share=0.0)
    stream(trainer, range(12))
    trainer.refit()
    ask = {"best_std": 0.5, "seconds_per_step": 0.1, "startup_s": 0.4}
    points = toy.points(16, seed=3)
    for number in range(20, 26):  # forecast after their first step, then seen to their end
        name, p = f"m{number:04d}", points[number - 20]
        rows = toy.samples(number, p)
        trainer.add(rows[:1])
        x = tuple(toy.space.to_unit([p])[0])
        trainer.member_scores({name: (x, 0, 0.0, 16)}, **ask)
        trainer.add(rows[1:])
        trainer.ended(name)
    (one,) = trainer.member_scores({"m0050": ((0.3, 0.6), 0, 0.0, 16)}, **ask)
    assert one.best_value == pytest.approx(0.25 * 16 / (0.4 + 1.6))
    believed = trainer._outlook._variance(trainer.surrogate, -1, np.array([0.3, 0.6]), toy.t[[1, 3, 5, 7, 9, 11, 13, 15]])
    evidence = trainer._outlook.evidence
    assert one.remaining_value * 0.1 == pytest.approx(max(believed, evidence.worth(believed, 0.25) / evidence.fresh() * 0.25))


def test_the_parameter_model_spans_the_observed_trajectory(make, stream, toy):
    trainer = make()
    stream(trainer, range(4))
    model = trainer.parameter_model()
    assert model.num_outputs == 8 * 2  # eight of the 16 times
    np.testing.assert_allclose(trainer.times, toy.t)
    assert model.t_grid[[0, -1]].tolist() == [0.0, 5.0]
    x = np.array([[0.2, 0.3], [0.9, 0.9]])
    posterior = model.posterior(torch.as_tensor(x).unsqueeze(1))
    normalised = posterior.variance.reshape(2, 8, 2) / trainer.surrogate.output_scale**2
    np.testing.assert_allclose(trainer.trajectory_std(x), normalised.mean(dim=(1, 2)).sqrt().numpy(), rtol=1e-4)


def test_evaluation_without_a_test_set_and_with_a_part_of_the_outputs(make, stream, truth):
    trainer = make()
    assert trainer.evaluate(None) == ({}, {})
    stream(trainer, range(6))
    assert 0 <= trainer.evaluate(None)[1]["coverage95"] <= 1
    truth.outputs, truth.values = ("z",), truth.values[..., 1:]
    error, _ = trainer.evaluate(truth)
    assert error["n_test"] == 32
    assert trainer.fields == ("y", "z")


def test_wrong_options_are_named(make):
    with pytest.raises(ConfigError, match="batch_size=0"):
        make(batch_size=0)
    with pytest.raises(UnknownName, match="Did you mean 'reservoir'"):
        make(buffer="reservoire")
    with pytest.raises(UnknownName, match="widht"):
        make(surrogate_options={"widht": 3})


# --- a competition ---------------------------------------------------------------------------------------------------

RIVALS = {"candidates": {"ensemble": SMALL, "gp": {"max_updates": 10, "fit_rows": 100}}, "evidence": 6, "max_rows": 120}


def test_auto_learns_online_and_is_judged_on_members_it_had_not_met(make, stream, truth):
    trainer = make(surrogate="auto", surrogate_options=RIVALS, refit_updates=100)
    for first in range(0, 24, 6):
        stream(trainer, range(first, first + 6))
        trainer.refit()
    standings = trainer.surrogate.standings
    assert {s.name for s in standings} == {"ensemble", "gp"}
    assert standings[0].leads
    assert standings[0].evidence == "prequential"
    assert 18 <= standings[0].members < 24  # all but those of the first fit
    mean, _ = trainer.predict(truth.parameters, truth.t)
    assert np.sqrt(np.mean((mean - truth.values) ** 2)) < 0.3
    assert trainer.updates > 0


def test_a_restored_competition_goes_on_exactly(make, stream, tmp_path):
    a, b = (make(surrogate="auto", surrogate_options=RIVALS, refit_updates=20) for _ in range(2))
    for first in (0, 6):
        stream(a, range(first, first + 6))
        a.refit()
    a.snapshot(tmp_path)
    assert b.restore(tmp_path)
    for trainer in (a, b):
        stream(trainer, range(12, 16))
        trainer.refit()
    assert a.surrogate.standings == b.surrogate.standings
    assert_same(weights_of(a), weights_of(b))
