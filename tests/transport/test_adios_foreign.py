"""Writers that know nothing of alearn: programs over ADIOS2's bindings alone."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from alearn import client
from alearn.errors import ConfigError
from alearn.registry import build
from alearn.testing.streams import PATIENCE_S, Background, Owner, abandon
from alearn.transport.adios.page import Page
from alearn.transport.adios_bp import adios_bp
from alearn.transport.adios_sst import adios_sst
from alearn.transport.base import Broken, End, Following

HEAD = """
import os, sys, time
sys.modules["torch"] = None
import numpy as np
from adios2 import bindings as b

def put(engine, io, name, value, **where):
    value = np.asarray(value, order="C")
    shape = list(value.shape)
    variable = io.InquireVariable(name) or io.DefineVariable(name, value, *([shape, [0] * len(shape), shape] if shape else []))
    engine.Put(variable, value, b.Mode.Sync)

adios = b.ADIOS()
io = adios.DeclareIO("code")
io.SetEngine(ENGINE)
if ENGINE == "SST":
    io.SetParameters({"RendezvousReaderCount": "1", "QueueLimit": "3", "QueueFullPolicy": "Block"})
"""
PLAIN = """
io.DefineAttribute("title", "hot plate")
io.DefineAttribute("steps_total", "6")
with_units = False
engine = io.Open("out.bp", b.Mode.Write)
for step in range(6):
    engine.BeginStep()
    put(engine, io, "/data/temperature", np.arange(12.0, dtype=np.float32).reshape(3, 4) + step)
    put(engine, io, "n", np.array(step, np.int32))
    put(engine, io, "time", np.array(0.5 * step))
    if not with_units:
        io.DefineAttribute("units", "K", "/data/temperature", "/")
        with_units = True
    text = io.InquireVariable("note") or io.DefineVariable("note")
    engine.Put(text, "step %d" % step)
    engine.EndStep()
engine.Close()
"""
BLOCKS = """
    local = io.InquireVariable("n") or io.DefineVariable("n", np.zeros(2), [], [], [2])
    engine.Put(local, np.ones(2), b.Mode.Sync)
    engine.Put(local, np.ones(2), b.Mode.Sync)
"""
ENDLESS = """
engine = io.Open("out.bp", b.Mode.Write)
step = 0
while True:
    engine.BeginStep()
    put(engine, io, "u", np.full(1000, float(step)))
    put(engine, io, "t", np.array(float(step)))
    engine.EndStep()
    step += 1
    time.sleep(0.02)
"""
ENGINES = {"SST": adios_sst, "BP5": adios_bp, "BP4": adios_bp}


class Case:
    """A reader, its owner, and members in directories of their own."""

    def __init__(self, folder, reader):
        self.folder, self.reader, self.owner = folder, reader, Owner(reader)
        self.programs = []

    def start(self, code, engine, member="m0001", attempt=1, parameters=None):
        directory = self.folder / member / str(attempt)
        self.reader.follow(member, attempt, parameters or {}, directory)
        self.reader.address(member, attempt)
        argv = [sys.executable, "-c", f"ENGINE = {engine!r}\n{HEAD}{code}"]
        program = subprocess.Popen(argv, cwd=directory, stderr=subprocess.DEVNULL)
        self.programs.append(program)
        return program

    def wait(self, program, member="m0001", attempt=1):
        """Turn until the program has ended, tell the carrier, and take what it left."""
        self.owner.until(lambda o: program.poll() is not None, "the program's end")
        self.reader.ended(member, attempt)
        self.owner.until(lambda o: any((m.member, m.attempt) == (member, attempt) for m in [*o.ends, *o.broken]), "the stream's end")
        return program.returncode

    def close(self):
        for program in self.programs:
            program.kill()
            program.wait()
        self.reader.close()


@pytest.fixture
def case(tmp_path):
    cases = []

    def make(reader):
        cases.append(Case(tmp_path, reader))
        return cases[-1]

    yield make
    for made in cases:
        made.close()


def readers(reader):
    nurse = reader._forks.pid
    return [int(pid) for pid in Path(f"/proc/{nurse}/task/{nurse}/children").read_text().split()]


@pytest.mark.parametrize("engine", ENGINES)
def test_variables_and_attributes_become_the_schema(case, engine):
    c = case(ENGINES[engine]())
    assert isinstance(c.reader, Following)
    assert c.wait(c.start(PLAIN, engine, parameters={"power": 2.5})) == 0
    (hello,) = c.owner.hellos
    assert (hello.member, hello.attempt, hello.parameters, hello.steps_total) == ("m0001", 1, {"power": 2.5}, 6)
    assert [(f.name, f.shape, f.dtype, f.unit) for f in hello.schema.fields] == [
        ("data_temperature", (3, 4), "float32", "K"),
        ("n", (), "int32", ""),
    ]
    assert hello.provenance["attributes"]["title"] == "hot plate"
    assert c.owner.ends == [End("m0001", 1, 6, "done", "")]
    for step in range(6):
        sample = c.owner.kept["m0001", step]
        assert sample.t == 0.5 * step
        assert np.array_equal(sample.values["data_temperature"], np.arange(12.0).reshape(3, 4) + step)
        assert sample.values["n"] == step


def test_variables_and_time_are_configured(case):
    c = case(adios_bp(variables=["time"], time="n"))
    c.wait(c.start(PLAIN, "BP5"))
    assert c.owner.hellos[0].schema.names == ("time",)
    assert [c.owner.kept["m0001", n].t for n in range(6)] == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("engine", "code", "said"),
    [
        (
            "BP5",
            PLAIN.replace('put(engine, io, "n", np.array(step, np.int32))', BLOCKS),
            "'n' is a local array of 2 blocks",
        ),
    ],
)
def test_what_cannot_be_streamed_is_named(case, engine, code, said):
    c = case(ENGINES[engine]())
    c.wait(c.start(code, engine))
    (broken,) = c.owner.broken
    assert said in broken.reason
    assert broken.fault
    assert "transport.variables" in broken.reason


def test_an_unknown_variable_is_named(case):
    c = case(adios_bp(variables=["temprature"]))
    c.wait(c.start(PLAIN, "BP5"))
    assert "no variable 'temprature'; it has ['/data/temperature', 'n', 'note', 'time']" in c.owner.broken[0].reason


def test_several_files_are_one_trajectory(case):
    code = """
