"""What can be said about the Slurm launcher without a Slurm."""

import logging
import math
from dataclasses import replace

import pytest

from alearn.errors import ConfigError, LaunchError
from alearn.launcher import Job
from alearn.launcher.batch import LEASE_BYTES, read_lease, write_lease
from alearn.launcher.slurm import SlurmLauncher, check_carrier
from alearn.launcher.slurm_batch import SETTLE_S, BatchJobs, Request, _Attempt
from alearn.launcher.slurm_queue import Queued, call, environment, parse
from alearn.types import Exit, ExitCause


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"mode": "jobs"}, "'batch' .* or 'step'"),
        ({"slots": 0}, "slots is 0; at least 1"),
        ({"cores": 0}, "cores is 0"),
        ({"abandon_s": 1.0}, "abandon_s is 1.0; at least 5"),
        ({"poll_s": math.nan}, "poll_s is nan"),
        ({"queue_s": math.inf}, "queue_s is inf"),
        ({"wall_s": 0.0}, "wall_s is 0.0; seconds > 0"),
        ({"grace_s": -1.0}, "grace_s is -1.0"),
        ({"extra": ["constraint=x"]}, "one option of sbatch"),
        ({"extra": ["--comment=mine"]}, "which the launcher sets itself"),
        ({"extra": ["--nice=1\n#SBATCH"]}, "one option of sbatch"),
    ],
)
def test_bad_options(options, said):
    with pytest.raises(ConfigError, match=said):
        SlurmLauncher(**options)


def test_no_slurm_here(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="needs Slurm's 'sbatch', which is not in PATH; load your site's Slurm module"):
        SlurmLauncher()
    with pytest.raises(ConfigError, match="'srun'"):
        SlurmLauncher(mode="step")


@pytest.mark.parametrize(
    ("carrier", "said"),
    [
        ({"name": "inprocess"}, "stays inside this process"),
        ({"name": "socket"}, "is a Unix socket, which members on other hosts cannot reach; under launcher=slurm set transport=socket"),
        ({"name": "socket", "kind": "tcp"}, "the address 127.0.0.1, which on another host is that host itself"),
        ({"name": "socket", "kind": "tcp", "host": "0.0.0.0"}, "has no transport.advertise"),
        ({"name": "socket", "kind": "tcp", "host": "0.0.0.0", "advertise": "localhost"}, "the address localhost"),
        ({"name": "adios_sst"}, "the address of the interface lo, which on another host"),
    ],
)
def test_members_on_other_hosts_must_reach_the_learner(carrier, said):
    with pytest.raises(ConfigError, match=said):
        check_carrier(carrier, one_host=False)


def test_carriers_that_do(caplog):
    tcp = {"name": "socket", "kind": "tcp", "host": "0.0.0.0", "advertise": "login1"}
    with caplog.at_level(logging.WARNING):
        check_carrier({**tcp, "port": 5000}, one_host=False)
        check_carrier({"name": "files"}, one_host=False)
        check_carrier({"name": "adios_sst", "interface": "ib0"}, one_host=False)
        check_carrier({"name": "socket", "kind": "unix"}, one_host=True)
        assert not caplog.records
        check_carrier(tcp, one_host=False)
    assert "a restarted controller cannot be found" in caplog.text
    with pytest.raises(ConfigError, match="inside this process"):
        check_carrier({"name": "inprocess"}, one_host=True)


def test_a_redis_server_must_be_reached_by_the_nodes(caplog):
    for url in ("unix:///tmp/redis.sock", "redis://127.0.0.1:6379/0"):
        with pytest.raises(ConfigError, match="cannot be reached by members on other hosts"):
            check_carrier({"name": "redis", "url": url}, one_host=False)
        check_carrier({"name": "redis", "url": url, "channel": "mine"}, one_host=True)
    with caplog.at_level(logging.WARNING):
        check_carrier({"name": "redis", "url": "rediss://store:6379/0", "channel": "mine"}, one_host=False)
        assert not caplog.records
        check_carrier({"name": "redis", "url": "rediss://store:6379/0"}, one_host=False)
    assert "Without transport.channel" in caplog.text


def test_the_queue_is_read():
    text = (
        "12|RUNNING|None|n[1-2]|alearn-m0001|/a b/é|x\n13|PENDING|Resources||other|c\nnonsense\n14|TIMEOUT|TimeLimit|n1|alearn-m2|(null)\n"
    )
    jobs = parse(text)
    assert jobs["12"] == Queued("12", "RUNNING", "None", "n[1-2]", "alearn-m0001", "/a b/é|x")
    assert list(jobs) == ["12", "14"]
    assert (jobs["12"].over, jobs["14"].over) == (False, True)


def test_the_job_of_the_controller_does_not_leak_into_its_members(monkeypatch):
    monkeypatch.setenv("SLURM_CONF", "kept")
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "100")
    monkeypatch.setenv("SBATCH_ACCOUNT", "the site's way to say it")
    assert environment()["SLURM_CONF"] == "kept"
    assert environment()["SBATCH_ACCOUNT"]
    assert "SLURM_MEM_PER_NODE" not in environment()


