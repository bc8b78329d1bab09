"""A recorded study streamed into training again, from the command line."""

import numpy as np

from alearn.ledger import Ledger


def test_a_study_is_replayed(world):
    done = world.alearn(*world.run_words("wave", 6, "kill=never", "view=quiet"))
    assert done.returncode == 0, done.stderr
    # No space: it is the recorded one's. More members than were recorded: it ends when they are used up.
    words = ["simulation=replay", "simulation.study=study", "view=plain", "kill=never", "acquisition=random", "seed=3"]
    done = world.alearn("run", *words, "hydra.run.dir=again")
    assert done.returncode == 0, done.stderr
    status = world.status("again")
    assert (status["state"], status["members"]["done"], status["samples"]["stored"]) == ("done", 6, 60)
    with Ledger.open(world.folder / "study", readonly=True) as first, Ledger.open(world.folder / "again", readonly=True) as second:
        assert all("answered by recorded member m000" in m.why for m in second.members())
        twins = {(s.parameters["a"], s.step): s for s in second.samples()}
        count = 0
        for sample in first.samples():
            twin = twins[sample.parameters["a"], sample.step]
            assert (twin.t, dict(twin.parameters)) == (sample.t, dict(sample.parameters))
            assert all(np.array_equal(twin.values[n], sample.values[n]) for n in sample.values)
            count += 1
    assert count == len(twins) == 60
    wrong = world.alearn("run", "simulation=replay", "simulation.study=nowhere", "hydra.run.dir=third")
    assert wrong.returncode == 2
    assert "configuration of the recorded study" in wrong.stderr
    assert not (world.folder / "third").exists()
