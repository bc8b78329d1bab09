import random

from alearn.controller.ranking import Ranking


def test_it_agrees_with_sorting_whatever_happens() -> None:
    rng = random.Random(3)
    ranking, model = Ranking(), {}
    for n in range(4000):
        member = f"m{rng.randrange(300)}"
        if rng.random() < 0.35:
            ranking.discard(member)
            model.pop(member, None)
        else:
            key = rng.random()
            ranking.set(member, key)
            model[member] = key
        if n % 50 == 0:
            order = sorted(model, key=model.__getitem__)
            k = rng.randrange(12)
            assert ranking.first(k) == order[:k]
            assert ranking.below(0.1) == [m for m in order if model[m] < 0.1]
            assert len(ranking) == len(model)
            assert set(ranking) == set(model)


def test_ties_keep_the_order_of_arrival_and_reading_changes_nothing() -> None:
    ranking = Ranking()
    for member in "cab":
        ranking.set(member, 1.0)
    assert ranking.first(2) == ["c", "a"]
    assert ranking.first(9) == ["c", "a", "b"]
    assert ranking.key("a") == (1.0,)
    assert "a" in ranking
    assert ranking.first(0) == []


def test_rescoring_everything_many_times_keeps_it_small() -> None:
    ranking = Ranking()
    for turn in range(200):
        for member in range(50):
            ranking.set(str(member), float((turn * 7 + member) % 50))
    assert len(ranking._heap) <= 200