for k in range(3):
    engine = io.Open("out%d.bp" % k, b.Mode.Write)
    for step in range(2):
        engine.BeginStep()
        put(engine, io, "y", np.array(10.0 * k + step))
        engine.EndStep()
    engine.Close()
    time.sleep(0.1)
"""
    c = case(adios_bp())
    assert c.wait(c.start(code, "BP5")) == 0
    assert [float(c.owner.kept["m0001", n].values["y"]) for n in range(6)] == [0, 1, 10, 11, 20, 21]
    assert c.owner.ends == [End("m0001", 1, 6, "done", "")]


@pytest.mark.parametrize("engine", ["SST", "BP5"])
def test_a_killed_writer_costs_what_was_not_read(case, engine):
    c = case(ENGINES[engine]())
    program = c.start(ENDLESS, engine)
    c.owner.until(lambda o: o.steps("m0001") >= 10, "ten steps")
    program.kill()
    assert c.wait(program) == -signal.SIGKILL
    (broken,) = c.owner.broken
    if engine == "BP5":
        assert "without closing its file" in broken.reason
    else:  # SST tells it, or crashes over it
        assert "broke off" in broken.reason or "SIGSEGV" in broken.reason
    assert not broken.fault
    kept = c.owner.steps("m0001")
    assert kept >= 10
    assert kept == len(c.owner.kept)
    longer = ENDLESS.replace("while True", f"while step < {kept + 4}") + "engine.Close()"
    again = c.start(longer, engine, attempt=2)
    assert c.wait(again, attempt=2) == 0
    assert [(a, s) for _, a, s in c.owner.arrived if a == 2] == [(2, kept + n) for n in range(4)], "what is stored was sent again"
    assert not list(c.folder.rglob("*.sst"))


def test_a_crash_inside_sst_costs_one_stream_and_is_told(case):
    c = case(adios_sst())
    first, second = c.start(ENDLESS, "SST"), c.start(PLAIN.replace("engine.EndStep()", "engine.EndStep(); time.sleep(0.1)"), "SST", "m0002")
    c.owner.until(lambda o: o.steps("m0001") > 2 and o.steps("m0002") > 0, "both")
    os.kill(readers(c.reader)[0], signal.SIGSEGV)
    c.owner.until(lambda o: bool(o.broken), "the break")
    assert c.owner.broken == [Broken("m0001", 1, "its reader process was ended by SIGSEGV", final=True)]
    assert c.wait(second, "m0002") == 0
    assert c.owner.steps("m0002") == 6
    assert first.poll() is None, "Block holds no writer whose reader is gone: it runs on and drops its steps"


def test_a_crash_over_files_costs_nothing(case):
    c = case(adios_bp())
    program = c.start(PLAIN.replace("engine.EndStep()", "engine.EndStep(); time.sleep(0.05)"), "BP5")
    c.owner.until(lambda o: o.steps("m0001") > 1, "two steps")
    os.kill(readers(c.reader)[0], signal.SIGKILL)
    assert c.wait(program) == 0
    assert c.owner.steps("m0001") == 6
    assert not c.owner.broken


def test_a_hung_reader_process_is_ended(case):
    c = case(adios_sst(drain_s=0.5))
    program = c.start(ENDLESS, "SST")
    c.owner.until(lambda o: o.steps("m0001") > 2, "some steps")
    os.kill(readers(c.reader)[0], signal.SIGSTOP)
    program.kill()
    c.wait(program)
    assert "read nothing for 0.5 s after the writer had ended, and was ended: ADIOS2 hung" in c.owner.broken[0].reason


def test_a_writer_that_never_opens_a_stream_is_told(case):
    c = case(adios_sst())
    assert c.wait(c.start("pass", "SST")) == 0
    assert c.owner.broken == [Broken("m0001", 1, "the attempt ended without opening a stream")]


def test_a_slow_open_delays_no_other_stream(case):
    slow = "import threading; threading.Timer(0.05, os.kill, (os.getpid(), 19)).start(); engine = io.Open('out.bp', b.Mode.Write)"
    c = case(adios_sst())
    c.start(slow, "SST", "m0001")
    other = c.start(PLAIN, "SST", "m0002")
    assert c.wait(other, "m0002") == 0
    assert c.owner.steps("m0002") == 6


def test_nothing_is_left_behind(case):
    before = len(os.listdir("/proc/self/fd"))
    c = case(adios_sst())
    root = c.reader._root
    for number in range(6):
        member = f"m{number:04d}"
        c.wait(c.start(PLAIN, "SST", member), member)
    c.owner.until(lambda o: not c.reader._attempts, "the attempts to be forgotten")
    assert readers(c.reader) == []
    nurse = c.reader._forks.pid
    assert len(os.listdir(f"/proc/{nurse}/fd")) < 12
    assert not [p for p in c.folder.rglob("*") if p.is_file()]
    c.start(ENDLESS, "SST", "m0007")
    c.owner.until(lambda o: o.steps("m0007") > 1, "some steps")
    (reading,) = readers(c.reader)
    c.reader.close()
    assert not Path(f"/proc/{reading}").exists()
    assert not Path(f"/proc/{nurse}").exists()
    assert not root.exists()
    assert len(os.listdir("/proc/self/fd")) <= before


def test_reader_processes_die_with_the_learner(tmp_path):
    code = f"""
