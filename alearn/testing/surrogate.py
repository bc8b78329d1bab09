"""The conformance suite of surrogates: subclass it in a test file, say how to make yours, and pytest runs every promise.

class TestMine(SurrogateConformance):
    def make(self, d, m, over_t=False, seed=0):
        return MySurrogate(d, m, over_t, seed)
"""

from __future__ import annotations

import io
import math
from abc import abstractmethod
from typing import Any

import pytest
import torch
from botorch.acquisition.active_learning import qNegIntegratedPosteriorVariance
from botorch.acquisition.analytic import PosteriorStandardDeviation
from botorch.acquisition.monte_carlo import qSimpleRegret, qUpperConfidenceBound
from botorch.acquisition.objective import ScalarizedPosteriorTransform
from botorch.models.model import Model
from botorch.posteriors.gpytorch import GPyTorchPosterior
from botorch.sampling.get_sampler import get_sampler
from torch import Tensor

from alearn.errors import ConfigError, SchemaError
from alearn.surrogate.base import Batch, OnlineSurrogate, Surrogate
from alearn.surrogate.trajectory import OverTime

F64 = torch.float64


def smooth_function(X: Tensor, m: int) -> Tensor:
    """``n x d`` to ``n x m``: smooth, of different size and offset in each output."""
    base = torch.sin(3.0 * X[:, 0]) + X[:, 1] ** 2
    return torch.stack([(10.0**j) * (base + 0.3 * j * X[:, 0]) + 5.0 * j for j in range(m)], dim=-1)


def smooth_data(n: int, d: int = 2, m: int = 1, seed: int = 0, high: float = 1.0) -> Batch:
    """``n`` uniform points of ``[0, high]^d`` with the smooth function's values, each a group of its own."""
    generator = torch.Generator().manual_seed(seed)
    X = high * torch.rand(n, d, dtype=F64, generator=generator)
    return Batch(X, smooth_function(X, m), torch.ones(n), torch.arange(n))


def posterior_of(model: Model, X: Tensor, **options: Any) -> Any:
    """The posterior, untyped: BoTorch's base class declares neither mean nor variance."""
    return model.posterior(X, **options)


