#!/usr/bin/env python3
"""How long does a Gaussian process of 2,000 rows take to predict 100,000 candidates, and how right is it?

Mean and standard deviation by `surrogate=gp`, and by gpytorch on the same fitted process: exactly, in pieces, and with
`fast_pred_var` (LOVE, Pleiss et al. 2018). CPU seconds of one thread; the error is that of the standard deviation against the
exact one in double precision on a thousand of the candidates.

    python benchmarks/gp_candidates.py [--quick] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gpytorch
import torch
from torch import Tensor

from alearn.surrogate import Batch, ExactGP

ROWS = 2000
PIECE = 4096


def problems() -> Iterator[tuple[str, Tensor, Tensor]]:
    """Name, points in the unit cube and values: a peak in 4-D, a front in 2-D, a very smooth function in 8-D."""
    generator = torch.Generator().manual_seed(0)
    for name, d in (("peak, 4-D", 4), ("front, 2-D", 2), ("smooth, 8-D", 8)):
        X = torch.rand(ROWS, d, dtype=torch.float64, generator=generator)
        value = {4: torch.exp(-20 * ((X - 0.5) ** 2).sum(1)), 2: torch.tanh(30 * (X[:, 0] - X[:, 1])), 8: torch.sin(3 * X).sum(1)}[d]
        yield name, X, value[:, None]


def by_gpytorch(gp: ExactGP, X: Tensor) -> Tensor:
    """Standard deviations by gpytorch's own prediction, ``N``."""
    with torch.no_grad():
        parts = []
        for x in X.split(PIECE):
            found = gp.inner(x)
            parts.append(found.variance.clamp_min(1e-12).sqrt())
        return torch.cat(parts) * gp.scale


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds of a call, and what it gave."""
    began = time.process_time()
    found = run()
    return time.process_time() - began, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="20,000 candidates")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    many = 20_000 if args.quick else 100_000
    results = []
    for name, X, Y in problems():
        gp = ExactGP(X.shape[1], 1, max_updates=30)
        gp.fit(Batch(X, Y, torch.ones(ROWS), torch.arange(ROWS)))
        pool = torch.rand(many, X.shape[1], dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        gp.predict(pool[:2])  # factorises
        ours, found = timed(lambda gp=gp, pool=pool: gp.predict(pool))
        exact = gp.predict(pool[:1000]).epistemic[:, 0]
        by_gpytorch(gp, pool[:2])
        theirs, _ = timed(lambda gp=gp, pool=pool: by_gpytorch(gp, pool))
        with gpytorch.settings.fast_pred_var():
            gp.inner.train()
            gp.inner.eval()
            by_gpytorch(gp, pool[:2])
            love, rough = timed(lambda gp=gp, pool=pool: by_gpytorch(gp, pool))
        off, off_love = (float((s[:1000] / exact - 1).abs().median()) for s in (found.epistemic[:, 0], rough))
        row = {"problem": name, "ours_s": ours, "gpytorch_s": theirs, "love_s": love, "ours_error": off, "love_error": off_love}
        results.append(row | {"load": os.getloadavg()[0]})
        print(
            f"{name}: alearn {ours:.1f} s (standard deviation off by {off:.1e}), gpytorch {theirs:.1f} s, fast_pred_var {love:.1f} s "
            f"(off by {off_love:.1e}); load {os.getloadavg()[0]:.1f}",
            flush=True,
        )
    if args.json:
        args.json.write_text(json.dumps({"command": " ".join(sys.argv), "candidates": many, "runs": results}, indent=1))
    said = "; ".join(f"{r['problem']} {r['ours_s']:.1f} s against {r['gpytorch_s']:.1f} s" for r in results)
    print(f"CPU seconds of one thread for {many:,} candidates at {ROWS:,} rows, alearn against gpytorch: {said}.")


if __name__ == "__main__":
    main()
