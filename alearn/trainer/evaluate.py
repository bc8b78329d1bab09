"""How good the surrogate is on a fixed test set: errors by member, and calibration."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from scipy.stats import spearmanr

from alearn import metrics
from alearn.errors import ConfigError
from alearn.space import Space
from alearn.surrogate import Surrogate
from alearn.surrogate.decode import predict_field
from alearn.surrogate.field import FieldDecoder
from alearn.types import Array, Floats, Parameters

REGION = 4
"""A region of the box is judged if so many test members lie in it."""
MOST_SPLIT = 4
"""Boxes of more parameters have too many halves to be judged one by one."""


CELLS = 256
"""So many cells of a field are looked at for its calibration."""


class Truth(Protocol):
    """A test set: trajectories that no study trains on."""

    @property
    def parameters(self) -> Sequence[Parameters]:
        """The members' parameters, ``n``."""
        ...

    @property
    def t(self) -> Array:
        """The times, ``T``, the same for all members."""
        ...

    @property
    def outputs(self) -> Sequence[str]:
        """Names of the outputs."""
        ...

    @property
    def values(self) -> Array:
        """The truth, ``n x T x m``."""
        ...


@runtime_checkable
class FieldTruth(Protocol):
    """A test set that knows whole fields too."""

    @property
    def fields(self) -> Mapping[str, Array]:
        """The true fields by name, each ``n x T x …``."""
        ...


class Outputs(Protocol):
    """What a surrogate is about: in a trainer, or loaded from a snapshot."""

    @property
    def space(self) -> Space:
        """The parameters."""
        ...

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the surrogate's outputs."""
        ...

    @property
    def learned(self) -> tuple[str, ...]:
        """Names of the single numbers and whole fields that are learned."""
        ...

    def decoders(self) -> tuple[FieldDecoder, ...]:
        """The way from the surrogate's outputs to the fields."""
        ...

    def inputs(self, x: Floats, t: Floats) -> Floats:
        """All pairs of ``n x d`` points and ``T`` times as rows, ``n T x d'``, t running fastest; without t, ``n x d``."""
        ...


def summary(errors: Floats) -> dict[str, float]:
    """rmse, mean, median, p95, p99 and max of one normalised error a member, ``n``, and their number ``n_test``."""
    found = metrics.error_summary(errors)
    found["n_test"] = found.pop("n")
    return found


def judge(mean: Floats, std: Floats, truth: Floats, x: Floats | None = None) -> tuple[dict[str, float], dict[str, float]]:
    """Errors and calibration on a test set.

    A member's error is the root mean square, over times and outputs, of prediction minus truth, each output divided by
    its standard deviation over the whole test set (an output that is constant there, by one). The summaries are over
    members.

    Args:
        mean: predicted means, ``n x T x m``.
        std: predicted standard deviations, ``n x T x m``.
        truth: ``n x T x m``.
        x: the members' points in the unit cube, ``n x d``, to judge the regions of the box too.

    Returns:
        The errors (see ``summary``), and the calibration: ``coverage95`` and ``coverage50`` (share of truths within the
        central interval of a normal distribution), ``z_median`` (median |z| over its normal value 0.6745: 1 is right,
        more is overconfident), ``sharpness`` (mean predicted standard deviation, normalised as the error),
        ``miscalibration_area`` (0 is calibrated, 0.5 the worst), ``crps`` (continuous ranked probability score of a normal distribution,
        normalised as the error) and ``rank_correlation`` (Spearman's, of a member's mean standard deviation with its error); with
        ``x`` also ``coverage95_region`` followed by the number of the region (``metrics.regions``), where it holds at least 4 members.
    """
    error = metrics.trajectory_errors(mean, truth)
    return summary(error), calibration_of(error, *standardised(mean, std, truth), x)


def standardised(mean: Floats, std: Floats, truth: Floats) -> tuple[Floats, Floats, Floats]:
    """Predictions, standard deviations and truth, each ``n x T x m``, in units of each output's standard deviation over the
    test set: ``z`` (truth minus prediction over the standard deviation), the standard deviation and the CRPS, each ``n x k``."""
    scale = metrics.output_scales(truth)
    z = (truth - mean) / np.maximum(std, 1e-12 * scale)
    score = metrics.crps_gaussian(mean / scale, std / scale, truth / scale)
    n = len(truth)
    return z.reshape(n, -1), (std / scale).reshape(n, -1), score.reshape(n, -1)


