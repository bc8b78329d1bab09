"""Streams through a real Redis server, which scripts/redis starts and stops."""

import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from alearn import client
from alearn.errors import ConfigError, MissingDependency, TransportError
from alearn.registry import build
from alearn.testing.processes import ProcessTransportConformance
from alearn.testing.streams import PATIENCE_S, Background, Owner, field_of
from alearn.transport import RedisReader

SCRIPT = Path(__file__).parents[2] / "scripts" / "redis"


def redis_script(action, directory):
    return subprocess.run([str(SCRIPT), action, str(directory)], capture_output=True, text=True, timeout=400, check=False)


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory):
    """A private server: its URLs and password file; at the end nothing lasting is left in it, and nothing of it."""
    redis = pytest.importorskip("redis", reason="skipped, because the package redis is missing: pip install 'alearn[redis]'")
    directory = tmp_path_factory.mktemp("redis")
    begun = redis_script("start", directory)
    if begun.returncode != 0:
        if os.environ.get("CI") == "true":
            pytest.fail(f"In CI a real Redis is needed: {begun.stderr}")
        pytest.skip(f"skipped, because there is no Redis: {begun.stderr.strip().splitlines()[-1:]}")
    said = dict(word.split("=", 1) for word in begun.stdout.splitlines()[-1].split()[1:])
    url, tcp, password_file = said["ALEARN_REDIS_URL"], said["ALEARN_REDIS_TCP"], said["ALEARN_REDIS_PASSWORD_FILE"]
    remote = redis.Redis.from_url(url, password=Path(password_file).read_text())
    yield SimpleNamespace(url=url, tcp=tcp, password_file=password_file, directory=directory, remote=remote)
    lasting = [key for key in remote.keys("*") if remote.ttl(key) < 0]  # last words go by themselves
    remote.close()
    ended = redis_script("stop", directory)
    assert ended.returncode == 0, ended.stderr
    assert redis_script("status", directory).returncode == 1
    assert lasting == []


class TestRedis(ProcessTransportConformance):
    @pytest.fixture(autouse=True)
    def _reachable(self, redis_server):
        self.server = redis_server

    def make_reader(self, **options):
        return RedisReader(url=self.server.url, password_file=self.server.password_file, lease_s=2.0, **options)


def test_over_tcp(redis_server):
    reader = RedisReader(url=redis_server.tcp, password_file=redis_server.password_file)
    env = reader.address("m0001", 1)

    def write():
        with client.connect(environ=env) as run:
            for n in range(20):
                run.put(t=n, u=field_of(1, n, 1 << 16))

    owner, writer = Owner(reader), Background(write)
    owner.until(lambda o: bool(o.ends), "the end")
    writer.join()
    reader.close()
    assert owner.steps("m0001") == 20


def test_the_config_file_makes_a_reader(redis_server):
    options = yaml.safe_load((Path(__file__).parents[2] / "configs" / "transport" / "redis.yaml").read_text())
    assert options.pop("name") == "redis"
    build("transport", "redis", {**options, "url": redis_server.url, "password_file": redis_server.password_file}).close()


def test_what_lies_in_redis_is_bounded_and_goes(redis_server):
    reader = RedisReader(url=redis_server.url, password_file=redis_server.password_file, window_mb=0.5, channel="bounded")
    env = reader.address("m0001", 1)

    def write():
        with client.connect(environ=env) as run:
            for n in range(40):
                run.put(t=n, u=field_of(1, n, 1 << 14))

    owner, writer = Owner(reader), Background(write)
    largest = 0
    until = time.monotonic() + PATIENCE_S
    while not owner.ends:
        assert time.monotonic() < until
        owner.turn(0.01)
        largest = max(largest, sum(redis_server.remote.memory_usage(key) or 0 for key in redis_server.remote.keys("alearn:bounded:*")))
    writer.join()
    assert owner.steps("m0001") == 40
    assert largest < 4 << 20
    reader.close()
    left = redis_server.remote.keys("alearn:bounded:*")
    assert all(redis_server.remote.ttl(key) != -1 for key in left)
    assert sum(redis_server.remote.memory_usage(key) or 0 for key in left) < 1 << 15


