"""Ranks that train together: as good as one learner, and what becomes of them when one is lost."""

import logging
import os
import signal

import pytest

from alearn.assembly import check_placing
from alearn.config import Config
from alearn.errors import ConfigError, UnknownName
from alearn.learner import Measure, Save
from alearn.placement import wait
from alearn.registry import build

from .conftest import alive

DEADLINE_S = 120.0


def final_error(stage, **trainer):
    with stage.learner(fresh=True, **trainer) as learner:
        return wait(learner, Measure(160, 16, final=True), DEADLINE_S)


def test_ranks_learn_as_well_as_one_and_a_killed_rank_is_replaced(stage, caplog):
    caplog.set_level(logging.WARNING, "alearn")
    alone = final_error(stage)
    with stage.learner(placement="ddp", ranks=2, restarts=1) as learner:
        before = wait(learner, Measure(160, 16), DEADLINE_S)
        wait(learner, Save(stage.directory / "snapshots", 160), DEADLINE_S)
        first = learner.pids
        os.kill(first[1], signal.SIGKILL)
        together = wait(learner, Measure(160, 16, final=True), DEADLINE_S)
        second = learner.pids
    assert not {*first} & {*second}
    assert not any(map(alive, (*first, *second)))
    (said,) = [r.getMessage() for r in caplog.records]
    assert "ank" in said
    assert "restart 1 of 1" in said
    assert together.updates > before.updates >= 60
    assert together.samples == alone.samples == 160
    assert together.error["rmse"] < 1.6 * alone.error["rmse"]
    assert not list(stage.directory.glob(".ranks*"))


@pytest.mark.parametrize(
    ("changes", "kind", "says"),
    [
        ({"trainer": {"name": "inline", "placement": "proces"}}, UnknownName, "Did you mean 'process'"),
        ({"trainer": {"name": "inline", "placement": "ddp"}}, ConfigError, "give 2 or more"),
        ({"trainer": {"name": "inline", "ranks": 2}}, ConfigError, "several ranks need ddp"),
        ({"trainer": {"name": "inline", "restarts": -1}}, ConfigError, "trainer.restarts is -1"),
        ({"trainer": {"name": "inline", "placement": "ddp", "ranks": 2}, "surrogate": "gp"}, ConfigError, "surrogate=gp has none"),
        ({"trainer": {"name": "inline", "placement": "ddp", "ranks": 2}, "archive": "none"}, ConfigError, "needs an archive"),
        ({"trainer": {"name": "inline", "placement": "ddp", "ranks": 2, "device": "cuda:0"}}, ConfigError, "GPU of its own"),
        (
            {"trainer": {"name": "inline", "placement": "process", "threads": 2}, "launcher": {"name": "local", "placement": "space"}},
            ConfigError,
            "need 2 cores",
        ),
    ],
)
def test_what_cannot_be_is_told_before_anything_starts(stage, changes, kind, says):
    config = Config.from_mapping({**stage.config.to_mapping(), **changes})
    surrogate = build("surrogate", config.surrogate.name, config.surrogate.options if config.surrogate.name == "ensemble" else {}, d=3, m=1)
    with pytest.raises(kind, match=says):
        check_placing(config, surrogate)
