"""Values for a running simulation: from the command line, through an encrypted stream, into a generator."""

import stat

from alearn.events import MemberSteered, SteerRequested
from alearn.ledger import Ledger

KNOB = '''
import time


def knob(a: float):
    """Goes on until its damping is 0.5."""
    damping = 0.1
    for step in range(100_000):
        new = yield {"t": 0.01 * step, "y": a - damping, "damping": damping}
        damping = (new or {}).get("damping", damping)
        if damping == 0.5:
            return
        time.sleep(0.01)
'''


def test_a_running_simulation_is_steered_from_the_command_line(world):
    (world.folder / "knob.py").write_text(KNOB)
    words = ["run", "simulation=python", "simulation.target=knob.py:knob", "space={a: [0, 1]}", "budget.members=2", "design.initial=2"]
    process = world.start(*words, "transport.kind=tcp", "launcher.slots=2", "kill=never", "control.enabled=false", "hydra.run.dir=study")
    world.wait_for(lambda: len(world.processes()) >= 2 and world.stored() > 2)
    assert stat.S_IMODE((world.folder / "study" / "stream.key").stat().st_mode) == 0o600
    for words, says in (
        (("m0000", "a=1"), "a of member m0000 cannot be steered: its samples are learned under the values"),
        (("m0000", "damping"), "'damping' is no assignment"),
        (("m0000", "damping=[1]"), "neither a finite number"),
        (("m0099", "damping=1"), "no member 'm0099'"),
    ):
        refused = world.alearn("steer", "study", *words)
        assert (refused.returncode, says in refused.stderr) == (2, True), refused.stderr
    for member in ("m0000", "m0001"):
        told = world.alearn("steer", "study", member, "damping=0.5", "note=half")
        assert told.returncode == 0, told.stderr
        assert f"steer {member}" in told.stdout
    assert process.wait(timeout=120) == 0
    with Ledger.open(world.folder / "study", readonly=True) as ledger:
        events = [e for _, e in ledger.events()]
        last = {s.member: s for s in ledger.samples()}
    asked = [e for e in events if isinstance(e, SteerRequested)]
    taken = {e.member: e for e in events if isinstance(e, MemberSteered)}
    assert [(e.member, e.attempt, dict(e.values)) for e in asked] == [(m, 1, {"damping": 0.5, "note": "half"}) for m in ("m0000", "m0001")]
    assert {m: dict(e.values) for m, e in taken.items()} == {e.member: dict(e.values) for e in asked}
    for member, event in taken.items():  # the generator ended with the value that it was handed
        assert event.step == last[member].step + 1
    assert "is done; only a running one" in world.alearn("steer", "study", "m0000", "damping=1").stderr
