import numpy as np

from alearn.types import Sample


def test_a_weighted_buffer_learns_where_training_errs(make, stream):
    trainer = make(buffer="weighted", buffer_options={"watermark": 16, "alpha": 1.0}, holdout_share=0.0, updates_per_row=2.0)
    stream(trainer, range(12))
    state = trainer.buffer.state_dict()
    told = np.asarray(state["store"]["uses"]) > 0
    mean, _ = trainer._predict(state["store"]["x"][told])
    error = np.abs((mean - state["store"]["y"][told]) / trainer.surrogate.output_scale.numpy()).mean(axis=1)
    assert np.corrcoef(np.argsort(np.argsort(error)), np.argsort(np.argsort(state["priority"][told])))[0, 1] > 0.4
    assert trainer.buffer.counts.first == told.sum()


def test_a_spilling_buffer_reads_samples_back_as_the_rows_they_were(make, stream, toy):
    trainer = make(
        buffer="spill",
        buffer_options={"capacity": 40, "watermark": 16, "refresh": 1.0, "block": 8},
        holdout_share=0.0,
        updates_per_row=2.0,
        batch_size=16,
    )
    points = toy.points(64, seed=5)
    asked = []

    def read(wanted: dict[str, list[int]]) -> list[Sample]:
        asked.append(wanted)
        return [s for member, steps in wanted.items() for s in toy.samples(int(member[1:]), points[int(member[1:])]) if s.step in steps]

    trainer.recall_from(read)
    stream(trainer, range(16))
    buffer = trainer.buffer
    assert asked
    assert not trainer.holding
    assert len(buffer) + buffer.away == buffer.counts.received == 16 * 16
    assert buffer.counts.lost == 0
    kept = buffer.state_dict()["store"]
    for x, y, group, step in zip(kept["x"], kept["y"], kept["group"], kept["step"], strict=True):
        np.testing.assert_allclose(y, toy.values(points[group])[step])
        assert x[-1] == toy.t[step]
    trainer.work(1e9, max_updates=300)
    assert buffer.counts.first == 16 * 16