def calibration_of(error: Floats, z: Floats, std: Floats, score: Floats, x: Floats | None) -> dict[str, float]:
    """The calibration that ``judge`` tells of, from members' errors ``n`` and what ``standardised`` found."""
    n = len(z)
    covered = metrics.coverage(z, (0.5, 0.95))
    spread = std.mean(axis=1)
    ranks = n > 2 and np.ptp(error) > 0 and np.ptp(spread) > 0
    calibration = {
        "coverage95": covered[0.95],
        "coverage50": covered[0.5],
        "z_median": metrics.robust_scale(z),
        "sharpness": float(spread.mean()),
        "miscalibration_area": metrics.miscalibration_area(z),
        "crps": float(score.mean()),
        "rank_correlation": float(spearmanr(spread, error).statistic) if ranks else math.nan,
    }
    if x is not None and x.shape[1] <= MOST_SPLIT:
        found = metrics.coverage_by_region(z, x)
        calibration |= {f"coverage95_region{c}": share for c, (share, members) in sorted(found.items()) if members >= REGION}
    return calibration


@dataclass(frozen=True, slots=True)
class Examined:
    """What became of a test set's ``n`` members.

    Args:
        x: their points in the unit cube, ``n x d``.
        error: one normalised error each, ``n``.
        relative: the relative L2 error of the whole fields, ``n``; None where none is learned.
        z: see ``standardised``, ``n x k``; of a field some cells.
        std: likewise.
        score: likewise.
    """

    x: Floats
    error: Floats
    relative: Floats | None
    z: Floats
    std: Floats
    score: Floats


def judge_study(surrogate: Surrogate, outputs: Outputs, test: Truth) -> tuple[dict[str, float], dict[str, float]]:
    """Errors and calibration of a surrogate on a test set (see ``examine``), by the names that ``judge`` gives them.

    Where fields are learned there are besides ``relative_l2``, ``relative_l2_p95``, ``relative_l2_p99`` and ``relative_l2_max``:
    mean, quantiles and maximum over the members.

    Raises:
        ConfigError: the test set shares no output with the surrogate, or has other parameters.
    """
    found = examine(surrogate, outputs, test)
    told = summary(found.error)
    if found.relative is not None:
        p95, p99, top = np.quantile(found.relative, [0.95, 0.99, 1.0]).tolist()
        told |= {"relative_l2": float(found.relative.mean()), "relative_l2_p95": p95, "relative_l2_p99": p99, "relative_l2_max": top}
    return told, calibration_of(found.error, found.z, found.std, found.score, found.x)


def examine(surrogate: Surrogate, outputs: Outputs, test: Truth) -> Examined:
    """Predict every member of a test set, single numbers and whole fields.

    A field's error at a member is the root mean square over times and cells of prediction minus truth, in units of the
    field's fluctuation about its mean over the test set; a member's error is the root mean square over its single numbers
    (one each) and fields (one each). The relative L2 error is the norm of prediction minus truth over that of the truth
    (the fields' mean).

    Raises:
        ConfigError: the test set shares no output with the surrogate, or has other parameters.
    """
    x, t = outputs.space.to_unit(list(test.parameters)), np.asarray(test.t, dtype=np.float64)
    fields = test.fields if isinstance(test, FieldTruth) else {}
    decoders = [d for d in outputs.decoders() if d.name in fields]
    truth, ours = truths(test, fields, outputs.outputs)
    if not ours and not decoders:
        known = ", ".join([*test.outputs, *fields])
        raise ConfigError(
            f"The test set has the outputs {known}, the surrogate learns {', '.join(outputs.learned)}; they share none. "
            "Give reference=N for N test members of the study's own, or reference=null."
        )
    square, parts = np.zeros(len(x)), []
    if ours:
        mean, std = trajectories(surrogate, outputs, x, t, ours)
        square += len(ours) * metrics.trajectory_errors(mean, truth) ** 2
        parts.append(standardised(mean, std, truth))
    relative = np.zeros(len(x)) if decoders else None
    for decoder in decoders:
        found = judge_field(surrogate, outputs, decoder, np.asarray(fields[decoder.name]), x, t)
        square += found.error**2
        relative = found.relative / len(decoders) + (0.0 if relative is None else relative)
        parts.append((found.z, found.std, found.score))
    error = np.sqrt(square / (len(ours) + len(decoders)))
    return Examined(x, error, relative, *(np.concatenate(p, axis=1) for p in zip(*parts, strict=True)))


