"""A small study that goes on wherever it was: run by test_crash.py, which kills it at every boundary."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from ledger_support import SCHEMA, launch, make_sample

from alearn.ledger import Ledger


def main(study: Path) -> None:
    if (study / "ledger.sqlite").exists():
        ledger = Ledger.open(study)
    else:
        ledger = Ledger.create(study, study="s", segment_bytes=600)
    with ledger:
        known = {m.id for m in ledger.members()}
        for member in ("m0000", "m0001"):
            if member not in known:
                launch(ledger, member)
        for step in range(0, 12, 3):
            batch = [make_sample(m, step + i) for m in ("m0000", "m0001") for i in range(3)]
            ledger.store(batch, SCHEMA)
            for member in ("m0000", "m0001"):
                print("ack", member, ledger.stored_steps(member), flush=True)
            ledger.seal(everything=False)
        ledger.set_meta("end", step)
        ledger.seal()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