def test_a_writer_that_dies_silently_is_missed(redis_server):
    reader = RedisReader(url=redis_server.url, password_file=redis_server.password_file, lease_s=1.0)
    code = "import time\nfrom alearn.client import connect\nrun = connect()\nrun.put(t=0, y=1.0)\ntime.sleep(60)"
    owner = Owner(reader)
    env = {**os.environ, **reader.address("m0001", 1)}
    process = subprocess.Popen([sys.executable, "-c", code], env=env)
    try:
        owner.until(lambda o: len(o.kept) == 1, "a step")
        process.kill()
        owner.until(lambda o: bool(o.broken), "the break")
    finally:
        process.kill()
        process.wait()
        reader.close()
    assert [(b.member, b.attempt) for b in owner.broken] == [("m0001", 1)]


def test_a_restarted_server_loses_nothing(redis_server, tmp_path):
    begun = redis_script("start", tmp_path)
    assert begun.returncode == 0, begun.stderr
    said = dict(word.split("=", 1) for word in begun.stdout.splitlines()[-1].split()[1:])
    reader = RedisReader(url=said["ALEARN_REDIS_URL"], password_file=said["ALEARN_REDIS_PASSWORD_FILE"])
    try:
        env = reader.address("m0001", 1)

        def write():
            with client.connect(environ=env) as run:
                for n in range(60):
                    run.put(t=n, u=field_of(1, n))
                    time.sleep(0.02)

        owner, writer = Owner(reader), Background(write)
        owner.until(lambda o: o.steps("m0001") > 10, "steps")
        password = (tmp_path / "password").read_text()
        assert redis_script("stop", tmp_path).returncode == 0
        server = subprocess.Popen(["redis-server", str(tmp_path / "redis.conf"), "--daemonize", "no"], stdout=subprocess.DEVNULL)
        try:
            assert password == (tmp_path / "password").read_text()
            owner.until(lambda o: bool(o.ends), "the end")
            writer.join()
        finally:
            reader.close()
            server.terminate()
            server.wait()
    finally:
        reader.close()
        redis_script("stop", tmp_path)
    assert owner.steps("m0001") == 60
    for n in range(60):
        assert (owner.kept["m0001", n].values["u"] == field_of(1, n)).all()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "transport.url is ''"),
        ({"url": "http://x"}, "redis://host:port/0"),
        ({"url": "redis://:secret@host:6379"}, "holds a password"),
        ({"url": "redis://127.0.0.1:6379"}, "must ask for a password"),
        ({"url": "unix:///x", "channel": "a:b"}, "transport.channel is 'a:b'"),
        ({"url": "unix:///x", "lease_s": 0}, "above 0"),
        ({"url": "unix:///x", "password_file": "/nowhere/password"}, "cannot be read"),
    ],
)
def test_wrong_options_are_told(options, said):
    with pytest.raises(ConfigError, match=said):
        RedisReader(**options)


def test_a_password_that_others_can_read_is_refused(tmp_path):
    (tmp_path / "password").write_text("secret")
    (tmp_path / "password").chmod(0o644)
    with pytest.raises(ConfigError, match="has mode 0644; others can read it: chmod 600 it"):
        RedisReader(url="unix:///x", password_file=str(tmp_path / "password"))


def test_no_server_and_a_wrong_password_are_told(redis_server, tmp_path):
    with pytest.raises(TransportError, match=r"does not answer.*Is it started"):
        RedisReader(url=f"unix://{tmp_path}/none.sock")
    wrong = tmp_path / "wrong"
    wrong.write_text("wrong")
    wrong.chmod(0o600)
    with pytest.raises(TransportError, match="does not answer"):
        RedisReader(url=redis_server.url, password_file=str(wrong))
    reader = RedisReader(url=redis_server.url, password_file=redis_server.password_file)
    env = reader.address("m0001", 1)
    address = env["ALEARN_STREAM"].partition("#")[0]
    with pytest.raises(client.Refused, match=r"refuses the password in .*wrong"):
        client.connect(environ={**env, "ALEARN_STREAM": f"{address}#{wrong}"}).announce(y=1.0)
    reader.close()


def test_without_the_package_the_command_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(MissingDependency, match=r"pip install 'alearn\[redis\]'"):
        RedisReader(url="unix:///x")
