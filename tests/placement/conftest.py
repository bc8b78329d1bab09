"""A study's directory with stored samples and no simulation: what a learner needs, wherever it runs."""

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from alearn.assembly import assemble
from alearn.config import Config
from alearn.events import MemberEnded, MemberLaunched, MemberQueued, MemberRunning
from alearn.learner import Gone, Hold, Stored
from alearn.ledger import Ledger
from alearn.placement import Learning, open_learner
from alearn.simulators.reference import make_reference
from alearn.types import Sample, Schema, member_id

BOX = {"a": (0.0, 1.0), "b": (0.0, 1.0)}
STEPS = 10


def wave(a, b):
    for step in range(STEPS):
        t = step / STEPS
        yield {"t": t, "y": float(np.sin(4 * a + 2 * t) * np.exp(-b * t))}


OWN = """
import torch
from torch import nn

class Net(nn.Sequential):
    def __init__(self, inputs, outputs):
        super().__init__(nn.Linear(inputs, 8), nn.Tanh(), nn.Linear(8, outputs))

def corner(surrogate, X, context):
    return X.sum(-1)
"""


@dataclass
class Stage:
    """The directory with its ledger, open for writing."""

    directory: Path
    config: Config
    ledger: Ledger
    own: Path
    members: int = 0

    def change(self, **entries) -> None:
        """Configure it otherwise."""
        self.config = Config.from_mapping({**self.config.to_mapping(), **entries})

    def store(self, members: int) -> None:
        """Simulate so many more members and store them."""
        for number in range(self.members, self.members + members):
            rng = np.random.default_rng(number)
            x = tuple(map(float, rng.random(2)))
            name, parameters = member_id(number), dict(zip(BOX, x, strict=True))
            self.ledger.append(
                [
                    MemberQueued(at=1.0, member=name, parameters=parameters, x=x, origin="design"),
                    MemberLaunched(at=1.0, member=name, attempt=1),
                    MemberRunning(at=1.0, member=name, attempt=1),
                ]
            )
            samples = []
            for i, step in enumerate(wave(**parameters)):
                samples.append(Sample(name, 1, i, step["t"], parameters, {"y": np.asarray(step["y"])}))
            self.ledger.store(samples, Schema.of({"y": 0.0}))
            self.ledger.append([MemberEnded(at=2.0, member=name, attempt=1, state="done")])
        self.members += members

    @contextlib.contextmanager
    def learner(self, *, fresh: bool = False, **trainer):
        """A learner as configured, which was told everything; closed in the end."""
        options = {**self.config.trainer.options, **trainer}
        config = Config.from_mapping({**self.config.to_mapping(), "trainer": {"name": "inline", **options}})
        rooms = assemble(config, "active", self.directory)
        learner: Learning = open_learner(rooms, self.ledger, self.directory, fresh=fresh)
        try:
            learner.tell(Hold(member_id(2)))
            learner.tell(Stored(self.ledger.last_sample))
            for number in range(self.members):
                learner.tell(Gone(member_id(number), killed=False))
            yield learner
        finally:
            learner.close()
            rooms.reader.close()
            rooms.launcher.close()

    @property
    def observed(self):
        return {m.id: m.x for m in self.ledger.members()}


@pytest.fixture
def stage(tmp_path):
    own = tmp_path / "own.py"
    own.write_text(OWN)
    reference = make_reference(wave, BOX, ["y"], 16).write(tmp_path / "reference.npz")
    config = Config.from_mapping(
        {
            "space": {name: list(box) for name, box in BOX.items()},
            "simulation": {"name": "python", "target": "unused.py:wave"},
            "reference": str(reference),
            "transport": "inprocess",
            "acquisition": {"name": "std_distance", "pool": 128, "refine": 0},
            "surrogate": {"name": "ensemble", "estimators": 4, "width": 16, "depth": 2, "max_updates": 500},
            "trainer": {"name": "inline", "refit_updates": 60, "batch_size": 32},
        }
    )
    directory = tmp_path / "study"
    with Ledger.create(directory, study="test", segment_bytes=4096) as ledger:
        stage = Stage(directory, config, ledger, own)
        stage.store(12)
        ledger.seal(everything=False)
        stage.store(4)
        yield stage


def until(what, deadline_s=90.0):
    """What ``what()`` returns once it is true."""
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        if value := what():
            return value
        time.sleep(0.02)
    raise AssertionError(f"nothing within {deadline_s} s")


def idle(learner):
    """Wait until it has taken everything in and has nothing to train; its vitals then."""

    def settled(since):
        assert learner.answers() == []
        v = learner.vitals()
        return v if v.doing == "idle" and v.samples and v.alive_at > since else None

    now = time.time()
    first = until(lambda: settled(now))
    second = until(lambda: settled(first.alive_at + 0.2))
    assert second.updates == first.updates
    return second


def alive(pid):
    """Whether the process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
