"""From scores to a batch: greedy selection with distance, and the words that explain each choice."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from alearn.acquisition.base import Context, Selection
from alearn.acquisition.pool import DUPLICATE, EXACT, chunked, nearest
from alearn.acquisition.scores import Prospects


def known_distance(X: Tensor, context: Context) -> Tensor:
    """Distance of ``N x d`` points to what is known, ``N``: to the nearest data or pending member.

    A pending member counts as known, less so the less of it has streamed (it may still fail or be killed): its
    distance is divided by ``(1 + progress) / 2``. With nothing known every distance is 1.
    """
    distance = nearest(X, context.X.double())
    if len(context.pending):
        weight = (1 + context.progress.double().clamp(0, 1)) / 2
        distance = torch.minimum(distance, weighted_nearest(X, context.pending.double(), weight))
    return torch.where(torch.isinf(distance), torch.ones_like(distance), distance)


def weighted_nearest(X: Tensor, others: Tensor, weight: Tensor) -> Tensor:
    """The least of the distances to ``M x d`` others, each divided by its weight, ``N``."""
    return chunked(lambda part: (torch.cdist(part, others, compute_mode=EXACT) / weight).amin(dim=1), X)


def greedy(X: Tensor, merit: Tensor, distance: Tensor, q: int, gamma: float) -> tuple[list[int], list[float]]:
    """Pick one by one the largest ``merit x distance^gamma``, where each pick counts as known for the next.

    Args:
        X: candidates, ``N x d``.
        merit: score of each without distance, ``N``.
        distance: to what is known, ``N``.
        q: how many; fewer come back when the candidates run out.
        gamma: weight of distance; 0 only keeps duplicates apart.

    Returns:
        The rows picked and their scores at the time.
    """
    distance = distance.clone()
    rows: list[int] = []
    scores: list[float] = []
    for _ in range(min(q, len(X))):
        score = merit * distance**gamma
        score = score.masked_fill(distance <= DUPLICATE, -torch.inf)
        best = int(score.argmax())
        if math.isinf(float(score[best])):
            break
        rows.append(best)
        scores.append(float(score[best]))
        distance = torch.minimum(distance, nearest(X, X[best : best + 1]))
    return rows, scores


def selection(X: Tensor, scores: Sequence[float], reasons: Sequence[str]) -> Selection:
    """A ``Selection`` of ``q x d`` points."""
    return Selection(X.numpy().copy(), torch.tensor(list(scores), dtype=torch.float64).numpy(), tuple(reasons))


def explain(found: Prospects, rows: Sequence[int], context: Context) -> list[str]:
    """One line for each picked row: its uncertainty, the nearest data, and feasibility and cost where known."""
    median = max(float(found.std.median()), 1e-300)
    picked = found.X[list(rows)]
    to_data = nearest(picked, context.X.double())
    lines = []
    for i, row in enumerate(rows):
        std = float(found.std[row])
        parts = [f"std {std:.2g} of the outputs' spread, {_times(std / median)} the median"]
        parts.append(away(float(to_data[i])))
        if found.odds is not None:
            parts.append(f"{100 * float(found.odds[row]):.0f} % likely to succeed")
        if found.cost is not None:
            parts.append(f"{_times(float(found.cost[row]))} the usual cost")
        lines.append("; ".join(parts))
    return lines


def away(distance: float) -> str:
    """The distance to the nearest data in words (in the unit cube)."""
    return "no data yet" if math.isinf(distance) else f"nearest data {distance:.2g} away"


def _times(ratio: float) -> str:
    return f"{ratio:.1f}x" if ratio < 100 else f"{ratio:.0f}x"
