import time

import numpy as np
import pytest

from alearn import client
from alearn.testing.streams import PATIENCE_S, Background, Owner
from alearn.transport import SocketReader
from alearn.transport.base import End
from alearn.transport.connection import Buffers
from alearn.types import Sample

MIB = 1 << 20


def where(view):
    return np.frombuffer(view, np.uint8).__array_interface__["data"][0]


def through_the_socket(reader):
    return {**reader.address("m0001", 1), "ALEARN_MEMORY": ""}


def test_a_buffer_is_used_again_only_when_nobody_looks_into_it():
    buffers = Buffers()
    first = buffers.take(16 * MIB)
    array = np.frombuffer(first.toreadonly()[:800], np.float64).reshape(10, 10)[2:4]
    place = where(first)
    del first
    others = [buffers.take(16 * MIB) for _ in range(3)]
    assert place not in [where(other) for other in others]
    assert array.shape == (2, 10)
    del array
    assert where(buffers.take(16 * MIB)) == place


def test_the_buffer_given_back_last_comes_first():
    buffers = Buffers()
    held = [buffers.take(MIB) for _ in range(4)]
    places = [where(view) for view in held]
    del held[3], held[0]
    again = [buffers.take(MIB) for _ in range(2)]
    assert [where(view) for view in again] == [places[0], places[3]]


def test_a_buffer_may_come_home_from_another_thread():
    buffers = Buffers()
    held = [buffers.take(MIB)]
    place = where(held[0])
    Background(held.clear).join()
    assert where(buffers.take(MIB)) == place


@pytest.mark.parametrize("length", [0, 1, 1000, 64 * MIB])
def test_small_and_huge_buffers_are_not_kept(length):
    buffers = Buffers()
    assert len(buffers.take(length)) == length
    assert not buffers._free


def test_what_is_kept_is_bounded():
    buffers = Buffers()
    for n in range(200):
        buffers.take(client.LARGE + n % 9)
    assert len(buffers._free) == 4
    held = [buffers.take(MIB) for _ in range(40)]
    held.clear()
    assert len(buffers._free[MIB]) == 32


def test_steps_that_are_held_keep_their_values_while_others_pass():
    reader = SocketReader(window_mb=4)
    run = client.connect(environ=reader.address("m0001", 1))
    u = np.zeros(50_000)

    def write():
        for n in range(150):
            u[:] = n
            run.put(t=n, u=u)
        run.close()

    writer, until = Background(write), time.monotonic() + PATIENCE_S
    held, views, following, ended = {}, {}, 0, False
    while not ended:
        assert time.monotonic() < until
        for message in reader.poll(0.05):
            ended = ended or isinstance(message, End)
            if isinstance(message, Sample):
                assert (message.values["u"] == message.step).all()
                following = message.step + 1
                if message.step % 7 == 0:
                    held[message.step] = message
                elif message.step % 7 == 1:
                    views[message.step] = message.values["u"][::1000]
        message = None
        reader.acknowledge("m0001", 1, following)
    writer.join()
    assert following == 150
    assert len(held) == 22
    assert all((sample.values["u"] == n).all() for n, sample in held.items())
    assert all((view == n).all() for n, view in views.items())
    reader.close()


def test_the_writers_buffers_stay_within_the_window():
    reader = SocketReader(window_mb=2)
    run = client.connect(environ=through_the_socket(reader))
    owner, writer = Owner(reader), Background(lambda: ([run.put(t=n, u=np.full(40_000, n)) for n in range(60)], run.close()))
    owner.until(lambda o: bool(o.ends), "the end")
    writer.join()
    assert 0 < sum(map(len, run._spare)) <= 2 * MIB
    assert [owner.kept["m0001", n].values["u"][-1] for n in range(60)] == list(range(60))
    reader.close()


def test_bytes_that_are_still_on_their_way_are_not_used_again():
    reader = SocketReader()
    run = client.connect(environ=through_the_socket(reader))
    owner = Owner(reader)
    run.put(t=0.0, u=np.zeros(10_000))
    owner.until(lambda o: len(o.kept) == 1, "the first step")
    body = bytearray(80_000)
    run._window.append(client._Kept(1, b"", body, -1))
    run._window_bytes += len(body)
    run._link.out.append(memoryview(body))
    run._forget(2)
    assert all(kept is not body for kept in run._spare)
    assert run._window_bytes == 0
    run._drop("")
    reader.close()
