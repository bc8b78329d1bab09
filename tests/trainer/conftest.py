from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

from alearn.space import Space
from alearn.trainer import InlineTrainer
from alearn.types import Sample, Schema

SMALL = {"estimators": 4, "width": 32, "depth": 2}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass
class Toy:
    """A damped oscillation with a front in ``b``: two outputs over 16 steps."""

    space: Space = field(default_factory=lambda: Space.from_config({"a": [0, 1], "b": [2, 4]}))
    t: np.ndarray = field(default_factory=lambda: np.linspace(0.0, 5.0, 16))
    outputs: Sequence[str] = ("y", "z")

    @property
    def schema(self) -> Schema:
        return Schema.of({"y": 0.0, "z": 0.0})

    def values(self, p: Any) -> np.ndarray:
        y = np.exp(-20 * (p["a"] - 0.5) ** 2) * np.sin(self.t + p["b"])
        z = p["a"] + 0.3 * np.tanh(4 * (p["b"] - 3)) * self.t
        return np.stack([y, z], axis=-1)

    def samples(self, number: int, p: Any, steps: int | None = None) -> list[Sample]:
        rows = self.values(p)[:steps]
        return [Sample(f"m{number:04d}", 1, i, float(self.t[i]), p, {"y": np.array(y), "z": np.array(z)}) for i, (y, z) in enumerate(rows)]

    def points(self, n: int, seed: int) -> list[dict[str, Any]]:
        return self.space.from_unit(self.space.sobol(n, seed=seed))


@dataclass
class ToyTruth:
    parameters: Sequence[Any]
    t: np.ndarray
    outputs: Sequence[str]
    values: np.ndarray


@pytest.fixture
def toy() -> Toy:
    return Toy()


@pytest.fixture
def truth(toy: Toy) -> ToyTruth:
    points = toy.points(32, seed=99)
    return ToyTruth(points, toy.t, toy.outputs, np.stack([toy.values(p) for p in points]))


@pytest.fixture
def make(toy: Toy) -> Callable[..., InlineTrainer]:
    def make_trainer(**options: Any) -> InlineTrainer:
        given = {"surrogate_options": SMALL, "device": "cpu", "buffer_options": {"watermark": 16}, **options}
        return InlineTrainer(toy.space, toy.schema, **given)

    return make_trainer


@pytest.fixture
def stream(toy: Toy) -> Callable[..., None]:
    """Feeds members two at a time, a few steps each in turn, and trains in between by counted updates."""

    def run(trainer: InlineTrainer, numbers: Sequence[int], updates: int = 4, chunk: int = 4, seed: int = 5) -> None:
        points = toy.points(64, seed=seed)
        for pair in zip(numbers[::2], numbers[1::2], strict=True):
            for start in range(0, len(toy.t), chunk):
                for n in pair:
                    trainer.add(toy.samples(n, points[n])[start : start + chunk])
                    trainer.work(1e9, max_updates=updates)

    return run
