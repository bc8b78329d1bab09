"""Hours of faults on real processes: ``scripts/soak``.

Rounds of two kinds, each on a study of its own with a seed: random SIGKILLs (of the controller, or of the whole tree) with a
resume after each, and a nemesis with all of its faults every two seconds. Each must end with the same samples, byte for
byte, as the study without faults, and leave no process behind.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from alearn.errors import DeadlineExceeded
from alearn.testing.checker import Verdict
from alearn.testing.faults import FAULTS, Nemesis, Ordeal, problems

SLEEP_S, NEMESIS_SLEEP_S = 0.25, 0.5
"""Seconds a step of the simulations takes, so that faults find members half-way; under a fault every two seconds hardly a member
gets to its end then, and the study outlives the nemesis."""


def main(words: Sequence[str] | None = None) -> int:
    """Run the soak; 0 if nothing was lost, doubled or left behind."""
    parser = argparse.ArgumentParser(prog="scripts/soak", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--kills", type=int, default=200, help="random SIGKILLs with a resume after each (200)")
    parser.add_argument("--nemesis", type=float, default=10.0, metavar="MINUTES", help="a random fault every two seconds for so long (10)")
    parser.add_argument("--hours", type=float, default=0.0, help="repeat with further seeds for so long; 0: one round")
    parser.add_argument("--members", type=int, default=24, help="members of each study (24)")
    parser.add_argument("--every", type=float, default=2.0, help="mean seconds from a controller's start to its SIGKILL (2)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--folder", type=Path, help="where the studies are made and kept; default: a temporary one, kept if something is wrong"
    )
    args = parser.parse_args(words)
    folder = args.folder or Path(tempfile.mkdtemp(prefix="alearn-soak-"))
    began = time.monotonic()
    calm = Ordeal(folder / "calm", members=args.members).run(3600.0)
    if calm.problems or len(calm.samples) != 20 * args.members:
        print(f"the study without faults is not sound: {calm.problems}, {len(calm.samples)} samples")
        return 1
    print(f"without faults: {len(calm.samples)} samples of {calm.launched} members in {time.monotonic() - began:.0f} s", flush=True)
    sound, seed, struck = True, args.seed, 0
    while True:
        left = args.kills
        while left > 0:  # a study takes as many as it lives for
            nemesis = Nemesis(seed, args.every, ("kill controller", "kill tree"), count=left)
            sound = _round(folder / f"kills-{seed}", args.members, nemesis, calm) and sound
            done = int(left - nemesis.left)
            left, seed, struck = left - max(1, done), seed + 1, struck + done
        nemesis_ends = time.monotonic() + 60.0 * args.nemesis
        while (left_s := nemesis_ends - time.monotonic()) > 0:  # a study that ends earlier is followed by another
            nemesis = Nemesis(seed, 2.0, for_s=left_s)
            sound = _round(folder / f"nemesis-{seed}", args.members, nemesis, calm, NEMESIS_SLEEP_S) and sound
            seed += 1
        if time.monotonic() - began >= 3600.0 * args.hours:
            break
    print(
        f"{'sound' if sound else 'NOT SOUND'}: {struck} SIGKILLs and {args.nemesis:g} minutes of nemesis, seeds {args.seed} to {seed - 1}, "
        f"{time.monotonic() - began:.0f} s; every study ended with the samples of the one without faults: {'yes' if sound else 'no'}"
    )
    if sound and args.folder is None:
        shutil.rmtree(folder)
    elif not sound:
        print(f"the studies are kept in {folder}")
    return 0 if sound else 1


def _round(folder: Path, members: int, nemesis: Nemesis, calm: Verdict, sleep_s: float = SLEEP_S) -> bool:
    """One study under one nemesis; prints what came of it."""
    began = time.monotonic()
    ordeal = Ordeal(folder, members=members, sleep_s=sleep_s)
    try:
        found = problems(ordeal.suffer(nemesis, 7200.0), calm)
    except DeadlineExceeded as error:
        found = [str(error)]
    time.sleep(1.0)
    (folder / "faults.txt").write_text("".join(f"{line}\n" for line in ordeal.log))
    if left := ordeal.tagged():
        found.append(f"processes were left behind: {left}")
    tally = {name: n for name in FAULTS if (n := sum(line.startswith(f"{name}:") for line in ordeal.log))}
    what = ", ".join(f"{name} {n}" for name, n in tally.items())
    print(
        f"{folder.name}: {'sound' if not found else 'NOT SOUND'} after {sum(tally.values())} faults ({what}), {ordeal.starts} controllers, "
        f"{time.monotonic() - began:.0f} s",
        flush=True,
    )
    for line in found[:10]:
        print(f"  {line}", flush=True)
    return not found


if __name__ == "__main__":
    raise SystemExit(main())
