from alearn.space import Space
from alearn.surrogate import save_snapshot
from alearn.surrogate.ensemble import DeepEnsemble
from alearn.surrogate.snapshot import verify_snapshots


def test_every_snapshot_is_compared_with_its_checksum(tmp_path):
    assert verify_snapshots(tmp_path / "none") == []
    space = Space.from_config({"a": [0, 1]})
    for name in ("surrogate", "snapshot-000001", "snapshot-000002"):
        save_snapshot(tmp_path / f"{name}.pt", DeepEnsemble(d=1, m=1, seed=0), name="ensemble", space=space, outputs=["y"])
    assert verify_snapshots(tmp_path) == []
    data = bytearray((tmp_path / "snapshot-000001.pt").read_bytes())
    at = len(data) // 2
    data[at : at + 64] = bytes(b ^ 0xFF for b in data[at : at + 64])
    (tmp_path / "snapshot-000001.pt").write_bytes(data)
    (tmp_path / "surrogate.pt").write_bytes(b"torn")
    problems = verify_snapshots(tmp_path)
    assert len(problems) == 2
    assert "snapshot-000001.pt" in problems[0]
    assert "surrogate.pt cannot be read" in problems[1]
    assert all("use an earlier one" in p for p in problems)
