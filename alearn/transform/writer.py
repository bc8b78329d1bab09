"""The writer's side: what ``alearn.client`` loads when the study's transforms are to run in the simulation.

The environment says what to do (``ALEARN_TRANSFORM``, a JSON object, see ``spec``); what it took is written beside the
member (``transform.json``), from where the planner reads it.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, final

from alearn.transform.base import Key
from alearn.transform.pipeline import Pipeline, arrays
from alearn.types import Schema

VARIABLE = "ALEARN_TRANSFORM"
COSTS = "transform.json"
"""What the steps of one attempt cost at the writer; in the attempt's working directory."""
_REFRESH_S = 1.0
_KEPT = 64


def spec(pipeline: Pipeline | None, study: Path, costs: Path) -> str:
    """The value of ``ALEARN_TRANSFORM``.

    Args:
        pipeline: what the writer applies; None if it only measures.
        study: where the codecs' versions are.
        costs: where the writer writes down what its steps cost.
    """
    said = {"pipeline": None if pipeline is None else json.loads(pipeline.to_json()), "study": str(study.resolve()), "costs": str(costs)}
    return json.dumps(said)


@final
class AtWriter:
    """Transforms each step before it is put, and measures what a step costs.

    Args:
        text: the value of ``ALEARN_TRANSFORM``.
        member: whose steps these are.

    Raises:
        ConfigError: a transform cannot be made here.
    """

    def __init__(self, text: str, member: str) -> None:
        said = json.loads(text)
        self._pipeline = None if said["pipeline"] is None else Pipeline.from_json(json.dumps(said["pipeline"]))
        if self._pipeline is not None:
            self._pipeline.keep_in(Path(said["study"]), learn=False)
        self._costs = Path(said["costs"])
        self._member = member
        self._solve: deque[float] = deque(maxlen=_KEPT)
        self._transform: deque[float] = deque(maxlen=_KEPT)
        self._put: deque[float] = deque(maxlen=_KEPT)
        self._taken = 0.0
        self._left: float | None = None
        self._steps = 0
        self._refreshed = time.perf_counter()

    @property
    def raw(self) -> list[dict[str, Any]]:
        """What the steps carried before they were transformed, for the hello; empty if they go out as they are."""
        given = None if self._pipeline is None else self._pipeline.raw
        return [] if given is None else list(json.loads(given.to_json()))

    def schema(self, given: Mapping[str, Any], units: Mapping[str, str]) -> Schema | None:
        """What is announced, from the values of the first step; None if they go out as they are.

        Raises:
            SchemaError: a transform does not fit the step.
        """
        return None if self._pipeline is None else self._pipeline.schema(Schema.of(given, units))

    def __call__(self, given: dict[str, Any], step: int) -> dict[str, Any]:
        """One step, transformed."""
        if self._pipeline is None:
            return given
        began = time.perf_counter()
        if began - self._refreshed > _REFRESH_S:
            self._refreshed = began
            self._pipeline.refresh()
        key: Key = (self._member, step)
        (out,) = self._pipeline.take([arrays(given)], [key])
        self._taken = time.perf_counter() - began
        return dict(out)

    def watch(self, put: Callable[[float, dict[str, Any]], None], t: float, given: dict[str, Any]) -> None:
        """Put one step and note what the simulation, the transform and the stream each took."""
        began = time.perf_counter()
        if self._left is not None:
            self._solve.append(began - self._left)
        self._taken = 0.0
        put(t, given)
        self._left = time.perf_counter()
        self._transform.append(self._taken)
        self._put.append(self._left - began - self._taken)
        self._steps += 1
        if self._steps >= 4 and self._steps & (self._steps - 1) == 0:  # at 4, 8, 16 …: a kill may come at any time
            self.report()

    def report(self) -> None:
        """Write down what the steps cost so far; the file is replaced as a whole."""
        if not self._solve:
            return
        said = {
            "at": "reader" if self._pipeline is None else "writer",
            "steps": self._steps,
            "solve_s": statistics.median(self._solve),
            "transform_s": statistics.median(self._transform),
            "put_s": statistics.median(self._put),
        }
        draft = self._costs.with_suffix(f".{os.getpid()}")
        try:
            draft.write_text(json.dumps(said))
            draft.replace(self._costs)
        except OSError:  # a machine without the study's file system: the planner does without
            draft.unlink(missing_ok=True)
