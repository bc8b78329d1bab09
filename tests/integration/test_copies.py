"""A straggler and its copy in a real study: the first of the two to finish is taken, and every step is stored once."""

import pytest

from alearn import events as ev
from alearn.controller.stragglers import COPY
from alearn.ledger import Ledger
from alearn.study import Study
from alearn.testing.checker import check

SLOW_ONCE = '''
import os
import time


def wave(a):
    """The first process at a high point hangs before its step number PART; any other runs through."""
    first = False
    try:
        if a > 0.9:
            os.close(os.open("{folder}/taken", os.O_CREAT | os.O_EXCL))
            first = True
    except FileExistsError:
        pass
    for step in range(6):
        if first and step == {part}:
            time.sleep(600)
        time.sleep(0.02)
        yield {{"t": 0.1 * step, "y": a + step}}
'''


@pytest.mark.parametrize("part", [0, 3])
def test_a_copy_finishes_a_straggler(tmp_path, part):
    (tmp_path / "sim.py").write_text(SLOW_ONCE.format(folder=tmp_path, part=part))
    study = Study(
        {"a": (0.0, 1.0)}, {"name": "python", "target": f"{tmp_path}/sim.py:wave"}, surrogate="gp", acquisition="sobol", budget=10,
        directory=tmp_path / "study", launcher={"name": "local", "slots": 2, "oversubscribe": True, "warm": True},
        design={"initial": 10}, kill="never", failure={"stragglers": "duplicate", "slow": 2}, view="quiet",
    )  # fmt: skip
    study.run()
    status = study.status()
    assert (status.state, status.members.done) == ("done", 10)
    data = study.archive()
    assert data["y"].shape == (10, 6)
    assert data["y"].values == pytest.approx(data["a"].values[:, None] + [0, 1, 2, 3, 4, 5])
    with Ledger.open(tmp_path / "study", readonly=True) as ledger:
        events = [event for _, event in ledger.events()]
    (copied,) = [e for e in events if isinstance(e, ev.CopyLaunched)]
    (end,) = [e for e in events if isinstance(e, ev.MemberEnded) and e.member == copied.member]
    assert (end.state, end.cause) == ("done", COPY)
    assert sum(isinstance(e, ev.CopyEnded) for e in events) == 1
    assert check(tmp_path / "study").problems == ()
