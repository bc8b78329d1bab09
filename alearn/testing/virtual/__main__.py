"""Replay one seed with its trace, or look through many."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence

from alearn.testing.virtual.scenario import HORIZON_S, scenario
from alearn.testing.virtual.witness import PromiseBroken


def main(argv: Sequence[str] | None = None) -> int:
    """0 if every promise held, 1 otherwise."""
    parser = argparse.ArgumentParser(prog="python -m alearn.testing.virtual", description=__doc__)
    parser.add_argument("--seed", type=int, help="replay this one and print its trace")
    parser.add_argument("--seeds", type=int, nargs=2, metavar=("FIRST", "LAST"), help="run these quietly")
    args = parser.parse_args(argv)
    if args.seed is not None:
        study = scenario(args.seed, tell=print)
        print(
            f"faults: {study.faults.told()}\nbudget: {study.budget}, {study.cluster.nodes} nodes with {study.cluster.slots_per_node} slots"
        )
        try:
            print(study.run(HORIZON_S))
        except PromiseBroken as broken:
            print(str(broken).splitlines()[0], file=sys.stderr)
            return 1
        return 0
    first, last = args.seeds or (0, 200)
    bad: list[int] = []
    ends: Counter[str] = Counter()
    events = 0
    begin = time.perf_counter()
    for seed in range(first, last):
        try:
            outcome = scenario(seed).run(HORIZON_S)
            ends[outcome.state] += 1
            events += outcome.events
        except PromiseBroken as broken:
            bad.append(seed)
            print(f"{broken.args[0].splitlines()[0]}", file=sys.stderr)
    took = time.perf_counter() - begin
    print(f"{last - first - len(bad)} of {last - first} studies kept every promise, {events:,} events in {took:.1f} s; ended {dict(ends)}")
    if bad:
        print(f"replay: python -m alearn.testing.virtual --seed {bad[0]}", file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
