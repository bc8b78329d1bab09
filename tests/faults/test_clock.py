"""The time of day is set while a study runs, as its processes see it: nothing hangs, nothing is double, no budget is blown."""

import time

import pytest

from alearn.controller.folding import fold
from alearn.ledger import Ledger
from alearn.testing.checker import check
from alearn.testing.faults import Ordeal

CLOCKED = '''"""A wave that says what time it is."""

import time

import my_file


def wave(a: float, b: float):
    for values in my_file.wave(a, b):
        print(time.time(), flush=True)
        yield values
'''
DAY = 86400
DEADLINE_S = 120.0


@pytest.fixture
def ordeal(tmp_path):
    """A study with a budget of wall time that a day would use up, and with the monitor that ends silent members."""
    simulation = ("simulation=python", "simulation.target=clocked.py:wave", "space={a: [0, 1], b: [0, 1]}")
    made = Ordeal(tmp_path, members=6, sleep_s=0.1, simulation=simulation, words=("budget.wall_minutes=60",))
    if made.clock is None:
        pytest.skip("there is no C compiler (cc) to make what sets the clock")
    (tmp_path / "clocked.py").write_text(CLOCKED)
    yield made
    made.end()


def stored(ordeal, samples):
    """Wait until so many samples are stored."""
    until = time.monotonic() + DEADLINE_S
    while time.monotonic() < until:
        if (ordeal.study / "ledger.sqlite").exists():
            with Ledger.open(ordeal.study, readonly=True) as ledger:
                if ledger.counts()["samples"]["stored"] >= samples:
                    return
        assert ordeal.process.poll() is None, ordeal.output
        time.sleep(0.05)
    raise AssertionError(f"{samples} samples were not stored within {DEADLINE_S:g} s")


def events(ordeal):
    with Ledger.open(ordeal.study, readonly=True) as ledger:
        return [event for _, event in ledger.events()]


def test_the_clock_is_set_a_day_forward_two_back_and_a_controller_later(ordeal):
    ordeal.set_clock(0)
    ordeal.start()
    stored(ordeal, 10)
    ordeal.set_clock(DAY)
    stored(ordeal, 30)
    ordeal.set_clock(-DAY)
    stored(ordeal, 50)
    ordeal.process.kill()  # the next controller finds events of the day after its own
    ordeal.process.wait(timeout=60)
    ordeal.set_clock(-3 * DAY)
    ordeal.start()
    assert ordeal.wait(DEADLINE_S) == 0, ordeal.output

    told = [float(line) for log in ordeal.study.glob("members/*/*/stdout.log") for line in log.read_text().split()]
    assert max(told) - min(told) > 3.5 * DAY, "the members never saw the clock that was set"
    verdict = check(ordeal.study)
    assert verdict.problems == ()
    assert len(verdict.samples) == 120
    happened = events(ordeal)
    state = fold(happened)
    assert state.end_state == "done"
    assert sum(state.failures.values()) == 0
    assert state.wall_clock(state.at) < DEADLINE_S * 3
    assert [e.at for e in happened] == sorted(e.at for e in happened)
