"""surrogate: models that learn from the stream and know what they don't know. Names load on first use (torch is slow to import)."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alearn.surrogate.auto import AutoSurrogate, Standing
    from alearn.surrogate.base import Batch, OnlineSurrogate, Prediction, Surrogate
    from alearn.surrogate.calibration import Calibrator
    from alearn.surrogate.cyclic import SnapshotEnsemble
    from alearn.surrogate.dropout import MCDropout
    from alearn.surrogate.ensemble import DeepEnsemble
    from alearn.surrogate.gp import ExactGP
    from alearn.surrogate.heteroscedastic import HeteroscedasticGP
    from alearn.surrogate.lastlayer import DistanceAware, LastLayerLaplace, VariationalLastLayer
    from alearn.surrogate.operator import FieldOperator
    from alearn.surrogate.population import Population
    from alearn.surrogate.rollout import NextState
    from alearn.surrogate.snapshot import SnapshotInfo, load_snapshot, save_snapshot
    from alearn.surrogate.svgp import SparseGP
    from alearn.surrogate.trajectory import OverTime
    from alearn.surrogate.trees import GradientBoosting, NearestNeighbours, RandomForest

_WHERE = {
    "FieldOperator": "operator",
    "HeteroscedasticGP": "heteroscedastic",
    "NextState": "rollout",
    "SnapshotEnsemble": "cyclic",
    "GradientBoosting": "trees",
    "NearestNeighbours": "trees",
    "RandomForest": "trees",
    "SparseGP": "svgp",
    "VariationalLastLayer": "lastlayer",
    "DistanceAware": "lastlayer",
    "LastLayerLaplace": "lastlayer",
    "MCDropout": "dropout",
    "AutoSurrogate": "auto",
    "Standing": "auto",
    "Batch": "base",
    "OnlineSurrogate": "base",
    "Prediction": "base",
    "Surrogate": "base",
    "Calibrator": "calibration",
    "DeepEnsemble": "ensemble",
    "Population": "population",
    "ExactGP": "gp",
    "OverTime": "trajectory",
    "SnapshotInfo": "snapshot",
    "load_snapshot": "snapshot",
    "save_snapshot": "snapshot",
}

__all__ = [
    "FieldOperator",
    "HeteroscedasticGP",
    "NextState",
    "SnapshotEnsemble",
    "GradientBoosting",
    "NearestNeighbours",
    "RandomForest",
    "SparseGP",
    "VariationalLastLayer",
    "DistanceAware",
    "LastLayerLaplace",
    "MCDropout",
    "AutoSurrogate",
    "Standing",
    "Batch",
    "Calibrator",
    "DeepEnsemble",
    "ExactGP",
    "OnlineSurrogate",
    "OverTime",
    "Population",
    "Prediction",
    "SnapshotInfo",
    "Surrogate",
    "load_snapshot",
    "save_snapshot",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