def test_a_command_that_fails_or_hangs():
    with pytest.raises(LaunchError, match="sh failed: no such partition"):
        call(["sh", "-c", "echo >&2; echo no such partition >&2; exit 1"])
    with pytest.raises(LaunchError, match=r"sleep did not answer within 0.1 s; is slurmctld up\?"):
        call(["sleep", "20"], deadline_s=0.1)
    with pytest.raises(LaunchError, match="cannot be started"):
        call(["no-such-command"])


def test_what_a_job_asks_for(tmp_path):
    request = Request(cores=2, memory_mb=1000, partition="long", extra=("--nice=5",))
    options = request.of(Job("a", 1, ("true",), tmp_path, cores=4, gpus=1, wall_s=600.0)).options(grace_s=2.0)
    sizes = ["--nodes=1", "--ntasks=1", "--cpus-per-task=4", "--no-requeue"]
    assert options == [*sizes, "--partition=long", "--time=12", "--mem=1064M", "--gpus=1", "--nice=5"]
    assert "--time=01:00:00" in Request(time="01:00:00", wall_s=60.0).options(2.0)
    ranks = Request(tasks=16).options(2.0)
    assert "--ntasks=16" in ranks
    assert "--nodes=1" not in ranks


def test_the_lease(tmp_path):
    path = str(tmp_path / "lease")
    assert read_lease(path) == ("", [])
    write_lease(path, 1)
    write_lease(path, 20, "cancel 2.500")
    assert read_lease(path) == ("20", ["cancel", "2.500"])
    write_lease(path, 21)
    assert read_lease(path) == ("21", ["keep"])
    assert (tmp_path / "lease").stat().st_size == LEASE_BYTES
    assert (tmp_path / "lease").stat().st_mode & 0o077 == 0


PREEMPTED = Exit("a", 1, ExitCause.PREEMPTED, signal=15)
KILLED = Exit("a", 1, ExitCause.SIGNAL, signal=9)
CRASHED = Exit("a", 1, ExitCause.SIGNAL, signal=11)


@pytest.mark.parametrize(
    ("record", "state", "cancelled", "cause"),
    [
        (CRASHED, "", False, ExitCause.SIGNAL),  # clear by itself
        (CRASHED, "TIMEOUT", True, ExitCause.SIGNAL),
        (PREEMPTED, "", False, None),  # Slurm must say why
        (PREEMPTED, "RUNNING", False, None),
        (PREEMPTED, "", True, ExitCause.CANCELLED),
        (PREEMPTED, "TIMEOUT", False, ExitCause.WALL_TIME),
        (PREEMPTED, "PREEMPTED", False, ExitCause.PREEMPTED),
        (PREEMPTED, "CANCELLED", False, ExitCause.CANCELLED),
        (PREEMPTED, "FAILED", False, ExitCause.PREEMPTED),
        (PREEMPTED, "GONE", False, ExitCause.PREEMPTED),
        (KILLED, "OUT_OF_MEMORY", False, ExitCause.OUT_OF_MEMORY),
        (KILLED, "NODE_FAIL", False, ExitCause.NODE_LOST),
        (KILLED, "FAILED", False, ExitCause.SIGNAL),
        (None, "", False, None),
        (None, "RUNNING", True, None),
        (None, "NODE_FAIL", False, ExitCause.NODE_LOST),
        (None, "CANCELLED", True, ExitCause.CANCELLED),
        (None, "COMPLETED", False, None),  # the record may still come
        (None, "GONE", False, None),
    ],
)
def test_the_verdict(record, state, cancelled, cause, tmp_path):
    """What the supervisor wrote down, what Slurm says, and whether we cancelled, make one cause."""
    one = _Attempt("a", 1, tmp_path, "7", cancelled=cancelled, record=record, record_at=100.0 if record else math.inf)
    if state:
        one.queued = Queued("7", state, "", "n1", "alearn-a", "")
        one.over_at = 100.0 if one.queued.over else math.inf
    jobs = object.__new__(BatchJobs)
    gone = jobs._judge(one, 100.5)
    assert (gone.cause if gone else None) is cause
    if gone is None and (record or state in ("COMPLETED", "GONE")):
        late = jobs._judge(one, 101.0 + SETTLE_S)
        assert late is not None
        assert late == record if record else late.cause is ExitCause.NODE_LOST


def test_a_job_without_a_record_says_where_to_look(tmp_path):
    one = _Attempt("a", 1, tmp_path, "7", queued=Queued("7", "FAILED", "", "n1", "alearn-a", ""), over_at=0.0)
    gone = object.__new__(BatchJobs)._judge(one, SETTLE_S + 1)
    assert f"left no exit record in {tmp_path}" in gone.detail
    assert "file system that the nodes share" in gone.detail
    assert replace(gone, detail="") == Exit("a", 1, ExitCause.NODE_LOST, wall_s=gone.wall_s)