class SurrogateConformance:
    """What every surrogate promises. ``rmse`` is the error that it must reach on the smooth function, in units of its scale;
    ``away`` how many times larger its uncertainty must be far from all data than among them;
    ``smooth`` whether gradients of its posterior reach the points."""

    rmse = 0.1
    away = 2.0
    smooth = True

    @abstractmethod
    def make(self, d: int, m: int, over_t: bool = False, seed: int = 0) -> Surrogate:
        """A small, quick instance."""

    def fitted(self, d: int = 2, m: int = 1, seed: int = 0, n: int = 40) -> Surrogate:
        """One that has learned the smooth function."""
        surrogate = self.make(d, m, False, seed)
        surrogate.fit(smooth_data(n, d, m))
        return surrogate

    @pytest.mark.parametrize("m", [1, 2])
    @pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
    def test_shapes(self, m: int, batch: tuple[int, ...]) -> None:
        surrogate = self.fitted(m=m)
        X = torch.rand(*batch, 4, 2, dtype=F64)
        posterior = posterior_of(surrogate, X)
        assert posterior.mean.shape == (*batch, 4, m)
        assert posterior.variance.shape == (*batch, 4, m)
        assert posterior.rsample(torch.Size([5])).shape == (5, *batch, 4, m)
        assert posterior.mean.dtype == F64
        assert surrogate.num_outputs == m
        assert surrogate.output_scale.shape == (m,)
        one = posterior_of(surrogate, X, output_indices=[m - 1])
        assert torch.allclose(one.mean, posterior.mean[..., -1:])
        transform = ScalarizedPosteriorTransform(torch.full((m,), 2.0, dtype=F64))
        if isinstance(posterior, GPyTorchPosterior):  # BoTorch scalarises no other kind
            scalar = posterior_of(surrogate, X, posterior_transform=transform)
            assert torch.allclose(scalar.mean, 2.0 * posterior.mean.sum(dim=-1, keepdim=True))

    def test_variance_is_positive_and_finite(self) -> None:
        variance = posterior_of(self.fitted(m=2), torch.rand(200, 1, 2, dtype=F64)).variance
        assert bool(torch.isfinite(variance).all())
        assert bool((variance >= 0).all())
        assert float(variance.detach().mean()) > 0

    @pytest.mark.parametrize("m", [1, 2])
    def test_learns_a_smooth_function_in_every_output(self, m: int) -> None:
        surrogate = self.fitted(m=m, n=60)
        test = smooth_data(500, m=m, seed=1)
        error = surrogate.predict(test.X).mean - test.Y
        assert bool((error.pow(2).mean(dim=0).sqrt() < self.rmse * test.Y.std(dim=0)).all())

    def test_predict_agrees_with_the_posterior(self) -> None:
        surrogate = self.fitted(m=2)
        X = torch.rand(50, 2, dtype=F64)
        mean, epistemic, aleatoric = surrogate.predict(X)
        with torch.no_grad():
            posterior = posterior_of(surrogate, X.unsqueeze(-2))
        assert mean.shape == epistemic.shape == aleatoric.shape == (50, 2)
        scale = surrogate.output_scale
        assert float(((mean - posterior.mean.squeeze(-2)) / scale).abs().max()) < 1e-3
        assert float(((epistemic - posterior.variance.squeeze(-2).sqrt()) / scale).abs().max()) < 1e-3
        assert bool((aleatoric >= 0).all())

    def test_predicts_many_points(self) -> None:
        assert self.fitted().predict(torch.rand(20_001, 2, dtype=F64)).mean.shape == (20_001, 1)
        assert self.fitted().predict(torch.empty(0, 2, dtype=F64)).mean.shape == (0, 1)

    def test_is_less_sure_away_from_data(self) -> None:
        surrogate = self.make(2, 1)
        data = smooth_data(40, high=0.5)
        surrogate.fit(data)
        near = surrogate.predict(data.X).epistemic.mean()
        away = surrogate.predict(0.8 + 0.2 * torch.rand(100, 2, dtype=F64)).epistemic.mean()
        assert float(away) > self.away * float(near)

    def test_gradients_reach_the_points(self) -> None:
        if not self.smooth:
            pytest.skip("this surrogate is piecewise constant")
        X = torch.rand(3, 1, 2, dtype=F64, requires_grad=True)
        posterior_of(self.fitted(), X).variance.sum().backward()
        assert X.grad is not None
        assert bool(torch.isfinite(X.grad).all())
        assert float(X.grad.abs().sum()) > 0

    def test_botorch_acquisitions_run(self) -> None:
        surrogate = self.fitted()
        sampler = get_sampler(posterior_of(surrogate, torch.rand(1, 2, dtype=F64)), torch.Size([16]), seed=1)
        X = torch.rand(5, 2, 2, dtype=F64)
        for acquisition in (qSimpleRegret(surrogate, sampler=sampler), qUpperConfidenceBound(surrogate, beta=1.0, sampler=sampler)):
            assert acquisition(X).shape == (5,)
        std = PosteriorStandardDeviation(surrogate)(X[:, :1])
        assert std.dtype == F64
        assert torch.allclose(std, posterior_of(surrogate, X[:, :1]).variance.sqrt().reshape(5))

    def test_integrated_variance_falls_most_where_little_is_known(self) -> None:
        surrogate = self.make(2, 1)
        surrogate.fit(smooth_data(30, high=0.6))
        if not hasattr(surrogate, "fantasize"):
            pytest.skip("this surrogate cannot be conditioned on imagined data")
        pool = torch.rand(200, 2, dtype=F64, generator=torch.Generator().manual_seed(0))
        score = qNegIntegratedPosteriorVariance(surrogate, mc_points=pool)
        known, unknown = score(torch.tensor([[[0.3, 0.3]], [[0.9, 0.9]]], dtype=F64)).tolist()
        now = -float(posterior_of(surrogate, pool.unsqueeze(-2)).variance.detach().mean())
        assert unknown > known
        assert unknown > now

    def test_state_dict_round_trip_is_exact(self) -> None:
        surrogate = self.fitted(m=2)
        surrogate.scale_variance(torch.tensor([1.5, 0.7], dtype=F64))
        file = io.BytesIO()
        torch.save(surrogate.state_dict(), file)
        file.seek(0)
        again = self.make(2, 2, False, seed=9)
        again.load_state_dict(torch.load(file, weights_only=True))
        X = torch.rand(30, 2, dtype=F64)
        for a, b in zip(surrogate.predict(X), again.predict(X), strict=True):
            assert torch.equal(a, b)

    def test_one_seed_one_surrogate(self) -> None:
        X = torch.rand(30, 2, dtype=F64)
        a, b = (self.fitted(seed=3).predict(X) for _ in range(2))
        assert torch.equal(a.mean, b.mean)
        assert torch.equal(a.epistemic, b.epistemic)

    def test_scale_variance_acts_on_each_output(self) -> None:
        surrogate = self.fitted(m=2)
        X = torch.rand(30, 2, dtype=F64)
        before = surrogate.predict(X)
        variance = posterior_of(surrogate, X).variance.detach()
        surrogate.scale_variance(torch.tensor([2.0, 0.5], dtype=F64))
        after = surrogate.predict(X)
        assert torch.allclose(after.mean, before.mean)
        assert torch.allclose(after.epistemic, before.epistemic * torch.tensor([2.0, 0.5], dtype=F64))
        assert torch.allclose(posterior_of(surrogate, X).variance, variance * torch.tensor([4.0, 0.25], dtype=F64), rtol=1e-5)
        for bad in (torch.ones(3), torch.tensor([1.0, -1.0]), torch.tensor([1.0, math.nan])):
            with pytest.raises(ConfigError, match="calibration factor"):
                surrogate.scale_variance(bad)

    def test_refuses_bad_data(self) -> None:
        surrogate = self.make(2, 1)
        good = smooth_data(10)
        for column in ("X", "Y", "weights"):
            parts = {k: getattr(good, k).clone() for k in ("X", "Y", "weights", "groups")}
            parts[column][3] = math.nan
            with pytest.raises(SchemaError, match=r"NaN or infinite \(the first is row 3\)"):
                surrogate.fit(Batch(**parts))
        with pytest.raises(SchemaError, match="needed are X"):
            surrogate.fit(smooth_data(10, d=3))
        with pytest.raises(SchemaError, match="no rows"):
            surrogate.fit(good.take(torch.arange(0)))

    def test_tiny_and_constant_data(self) -> None:
        for n in (1, 2):
            surrogate = self.make(2, 1)
            surrogate.fit(smooth_data(n), updates=20)
            assert bool(torch.isfinite(surrogate.predict(torch.rand(5, 2, dtype=F64)).mean).all())
        data = smooth_data(10)
        surrogate = self.make(2, 1)
        surrogate.fit(Batch(data.X, torch.full((10, 1), 7.0, dtype=F64), data.weights, data.groups), updates=50)
        mean, std, _ = surrogate.predict(data.X)
        assert float((mean - 7.0).abs().max()) < 1e-3
        assert bool(torch.isfinite(std).all())

    @pytest.mark.parametrize("m", [1, 2])
    def test_over_t(self, m: int) -> None:
        surrogate = self.make(3, m, True)
        generator = torch.Generator().manual_seed(0)
        members, steps = 12, 8
        p = torch.rand(members, 2, dtype=F64, generator=generator).repeat_interleave(steps, dim=0)
        t = torch.linspace(0.0, 70.0, steps, dtype=F64).repeat(members)[:, None]
        Y = torch.cat([p[:, :1] * t / 70.0, 3.0 + p[:, 1:] + t / 35.0], dim=1)[:, :m]
        surrogate.fit(Batch(torch.cat([p, t], dim=1), Y, torch.ones(len(t)), torch.arange(members).repeat_interleave(steps)))
        model = OverTime(surrogate, [0.0, 35.0, 70.0])
        X = torch.rand(4, 2, 2, dtype=F64, generator=generator)
        posterior = posterior_of(model, X)
        assert posterior.mean.shape == posterior.variance.shape == (4, 2, 3 * m)
        truth = X[..., :1] * torch.tensor([0.0, 0.5, 1.0], dtype=F64)
        assert float((posterior.mean[..., ::m] - truth).detach().abs().max()) < 0.3
        std = model.trajectory_std(X.reshape(-1, 2))
        expected = (posterior.variance.reshape(8, -1) / model.output_scale**2).mean(dim=-1).sqrt()
        assert torch.allclose(std, expected, atol=1e-3)

    def test_online_updates_lower_the_error_without_a_fit(self) -> None:
        surrogate = self.make(2, 1)
        if not isinstance(surrogate, OnlineSurrogate):
            pytest.skip("this surrogate learns only by fit")
        data = smooth_data(64)
        surrogate.observe(data)
        before = (surrogate.predict(data.X).mean - data.Y).pow(2).mean()
        for _ in range(300):
            loss = surrogate.update(data)
        assert math.isfinite(loss)
        after = (surrogate.predict(data.X).mean - data.Y).pow(2).mean()
        assert float(after) < 0.1 * float(before)
