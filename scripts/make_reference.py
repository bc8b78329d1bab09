#!/usr/bin/env python3
"""Make the reference file that ships with a simulator: python scripts/make_reference.py gray_scott."""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
from pathlib import Path

import numpy as np

from alearn.simulators.reference import DATA, REFERENCE_SEED, make_reference


def main() -> None:
    """Run the simulator over its test design and write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("simulator", help="a module of alearn.simulators with a function of the same name, BOX and OUTPUTS")
    parser.add_argument("--points", type=int, default=256)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--output", type=Path, help="default: the package's data folder")
    args = parser.parse_args()
    module = importlib.import_module(f"alearn.simulators.{args.simulator}")
    provenance = {"command": f"python scripts/make_reference.py {args.simulator} --points {args.points}", "numpy": np.__version__}
    with multiprocessing.get_context("spawn").Pool(args.processes) as pool:
        made = make_reference(
            getattr(module, args.simulator), module.BOX, module.OUTPUTS, args.points, provenance=provenance, run=pool.imap
        )
    path = made.write(args.output or DATA / f"{args.simulator}.npz")
    print(f"{path}: {len(made)} members x {len(made.t)} frames x {len(made.outputs)} outputs, {path.stat().st_size / 1000:.0f} kB")
    print(f"seed {REFERENCE_SEED}; means {dict(zip(made.outputs, made.values.mean((0, 1)).round(4).tolist(), strict=True))}")


if __name__ == "__main__":
    main()
