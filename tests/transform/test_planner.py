"""The performance model: both sides of the break-even, its fit to what was measured, and how the planner explores."""

import json

import pytest

from alearn.errors import UnknownName
from alearn.transform.planner import Costs, Planner, choose, line, predict

CHEAP = Costs(
    raw=4e6, out=1e4, solve_s=0.02, put_s=1e-4, put_s_per_byte=1e-9, writer_s=1e-3, reader_s=1e-3, handle_s=2e-4, handle_s_per_byte=1e-9
)


def variant(**changes) -> Costs:
    return Costs(**{**{name: getattr(CHEAP, name) for name in CHEAP.__slots__}, **changes})


def test_a_transform_cheaper_than_its_bytes_belongs_to_the_writer():
    seconds = predict(CHEAP)
    assert seconds["writer"] == pytest.approx(0.02 + 1e-4 + 1e-5 + 1e-3)
    assert seconds["reader"] == pytest.approx(0.02 + 1e-4 + 4e-3)
    assert choose(CHEAP) == "writer"


def test_a_transform_dearer_than_its_bytes_belongs_to_an_idle_reader():
    assert choose(variant(writer_s=0.01, reader_s=0.01)) == "reader"


def test_the_break_even_is_where_the_bytes_cost_what_the_transform_does():
    saved = (4e6 - 1e4) * 1e-9
    for factor, place in ((0.9, "writer"), (1.2, "reader")):
        assert choose(variant(solve_s=0.0, writer_s=factor * saved, reader_s=1e-4)) == place


def test_many_members_make_the_reader_the_bottleneck():
    dear = variant(writer_s=0.01, reader_s=0.01)
    assert choose(dear) == "reader"
    many = variant(writer_s=0.01, reader_s=0.01, members=16)
    assert predict(many)["reader"] == pytest.approx(0.01)
    assert choose(many) == "writer"


def test_little_that_is_read_brings_it_back_to_the_reader():
    busy = variant(writer_s=0.05, reader_s=0.05, members=4, handle_s_per_byte=1e-10)
    assert choose(busy) == "writer"
    assert choose(variant(writer_s=0.05, reader_s=0.05, members=4, handle_s_per_byte=1e-10, read=0.1)) == "reader"


def test_a_line_through_two_sizes_is_never_negative():
    assert line({1e3: 2e-3, 1e6: 1e-3}) == (pytest.approx(1.5e-3), 0.0)
    intercept, slope = line({1e3: 1e-4, 1e6: 1.1e-3})
    assert intercept + 1e6 * slope == pytest.approx(1.1e-3)
    assert line({1e6: 1e-3}) == (0.0, pytest.approx(1e-9))
    assert line({10.0: 1e-9, 20.0: 1.0}) == (0.0, pytest.approx(0.05))


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


def told(folder, number, at, **seconds):
    path = folder / f"{number}.json"
    path.write_text(json.dumps({"at": at, "steps": 8, **seconds}))
    return path


def explore(tmp_path, planner, *, solve=0.02, transform=1e-3, raw_put=4e-3, out_put=1e-4, reader=1e-3):
    planner.sizes(4e6, 1e4)
    sentence = ""
    for number in range(4):
        at = planner.assign(tmp_path / f"{number}.json", ready=True)
        told(
            tmp_path,
            number,
            at,
            solve_s=solve,
            transform_s=transform if at == "writer" else 0,
            put_s=out_put if at == "writer" else raw_put,
        )
        planner.transformed(reader * 4, 4)
        for steps in range(1, 9):
            planner.handled(5e-3 + steps * (2e-4 + 1e-9 * (1e4 if at == "writer" else 4e6)), {at: steps})
        sentence = sentence or planner.look()
    return sentence


def test_auto_tries_both_by_turns_and_then_chooses(tmp_path):
    planner = Planner(clock=Clock())
    sentence = explore(tmp_path, planner)
    assert planner.place == "writer"
    assert sentence.startswith("transforms run at the writer from now on: predicted 21.1 ms a step, against 24")
    costs = planner.costs
    assert costs.handle_s == pytest.approx(2e-4, rel=0.01)
    assert costs.handle_s_per_byte == pytest.approx(1e-9, rel=0.01)
    assert costs.put_s_per_byte == pytest.approx(3.9e-3 / (4e6 - 1e4))
    assert planner.assign(tmp_path / "9.json", ready=True) == "writer"
    account = planner.account()
    later = Planner(clock=Clock())
    later.resume(json.loads(json.dumps(account)))
    assert (later.place, later.costs, later.predicted) == (planner.place, planner.costs, planner.predicted)
    told_otherwise = Planner("reader")
    told_otherwise.resume(account)
    assert told_otherwise.place == "reader"
    assert json.loads(json.dumps(account)) == account
    assert account["measured_s"]["writer"] == pytest.approx(account["predicted_s"]["writer"], rel=0.05)
    assert account["measured_s"]["reader"] == pytest.approx(account["predicted_s"]["reader"], rel=0.05)


def test_auto_chooses_the_reader_on_the_other_side(tmp_path):
    planner = Planner(clock=Clock())
    assert "at the reader" in explore(tmp_path, planner, transform=0.012, reader=0.012)
    assert planner.place == "reader"


def test_a_place_that_is_told_is_taken(tmp_path):
    assert Planner("writer").assign(tmp_path / "a", ready=True) == "writer"
    assert Planner("writer").assign(tmp_path / "a", ready=False) == "reader"
    assert Planner("reader").assign(tmp_path / "a", ready=True) == "reader"
    forced = Planner("auto", must_read="the raw is kept")
    assert (forced.place, forced.why) == ("reader", "the raw is kept")
    with pytest.raises(UnknownName, match="Did you mean 'writer'"):
        Planner("writter")


def test_clients_that_cannot_transform_settle_it(tmp_path):
    planner = Planner(clock=Clock())
    for number in range(4):
        if planner.assign(tmp_path / f"{number}", ready=True) == "writer":
            planner.foreign()
    assert (planner.place, planner.why) == ("reader", "the members' client cannot transform")


def test_a_codec_that_is_not_ready_is_learned_at_the_reader(tmp_path):
    planner = Planner(clock=Clock())
    assert [planner.assign(tmp_path / f"{n}", ready=False) for n in range(3)] == ["reader"] * 3


def test_reports_that_cannot_be_read_count_for_nothing(tmp_path):
    planner = Planner(clock=Clock())
    planner.sizes(10, 1)
    for number in range(6):
        path = tmp_path / f"{number}.json"
        planner.assign(path, ready=True)
        path.write_text("{" if number % 2 else '{"at": "nowhere", "solve_s": 1, "transform_s": 1, "put_s": 1}')
    assert planner.look() == ""
    assert planner.place is None
    assert planner.account()["measured_s"] == {}
