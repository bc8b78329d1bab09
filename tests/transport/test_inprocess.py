import pytest

from alearn import client
from alearn.registry import build
from alearn.testing.streams import Owner, abandon
from alearn.testing.transport import TransportConformance
from alearn.transport import InProcessReader, connect_inprocess


class TestInProcess(TransportConformance):
    def make_reader(self, **options):
        return InProcessReader(**options)


def test_connect_inprocess_needs_no_environment():
    reader = build("transport", "inprocess")
    run = connect_inprocess(reader, "m0001", parameters={"a": 1.0}, steps_total=2)
    assert run.parameters == {"a": 1.0}
    run.put(t=0.0, y=1.0)
    owner = Owner(reader)
    owner.until(lambda o: bool(o.kept), "the step")
    assert owner.kept["m0001", 0].parameters == {"a": 1.0}
    abandon(run)
    reader.close()


def test_another_process_cannot_use_the_address():
    with pytest.raises(client.DeadlineExceeded, match="no reader of that name"):
        client.connect(environ={"ALEARN_STREAM": "inprocess:elsewhere", "ALEARN_MEMBER": "m0001", "ALEARN_RECONNECT_S": "0.05"}).put(
            0.0, y=1
        )
