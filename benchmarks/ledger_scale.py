"""How fast is the ledger: durable samples a second by group size, and how long does a study of 10^6 samples take to resume?

python benchmarks/ledger_scale.py [--quick] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import sqlite3
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from alearn.events import MemberLaunched, MemberQueued
from alearn.ledger import Ledger
from alearn.types import Field, Sample, Schema

SCALARS = Schema((Field("mean"), Field("std"), Field("scale")))
FRAMES = Schema((Field("mean"), Field("v", (128, 256), "float32")))


def sample(schema: Schema, member: str, step: int) -> Sample:
    values = {f.name: np.full(f.shape, step, f.dtype) for f in schema.fields}
    return Sample(member, 1, step, step * 0.1, {}, values)


def begin(directory: Path, members: int) -> Ledger:
    ledger = Ledger.create(directory, study="benchmark")
    for at in range(0, members, 500):
        names = [f"m{i:04d}" for i in range(at, min(members, at + 500))]
        ledger.append([MemberQueued(at=0.0, member=m, parameters={"a": 0.1, "b": 0.2}, x=(0.1, 0.2), origin="design") for m in names])
        ledger.append([MemberLaunched(at=1.0, member=m, attempt=1) for m in names])
    return ledger


def commits(schema: Schema, group: int, n: int, root: Path) -> dict[str, float]:
    """Samples a second and median seconds a commit, with ``group`` samples a commit of one member each."""
    with begin(root / f"g{group}_{schema.nbytes}", group) as ledger:
        rounds = [[sample(schema, f"m{i:04d}", step) for i in range(group)] for step in range(n // group)]
        seconds = []
        for batch in rounds:
            start = time.perf_counter()
            ledger.store(batch, schema)
            seconds.append(time.perf_counter() - start)
    per_s = group * len(rounds) / sum(seconds)
    return {"samples_per_s": per_s, "commit_s": statistics.median(seconds), "MB_per_s": per_s * schema.nbytes / 1e6}


def peer_sqlite(group: int, n: int, root: Path) -> float:
    """Rows a second of bare SQLite (WAL, synchronous=FULL), the same group: what a commit costs anyway."""
    db = sqlite3.connect(root / f"peer{group}.sqlite", isolation_level=None)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=FULL")
    db.execute("CREATE TABLE samples (member INTEGER, step INTEGER, data BLOB, PRIMARY KEY (member, step))")
    data = bytes(SCALARS.nbytes)
    start = time.perf_counter()
    for step in range(n // group):
        db.execute("BEGIN")
        db.executemany("INSERT INTO samples VALUES (?, ?, ?)", [(i, step, data) for i in range(group)])
        db.execute("COMMIT")
    return n / (time.perf_counter() - start)


def resume(members: int, steps: int, root: Path) -> dict[str, float]:
    directory = root / "large"
    with begin(directory, members) as ledger:
        for at in range(0, members, 20):
            names = [f"m{i:04d}" for i in range(at, min(members, at + 20))]
            ledger.store([sample(SCALARS, m, s) for m in names for s in range(steps)], SCALARS)
    out: dict[str, float] = {}

    def timed(name: str, start: float) -> None:
        out[name] = time.perf_counter() - start

    start = time.perf_counter()
    ledger = Ledger.open(directory)
    timed("open_s", start)
    start = time.perf_counter()
    assert ledger.counts()["samples"]["stored"] == members * steps
    timed("counts_s", start)
    start = time.perf_counter()
    ledger.seal()
    timed("seal_s", start)
    start = time.perf_counter()
    assert sum(1 for _ in ledger.samples()) == members * steps
    timed("read_all_s", start)
    start = time.perf_counter()
    assert ledger.verify() == []
    timed("verify_s", start)
    ledger.close()
    out["sqlite_MB"] = (directory / "ledger.sqlite").stat().st_size / 1e6
    out["peak_MB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the samples")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    scale = 10 if args.quick else 1
    root = Path(tempfile.mkdtemp(prefix="ledger_scale_"))
    try:
        result: dict[str, object] = {}
        for group in (1, 20, 100):
            n = {1: 1000, 20: 10_000, 100: 30_000}[group] // scale
            ours, peer = commits(SCALARS, group, n, root), peer_sqlite(group, n, root)
            result[f"scalars_group_{group}"] = {**ours, "sqlite_rows_per_s": peer}
            rate, commit_ms = ours["samples_per_s"], ours["commit_s"] * 1e3
            print(f"scalars, {group:3d} a commit: {rate:8.0f} samples/s, {commit_ms:.2f} ms a commit; SQLite {peer:.0f} rows/s")
        frames = commits(FRAMES, 20, 2000 // scale, root)
        result["frames_group_20"] = frames
        print(f"128 KiB frames, 20 a commit: {frames['samples_per_s']:.0f} samples/s, {frames['MB_per_s']:.0f} MB/s")
        large = resume(10_000, 100 // scale, root)
        result["resume"] = large
        print(json.dumps(large, indent=1))
        if args.json:
            args.json.write_text(json.dumps(result, indent=1))
        print(
            f"A study of 10,000 members and {1_000_000 // scale:,} samples opens in {large['open_s']:.2f} s, "
            f"is read in {large['read_all_s']:.1f} s and audited in {large['verify_s']:.1f} s."
        )
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
