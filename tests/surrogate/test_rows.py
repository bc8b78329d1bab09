import torch

from alearn.surrogate import Batch
from alearn.surrogate.rows import folds_of, thin


def trajectories(members, steps):
    t = torch.arange(steps, dtype=torch.float64).repeat(members)
    groups = torch.arange(members).repeat_interleave(steps)
    X = torch.stack([groups.double() / members, t], dim=1)
    mixed = torch.randperm(len(t), generator=torch.Generator().manual_seed(0))
    return Batch(X, t[:, None], torch.ones(len(t)), groups).take(mixed)


def test_nothing_is_left_out_of_what_fits():
    data = trajectories(5, 4)
    assert thin(data, 20, over_t=True).tolist() == list(range(20))


def test_every_member_keeps_its_first_and_last_steps():
    data = trajectories(6, 30)
    kept = data.take(thin(data, 50, over_t=True))
    assert len(kept) == 48  # eight of each
    for g in range(6):
        t = kept.X[kept.groups == g, -1]
        assert (t.min(), t.max()) == (0, 29)
        assert float(t.sort().values.diff().max()) <= 5


def test_members_go_when_four_steps_of_each_are_too_many():
    data = trajectories(40, 10)
    kept = data.take(thin(data, 60, over_t=True, seed=1))
    members, steps = kept.groups.unique(return_counts=True)
    assert len(members) == 15
    assert (steps == 4).all()
    other = data.take(thin(data, 60, over_t=True, seed=2))
    assert not torch.equal(other.groups.unique(), members)


def test_without_t_members_stay_whole():
    data = trajectories(10, 3)
    kept = data.take(thin(data, 10, over_t=False))
    assert torch.equal(kept.groups.unique(return_counts=True)[1], torch.full((3,), 3))


def test_folds_keep_members_whole_and_are_even():
    groups = torch.arange(10).repeat(3)
    folds = folds_of(groups, 4, seed=0)
    assert torch.equal(folds[:10], folds[10:20])
    assert sorted(folds[:10].bincount().tolist()) == [2, 2, 3, 3]
