import pytest
import torch

from alearn.errors import AlearnError, ConfigError
from alearn.space import Space
from alearn.surrogate import DeepEnsemble, ExactGP, load_snapshot, save_snapshot
from alearn.testing.surrogate import F64, smooth_data
from alearn.types import Schema

SPACE = Space.from_config({"a": [0, 1], "b": {"low": 1e-3, "high": 1, "scale": "log"}})
SCHEMA = Schema.of({"y": 1.0, "u": [1.0, 2.0]})


def save(path, cls=DeepEnsemble, name="ensemble", **options):
    s = cls(2, 1, False, 4, **options)
    s.fit(smooth_data(20), updates=10)
    s.scale_variance(torch.tensor([1.7]))
    extra = {"note": "x", "t_grid": torch.arange(3.0), "n": [1, None, True]}
    save_snapshot(path, s, name=name, space=SPACE, outputs=["y"], schema=SCHEMA, extra=extra)
    return s


@pytest.mark.parametrize(("cls", "name", "options"), [(DeepEnsemble, "ensemble", {"width": 16, "prior_scale": 0.1}), (ExactGP, "gp", {})])
def test_round_trip(tmp_path, cls, name, options):
    path = tmp_path / "deep" / "s.pt"
    before = save(path, cls, name, **options)
    after, info = load_snapshot(path)
    x = torch.rand(10, 2, dtype=F64)
    for a, b in zip(before.predict(x), after.predict(x), strict=True):
        assert torch.equal(a, b)
    assert (after.d, after.m, after.over_t, after.seed) == (2, 1, False, 4)
    assert after.options() == before.options()
    assert info.space == SPACE
    assert info.schema == SCHEMA
    assert info.outputs == ("y",)
    assert info.extra["n"] == [1, None, True]
    assert [p.name for p in path.parent.iterdir()] == ["s.pt"]


def test_plain_torch_reads_it(tmp_path):
    save(tmp_path / "s.pt", width=16)
    document = torch.load(tmp_path / "s.pt", weights_only=True)
    assert document["name"] == "ensemble"
    assert '"scale": "log"' in document["space"]


def test_truncated_at_any_place(tmp_path):
    path = tmp_path / "s.pt"
    save(path, width=16)
    data = path.read_bytes()
    for size in (0, 10, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:size])
        with pytest.raises(AlearnError, match="truncated or damaged"):
            load_snapshot(path)


def test_flipped_bits_are_found(tmp_path):
    path = tmp_path / "s.pt"
    s = save(path, width=16)
    data = path.read_bytes()
    weights = s.average.weights[1].detach().numpy().tobytes()
    at = data.index(weights[:64])
    path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    with pytest.raises(AlearnError, match="damaged"):
        load_snapshot(path)


def test_a_changed_document_is_found(tmp_path):
    path = tmp_path / "s.pt"
    save(path, width=16)
    document = torch.load(path, weights_only=True)
    document["outputs"] = ["z"]
    torch.save(document, path)
    with pytest.raises(AlearnError, match="checksum"):
        load_snapshot(path)


def test_missing_and_foreign_files(tmp_path):
    with pytest.raises(AlearnError, match="no snapshot at"):
        load_snapshot(tmp_path / "none.pt")
    torch.save({"a": 1}, tmp_path / "other.pt")
    with pytest.raises(AlearnError, match="not a snapshot"):
        load_snapshot(tmp_path / "other.pt")


def test_only_plain_extras(tmp_path):
    s = DeepEnsemble(2, 1, width=16)
    with pytest.raises(ConfigError, match=r"extra\.space is a Space"):
        save_snapshot(tmp_path / "s.pt", s, name="ensemble", space=SPACE, outputs=["y"], extra={"space": SPACE})
    assert list(tmp_path.iterdir()) == []
