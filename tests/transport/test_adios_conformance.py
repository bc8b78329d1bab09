import contextlib
import os
import signal
import time
from pathlib import Path

import pytest

from alearn.testing.processes import ProcessTransportConformance
from alearn.testing.streams import PATIENCE_S
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
                with contextlib.suppress(ProcessLookupError):  # it has just ended
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.005)


APART = ("test_a_broken_connection_is_mended_without_loss", "test_what_was_acknowledged_is_not_sent_again", "test_many_writers_at_a_time")


class TestSst(AdiosConformance):
    make = staticmethod(adios_sst)

    @pytest.fixture(autouse=True)
    def _writers_apart(self, request):
        """ADIOS2's binding holds the interpreter while SST waits: a writer in a thread of the learner's process may stop both for good."""
        if request.function.__name__ in APART and not os.environ.get("ALEARN_SST_IN_THREADS"):
            pytest.skip("SST writers in threads of the learner's process may stop it; test_adios_foreign.py has them in processes")


class TestBp(AdiosConformance):
    settle_s = 1.5
    make = staticmethod(adios_bp)
