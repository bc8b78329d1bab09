import os
import signal
import time
from pathlib import Path

from alearn.testing.streams import PATIENCE_S
from alearn.testing.transport import ProcessTransportConformance
from alearn.transport.adios_bp import adios_bp
from alearn.transport.adios_sst import adios_sst


def readers(reader):
    nurse = reader._forks.pid
    return [int(pid) for pid in Path(f"/proc/{nurse}/task/{nurse}/children").read_text().split()]


class AdiosConformance(ProcessTransportConformance):
    """The suite, where a broken stream is a reader process that dies."""

    make = staticmethod(adios_sst)

    def make_reader(self, **options):
        self.reader = self.make(**options)
        return self.reader

    def break_stream(self, run):
        link = run._link
        until = time.monotonic() + PATIENCE_S
        while link._page.waiting().broken < link._number:
            assert time.monotonic() < until
            greeted = max(a.greeted for a in self.reader._attempts.values())
            for pid in readers(self.reader) if greeted == link._number else ():
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.005)


class TestSst(AdiosConformance):
    writers = 8  # in one process, and SST opens one at a time
    make = staticmethod(adios_sst)


class TestBp(AdiosConformance):
    settle_s = 1.5
    make = staticmethod(adios_bp)
