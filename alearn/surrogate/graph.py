"""Surrogates as plain graphs of tensor operations, for export to other programs.

A graph maps ``n x d'`` inputs (parameters in the unit cube, then t if there is one) to the calibrated mean and standard
deviation, each ``n x m`` in the outputs' own units; where whole fields are learned, the cells of the fields stand in place
of their coefficients. Nothing in it depends on the number of rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from alearn.errors import AlearnError
from alearn.surrogate.auto import AutoSurrogate
from alearn.surrogate.base import Surrogate
from alearn.surrogate.ensemble import DeepEnsemble
from alearn.surrogate.field import FieldDecoder
from alearn.surrogate.gp import ExactGP
from alearn.surrogate.growing import GrowingEnsemble
from alearn.surrogate.population import Population
from alearn.surrogate.stacked import Stacked

EXPORTABLE = ("ensemble", "growing", "population", "gp", "auto (whichever of these leads)")


def graph_of(surrogate: Surrogate, fields: Sequence[FieldDecoder] = ()) -> nn.Module:
    """The surrogate as a graph.

    Args:
        surrogate: what to write as a graph.
        fields: of which fields its last outputs are the coefficients.

    Raises:
        AlearnError: this kind of surrogate has none.
    """
    found = _graph(surrogate)
    return FieldGraph(found, fields) if fields else found


def _graph(surrogate: Surrogate) -> EnsembleGraph | GPGraph:
    if isinstance(surrogate, AutoSurrogate):
        return _graph(surrogate.leader)
    if isinstance(surrogate, GrowingEnsemble):
        return _graph(surrogate.inner)
    if isinstance(surrogate, DeepEnsemble):
        return EnsembleGraph(surrogate, surrogate.average, surrogate.prior)
    if isinstance(surrogate, Population):
        return EnsembleGraph(surrogate, surrogate.answer(), None)
    if isinstance(surrogate, ExactGP):
        return GPGraph(surrogate)
    raise AlearnError(f"A {type(surrogate).__name__} cannot be exported; those that can be are {', '.join(EXPORTABLE)}.")


class EnsembleGraph(nn.Module):
    """The averaged networks of an ensemble, their mean, and their calibrated spread with the learned noise.

    Args:
        ensemble: whose they are.
        net: the networks that answer.
        prior: fixed networks added to them.
    """

    def __init__(self, ensemble: DeepEnsemble | Population, net: Stacked, prior: Stacked | None) -> None:
        super().__init__()
        self.m, self.noisy, self.estimators = ensemble.m, ensemble.variance_heads, net.estimators
        self.net, self.prior, self.scaling = net, prior, ensemble.scaling
        self.register_buffer("factor", ensemble.factor.double())
        self.factor: Tensor

    def forward(self, X: Tensor) -> tuple[Tensor, Tensor]:
        """``n x d'`` to mean and standard deviation, each ``n x m``."""
        mean, draws, noise = self.parts(X)
        return mean, ((draws**2).sum(dim=0) + noise).sqrt()

    def parts(self, X: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The mean ``n x m``, deviations ``K x n x m`` whose outer products sum to the covariance, and the noise's variance ``n x m``."""
        x = self.scaling.inputs(X).float()
        out = self.net(x)
        values = out[..., : self.m] if self.prior is None else out[..., : self.m] + self.prior(x)
        values = values.double() * self.scaling.scale + self.scaling.mean
        mean = values.sum(dim=0) / self.estimators  # a node named "mean" within would be taken for ONNX's output of that name
        draws = (values - mean) * (self.factor / (self.estimators - 1) ** 0.5)
        noise = torch.zeros_like(mean)
        if self.noisy:
            noise = (torch.exp(out[..., self.m :].clamp(-14.0, 6.0)).double() * self.scaling.scale**2).mean(dim=0)
        return mean, draws, noise


class GPGraph(nn.Module):
    """An exact GP with its Matern-5/2 kernel written out and its Cholesky factor inverted once."""

    def __init__(self, gp: ExactGP) -> None:
        super().__init__()
        inner = gp.inner
        if inner is None:
            raise AlearnError("The GP has not seen any data; call fit first.")
        if gp.kernel != "matern":
            raise AlearnError(f"A GP with the kernel '{gp.kernel}' cannot be exported; those with 'matern' can.")
        self.over_t = gp.over_t
        with torch.no_grad():
            chol, alpha = gp._factorise(inner)
            kernel = inner.covar_module
            scale = kernel.outputscale.reshape(gp.m, 1, 1)
            length = kernel.base_kernel.lengthscale.reshape(gp.m, 1, gp.d)
            eye = torch.eye(chol.shape[-1], dtype=chol.dtype)
            frozen = {
                "points": gp.train_X / length,
                "length": length,
                "amplitude": scale,
                "alpha": alpha,
                "whiten": torch.linalg.solve_triangular(chol, eye.expand_as(chol), upper=False),
                "constant": inner.mean_module.constant.reshape(gp.m, 1),
                "noise": inner.likelihood.noise.reshape(gp.m, 1),
                "mean": gp.mean[:, None],
                "scale": gp.scale[:, None],
                "factor": gp.factor[:, None],
                "t_range": gp.t_range,
            }
        for name, value in frozen.items():
            self.register_buffer(name, value.detach().clone())

    points: Tensor
    length: Tensor
    amplitude: Tensor
    alpha: Tensor
    whiten: Tensor
    constant: Tensor
    noise: Tensor
    mean: Tensor
    scale: Tensor
    factor: Tensor
    t_range: Tensor

    def forward(self, X: Tensor) -> tuple[Tensor, Tensor]:
        """``n x d'`` to mean and standard deviation, each ``n x m``."""
        x = X.double()
        if self.over_t:
            t = (x[:, -1:] - self.t_range[0]) / (self.t_range[1] - self.t_range[0])
            x = torch.cat([x[:, :-1], t], dim=-1)
        x = x / self.length
        squared = (self.points**2).sum(-1)[:, :, None] + (x**2).sum(-1)[:, None, :] - 2.0 * self.points @ x.transpose(-1, -2)
        r = (5.0 * squared.clamp_min(0.0)).sqrt()
        cross = self.amplitude * (1.0 + r + r**2 / 3.0) * torch.exp(-r)
        mean = self.constant + (cross * self.alpha).sum(dim=1)
        variance = self.amplitude[:, 0] - ((self.whiten @ cross) ** 2).sum(dim=1)
        std = (variance.clamp_min(1e-12) * self.factor**2 + self.noise).sqrt() * self.scale
        return (mean * self.scale + self.mean).T, std.T


class FieldGraph(nn.Module):
    """A graph whose last outputs are coefficients of fields, and the fields in their place: the single numbers, then every cell of
    every field in row-major order."""

    def __init__(self, inner: EnsembleGraph | GPGraph, fields: Sequence[FieldDecoder]) -> None:
        super().__init__()
        self.inner, self.singles = inner, fields[0].first
        self.columns = [(f.first, f.first + f.rank) for f in fields]
        for i, f in enumerate(fields):
            for name in ("centre", "modes", "lost"):
                self.register_buffer(f"{name}{i}", torch.as_tensor(getattr(f, name)).clone())

    def forward(self, X: Tensor) -> tuple[Tensor, Tensor]:
        """``n x d'`` to mean and standard deviation, each ``n x (s + cells)``, float64."""
        if isinstance(self.inner, EnsembleGraph):
            mean, draws, noise = self.inner.parts(X)
        else:
            mean, std = self.inner(X)
            draws, noise = torch.zeros_like(mean)[None], std**2
        means, variances = [mean[:, : self.singles]], [(draws[..., : self.singles] ** 2).sum(dim=0) + noise[:, : self.singles]]
        for i, (first, last) in enumerate(self.columns):
            centre, modes, lost = (self.get_buffer(f"{name}{i}") for name in ("centre", "modes", "lost"))
            means.append((mean[:, first:last].float() @ modes + centre).double())
            spread = ((draws[..., first:last].float() @ modes) ** 2).sum(dim=0)
            variances.append((spread + noise[:, first:last].float() @ modes**2 + lost).double())
        return torch.cat(means, dim=1), torch.cat(variances, dim=1).sqrt()