import sys, time
from pathlib import Path
from alearn.transport.adios_sst import adios_sst
reader = adios_sst()
reader.follow("m0001", 1, {{}}, Path({str(tmp_path)!r}))
reader.address("m0001", 1)
nurse = reader._forks.pid
children = Path("/proc/%d/task/%d/children" % (nurse, nurse))
while not children.read_text():
    time.sleep(0.01)
assert "torch" not in sys.modules
print(nurse, children.read_text(), flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as learner:
        pids = [int(pid) for pid in learner.stdout.readline().split()]
        assert len(pids) == 2
        learner.kill()
    until = time.monotonic() + PATIENCE_S
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < until
        time.sleep(0.02)


def test_our_own_client_outlives_the_learner(tmp_path):
    place = tmp_path / "member"
    learner = f"""
from pathlib import Path
from alearn.testing.streams import Owner
from alearn.transport.adios_sst import adios_sst
reader = adios_sst()
reader.follow("m0001", 1, {{}}, Path({str(place)!r}))
env = reader.address("m0001", 1)
print(env["ALEARN_STREAM"], flush=True)
Owner(reader).until(lambda o: False, "its end")
"""
    writer = """
import os, time
from alearn.client import connect
with connect() as run:
    step = 0
    while not os.path.exists("enough"):
        run.put(t=step, y=1.0 * step)
        step += 1
        time.sleep(0.01)
"""
    with subprocess.Popen([sys.executable, "-c", learner], stdout=subprocess.PIPE, text=True) as first:
        address = first.stdout.readline().strip()
        env = {**os.environ, "ALEARN_STREAM": address, "ALEARN_MEMBER": "m0001", "ALEARN_ATTEMPT": "1"}
        program = subprocess.Popen([sys.executable, "-c", writer], cwd=place, env=env)
        try:
            page, until = Page(place), time.monotonic() + PATIENCE_S
            while page.told().acknowledged < 10:
                assert time.monotonic() < until
                time.sleep(0.01)
            first.kill()
            first.wait()
            stored = page.told().acknowledged
            page.close()
            reader = adios_sst()
            reader.follow("m0001", 1, {}, place)
            reader.address("m0001", 1)
            owner = Owner(reader)
            for step in range(stored):
                owner.kept["m0001", step] = None  # what the first learner has made durable
            owner.until(lambda o: o.steps("m0001") >= stored + 20, "more steps")
            (place / "enough").touch()
            owner.until(lambda o: bool(o.ends), "the end")
            assert program.wait(PATIENCE_S) == 0
            assert owner.ends[0].steps == owner.steps("m0001")
            reader.close()
        finally:
            program.kill()
            program.wait()


def test_neither_end_imports_torch():
    code = """
import sys
import alearn.transport.adios.nurse, alearn.transport.adios.writer, alearn.transport.adios_sst, alearn.transport.adios_bp
assert "adios2" not in sys.modules
alearn.transport.adios.nurse.load_bindings()
assert "adios2" in sys.modules
assert "torch" not in sys.modules
import torch
assert torch.ones(1).sum() == 1
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=PATIENCE_S * 4)


def test_only_one_file_of_the_room_imports_adios2():
    room = Path(__file__).parents[2] / "alearn" / "transport"
    assert [p.name for p in room.rglob("*.py") if "import adios2" in p.read_text()] == ["library.py"]


@pytest.mark.parametrize("name", ["adios_sst", "adios_bp"])
def test_the_config_file_makes_a_reader(name):
    options = yaml.safe_load((Path(__file__).parents[2] / "configs" / "transport" / f"{name}.yaml").read_text())
    assert options.pop("name") == name
    build("transport", name, options).close()


def test_a_code_that_names_no_interface_is_told_one(case):
    c = case(adios_sst())
    assert c.reader.address("m0001", 1)["ADIOS2_INTERFACE"] == "lo"
    assert "ADIOS2_INTERFACE" not in case(adios_sst(interface="")).reader.address("m0001", 1)
    assert "ADIOS2_INTERFACE" not in case(adios_bp()).reader.address("m0001", 1)


def test_wrong_options_are_named():
    with pytest.raises(ConfigError, match=r"writing\.QueueLimit is \[3\]"):
        adios_sst(writing={"QueueLimit": [3]})
    with pytest.raises(ConfigError, match="has no type"):
        adios_bp(operators=[{"variable": "u"}])
    with pytest.raises(ConfigError, match=r"poll_s is 0"):
        adios_bp(poll_s=0)


def test_an_operator_is_applied():
    reader = adios_bp(operators=[{"type": "null", "variable": "u"}])  # the one that every build has

    def write():
        with client.connect(environ=env) as run:
            for n in range(3):
                run.put(t=n, u=np.arange(8.0) + n, y=n)

    env = reader.address("m0001", 1)
    owner, writer = Owner(reader), Background(write)
    owner.until(lambda o: bool(o.ends), "the end")
    writer.join()
    assert np.array_equal(owner.kept["m0001", 2].values["u"], np.arange(8.0) + 2)
    reader.close()


def test_an_operator_that_this_adios2_has_not_is_named():
    reader = adios_bp(operators=[{"type": "zfp", "variable": "u", "accuracy": 0.001}])
    run = client.connect(environ=reader.address("m0001", 1))
    run.put(t=0, u=np.zeros(8))
    with pytest.raises(client.Refused, match=r"cannot write the stream alearn-1: it was built without the operator 'zfp'"):
        run.put(t=1, u=np.zeros(8))
    abandon(run)
    reader.close()


def test_the_xml_chooses_engine_and_policies(case, tmp_path):
    code = """
adios = b.ADIOS("adios2.xml")
io = adios.DeclareIO("code")
engine = io.Open("out.bp", b.Mode.Write)
for step in range(3):
    engine.BeginStep()
    put(engine, io, "y", np.array(float(step)))
    engine.EndStep()
engine.Close()
"""
    c = case(adios_sst(io="code", writing={"RendezvousReaderCount": 1, "QueueLimit": 2, "QueueFullPolicy": "Block"}))
    assert c.wait(c.start(code, "BP5")) == 0
    assert c.owner.ends == [End("m0001", 1, 3, "done", "")]
    assert 'key="QueueLimit" value="2"' in (tmp_path / "m0001" / "1" / "adios2.xml").read_text()
