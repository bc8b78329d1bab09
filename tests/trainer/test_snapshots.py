import logging

import numpy as np
import pytest
import torch

from alearn.errors import LedgerCorrupt
from alearn.space import Space
from alearn.surrogate import DeepEnsemble, load_snapshot
from alearn.trainer import Features, read_snapshot, write_snapshot
from alearn.types import Schema


@pytest.fixture
def write(tmp_path):
    features = Features(Space.from_config({"a": [0, 1]}), Schema.of({"y": 0.0}))
    model = DeepEnsemble(d=2, m=1, over_t=True, estimators=2, width=4, depth=1)

    def run(learner, keep=3):
        return write_snapshot(tmp_path, model, "ensemble", features, learner, keep)

    return run


def test_arrays_numbers_and_integer_keys_return(write, tmp_path):
    state = {
        "a": np.arange(6, dtype=np.int64).reshape(2, 3),
        "empty": np.zeros((0, 2)),
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "groups": [{"lr": 0.1}]},
        "n": np.int64(7),
        "nan": float("nan"),
    }
    write(state)
    found = read_snapshot(tmp_path)
    assert found is not None
    back = found[2]
    np.testing.assert_array_equal(back["a"], state["a"])
    assert back["empty"].shape == (0, 2)
    assert back["optimizer"]["state"][0]["step"] == 3
    assert back["optimizer"]["groups"] == [{"lr": 0.1}]
    assert back["n"] == 7
    assert np.isnan(back["nan"])


def test_the_newest_few_are_kept_and_every_one_holds_the_surrogate(write, tmp_path):
    paths = [write({"i": i}, keep=2) for i in range(5)]
    assert sorted(tmp_path.iterdir()) == paths[-2:]
    _, info = load_snapshot(paths[-1])
    assert info.outputs == ("y",)
    assert info.space.names == ("a",)
    torch.load(paths[-1], weights_only=True)


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_a_damaged_snapshot_gives_way_to_the_one_before(write, tmp_path, damage, caplog):
    write({"i": 1})
    newest = write({"i": 2})
    data = bytearray(newest.read_bytes())
    if damage == "flip":
        at = data.index(b"snapshot") if b"snapshot" in data else len(data) // 2
        # a value inside a tensor's record: the zip directory stays readable
        blob = load_snapshot(newest)[0].state_dict()["net.weights.0"].numpy().tobytes()
        at = data.index(blob)
        data[at + 2] ^= 0x10
    elif damage == "cut":
        data = data[: len(data) // 2]
    else:
        data = bytearray()
    newest.write_bytes(bytes(data))
    with caplog.at_level(logging.WARNING):
        found = read_snapshot(tmp_path)
    assert found is not None
    assert found[2]["i"] == 1
    assert "skipped" in caplog.text


def test_none_at_all_is_none_and_none_whole_is_an_error(write, tmp_path):
    assert read_snapshot(tmp_path / "nowhere") is None
    assert read_snapshot(tmp_path) is None
    write({"i": 1}).write_bytes(b"no snapshot")
    with pytest.raises(LedgerCorrupt, match="move them away"):
        read_snapshot(tmp_path)
    (tmp_path / "snapshot-000009.pt.part").write_bytes(b"")
    with pytest.raises(LedgerCorrupt):
        read_snapshot(tmp_path)
