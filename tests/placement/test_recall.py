"""A buffer that let rows go gets them back from the ledger, from segments and from the archive."""

import numpy as np
import torch

from alearn.events import MemberLaunched, MemberQueued, MemberRunning
from alearn.ledger import Ledger
from alearn.placement.recall import ReadBack
from alearn.space import Space
from alearn.trainer import InlineTrainer
from alearn.types import Sample, Schema

MEMBERS, STEPS = 8, 20
SPACE = Space.from_config({"a": [0, 1]})
SCHEMA = Schema.of({"y": 0.0, "field": np.zeros(8)})


def sample(member: int, step: int) -> Sample:
    values = {"y": np.array(member + 0.01 * step), "field": np.full(8, float(step))}
    return Sample(f"m{member}", 1, step, 0.1 * step, {"a": member / MEMBERS}, values)


def test_spilled_rows_come_back_from_segments_and_archive(tmp_path):
    torch.set_num_threads(1)
    options = {"capacity": 30, "watermark": 8, "refresh": 1.0, "block": 10}
    trainer = InlineTrainer(
        SPACE, SCHEMA, surrogate_options={"estimators": 2, "width": 8, "depth": 1}, buffer="spill", buffer_options=options,
        device="cpu", holdout_share=0.0, batch_size=16, updates_per_row=10.0,
    )  # fmt: skip
    with Ledger.create(tmp_path / "study", study="s", segment_bytes=2048) as ledger:
        trainer.recall_from(ReadBack(ledger.directory, trainer.fields, lambda found: found))
        for member in range(MEMBERS):
            name = f"m{member}"
            ledger.append(
                [
                    MemberQueued(at=0.0, member=name, parameters={"a": member / MEMBERS}, x=(member / MEMBERS,), origin="user"),
                    MemberLaunched(at=1.0, member=name, attempt=1),
                    MemberRunning(at=2.0, member=name, attempt=1),
                ]
            )
            samples = [sample(member, step) for step in range(STEPS)]
            ledger.store(samples, SCHEMA)
            if member == MEMBERS // 2:
                assert ledger.seal() > 0
            trainer.add(samples)
        assert not trainer.holding
        trainer.work(1e9, max_updates=80)
    buffer = trainer.buffer
    assert buffer.counts.recalled > 200
    assert buffer.counts.lost == 0
    assert buffer.counts.first == buffer.counts.received == MEMBERS * STEPS
    kept = buffer.state_dict()["store"]
    np.testing.assert_allclose(kept["y"][:, 0], kept["group"] + 0.01 * kept["step"])
    np.testing.assert_allclose(kept["x"], np.stack([kept["group"] / MEMBERS, 0.1 * kept["step"]], axis=1))