@dataclass(frozen=True, slots=True)
class JudgedField:
    """One field on the test set: members' normalised and relative errors, ``n``, and of some cells what ``standardised`` says."""

    error: Floats
    relative: Floats
    z: Floats
    std: Floats
    score: Floats


def judge_field(surrogate: Surrogate, outputs: Outputs, decoder: FieldDecoder, truth: Array, x: Floats, t: Floats) -> JudgedField:
    """Predict one field of every test member and compare.

    Args:
        surrogate: predicts the coefficients.
        outputs: what it is about.
        decoder: the field's.
        truth: ``n x T x …``.
        x: the members' points in the unit cube, ``n x d``.
        t: the times, ``T``.
    """
    n, times = truth.shape[:2]
    flat = truth.reshape(n, times, -1).astype(np.float64)
    scale = float(np.sqrt(flat.var(axis=(0, 1)).mean())) or 1.0
    some = np.unique(np.linspace(0, flat.shape[2] - 1, min(CELLS, flat.shape[2])).round().astype(int))
    rows: list[tuple[float, float, Floats, Floats, Floats]] = []
    for point, true in zip(x, flat, strict=True):
        inputs = torch.as_tensor(outputs.inputs(point[None], t), device=surrogate.output_scale.device)
        mean, std = predict_field(surrogate, inputs, decoder)
        off = mean - true
        norm = float(np.linalg.norm(true))
        z = (true[:, some] - mean[:, some]) / np.maximum(std[:, some], 1e-12 * scale)
        score = metrics.crps_gaussian(mean[:, some] / scale, std[:, some] / scale, true[:, some] / scale)
        rows.append(
            (
                float(np.sqrt((off**2).mean())) / scale,
                float(np.linalg.norm(off)) / max(norm, 1e-12 * scale * math.sqrt(off.size)),
                z.ravel(),
                (std[:, some] / scale).ravel(),
                score.ravel(),
            )
        )
    return JudgedField(*(np.array(column) for column in zip(*rows, strict=True)))


def trajectories(surrogate: Surrogate, outputs: Outputs, x: Floats, t: Floats, columns: Sequence[int]) -> tuple[Floats, Floats]:
    """Mean and standard deviation of some of the outputs at all pairs of points and times, each ``n x T x m'``."""
    inputs = torch.as_tensor(outputs.inputs(x, t), device=surrogate.output_scale.device)
    mean, epistemic, aleatoric = (v.double().cpu().numpy()[:, list(columns)] for v in surrogate.predict(inputs))
    shape = (len(x), len(t) if surrogate.over_t else 1, len(columns))
    found = (v.reshape(shape) for v in (mean, np.sqrt(epistemic**2 + aleatoric**2)))
    whole = (len(x), len(t), len(columns))
    mean, std = (np.broadcast_to(v, whole) for v in found)
    return mean, std


def truths(test: Truth, fields: Mapping[str, Array], outputs: Sequence[str]) -> tuple[Floats, list[int]]:
    """What the test set knows of a surrogate's single outputs: the truth ``n x T x m'`` and which of the outputs those are.

    Args:
        test: the test set.
        fields: its fields, of which single elements may be learned (``u[3]``).
        outputs: the surrogate's.
    """
    n, times = len(test.parameters), len(test.t)
    values = np.asarray(test.values, dtype=np.float64).reshape(n, times, -1)
    columns: dict[str, Floats] = {name: values[:, :, i] for i, name in enumerate(test.outputs)}
    ours: list[int] = []
    found: list[Floats] = []
    for i, name in enumerate(outputs):
        field, bracket, index = name.partition("[")
        if name in columns:
            ours.append(i)
            found.append(columns[name])
        elif bracket and field in fields:
            of = np.asarray(fields[field], dtype=np.float64)
            at = np.ravel_multi_index([int(k) for k in index.rstrip("]").split(",")], of.shape[2:])
            ours.append(i)
            found.append(of.reshape(n, times, -1)[:, :, int(at)])
    return np.stack(found, axis=-1) if found else np.empty((n, times, 0)), ours
