"""Said plainly: whether active learning helped on the test members, and what the ghosts tell of the kills."""

import numpy as np
import pytest

from alearn import events as ev
from alearn.report.data import audit_kills
from alearn.report.significance import evidence, mean_gain
from alearn.report.verdict import kill_sentences


def errors(n=40, seed=0):
    return np.random.default_rng(seed).lognormal(size=n)


def test_a_clear_gain_is_called_one():
    base = errors()
    better = base * np.random.default_rng(1).uniform(0.3, 1.05, len(base))
    assert mean_gain(better, base) < 1e-3
    assert evidence(better, base).startswith(
        "Active learning is better than the control here (p < 0.001; paired randomisation test of the mean over 40 test members"
    )


def test_a_loss_is_called_no_help():
    base = errors()
    other = 1.3 * base * np.random.default_rng(2).lognormal(sigma=0.5, size=len(base))
    assert mean_gain(other, base) > 0.05
    said = evidence(other, base)
    assert said.startswith("Active learning is not helping here (p = ")
    assert "of these two runs" in said


def test_a_gain_that_may_be_chance_is_called_open():
    base = np.ones(10)
    other = base - np.array([0.5, -0.45] * 5)
    assert other.mean() < base.mean()
    assert evidence(other, base).startswith("Whether active learning helps here is open (p = ")


def test_a_few_large_gains_are_not_hidden_by_many_small_losses():
    base = np.concatenate([np.full(60, 0.10), np.full(40, 1.0)])
    other = np.concatenate([np.full(60, 0.11), np.full(40, 0.5)])
    assert evidence(other, base).startswith("Active learning is better than the control here (p < 0.001")


def test_under_the_null_small_p_values_are_rare():
    rng = np.random.default_rng(3)
    found = [mean_gain(rng.lognormal(size=30), rng.lognormal(size=30)) for _ in range(300)]
    assert np.mean(np.array(found) < 0.05) < 0.09


def test_too_few_members_say_nothing():
    assert evidence(errors(3), errors(3, 1)) == ""
    assert evidence(np.full(20, 0.1), np.full(20, 0.1)) == ""


def story(taught):
    """Ghosts whose further steps taught so much of what the best candidate (1 per core-second) was to teach."""
    yield ev.StudyStarted(at=0.0, study="s", arm="active", seed=1)
    for i, value in enumerate(taught):
        m = f"m{i:04d}"
        yield ev.MemberQueued(at=1.0, member=m, parameters={}, x=(0.1 * i,), origin="acquisition")
        yield ev.MemberLaunched(at=1.0, member=m, attempt=1)
        yield ev.MemberRunning(at=1.0, member=m, attempt=1, steps_total=20)
        yield ev.SamplesStored(at=2.0, member=m, attempt=1, steps=5, last=4, t=1.0)
        yield ev.GhostSpared(at=2.0, member=m, step=5, reason="condemned")
        for step in (9, 14):
            yield ev.SamplesStored(at=3.0, member=m, attempt=1, steps=5, last=step, t=2.0)
            yield ev.MemberScored(at=3.0, member=m, step=step, remaining_value=0.1, best_value=1.0, surprise=0.9, error=0.02, taught=value)
        yield ev.MemberEnded(at=4.0, member=m, attempt=1, state="done")
    yield ev.MemberQueued(at=5.0, member="m0999", parameters={}, x=(0.9,), origin="acquisition")
    yield ev.MemberLaunched(at=5.0, member="m0999", attempt=1)
    yield ev.MemberRunning(at=5.0, member="m0999", attempt=1, steps_total=20)
    yield ev.KillRequested(at=5.0, member="m0999", attempt=1, reason="nothing left to teach", saved_steps=15)
    yield ev.MemberEnded(at=5.0, member="m0999", attempt=1, state="killed")


@pytest.mark.parametrize(
    ("taught", "words"),
    [
        ([0.05, 0.1, 0.02, 0.08, 0.1, 0.05], "killing was right"),
        ([3.0, 2.0, 4.0, 2.5, 2.2, 3.1], "killing was wrong"),
        ([0.1, 3.0, 0.2, 0.1, 2.5, 0.3], "whether killing was right is open"),
    ],
)
def test_the_regret_of_the_kills_comes_from_the_ghosts(taught, words):
    audit = audit_kills(story(taught))
    assert audit.ghosts == 6
    assert audit.ghost_error == pytest.approx(0.02)
    assert audit.regret == pytest.approx(np.mean(taught))
    low, high = audit.regret_interval
    assert low <= audit.regret <= high
    (said,) = [s for s in kill_sentences(audit) if "core-second" in s]
    assert words in said
    assert "from 6 ghosts" in said


def test_too_few_ghosts_tell_no_regret():
    assert not any("core-second" in s for s in kill_sentences(audit_kills(story([0.1]))))


def test_without_ghosts_there_is_no_regret_to_tell():
    audit = audit_kills(story([]))
    assert audit.killed == 1
    assert np.isnan(audit.regret)
    assert not any("core-second" in s for s in kill_sentences(audit))
