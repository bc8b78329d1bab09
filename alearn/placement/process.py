"""Space division: the learner in a process of its own, or in several that train together; here is the controller's side.

The controller says what is stored and asks; it never sends a sample. The learner process reads the samples from the
study's segments and archive, beside the writer and at its own pace, so what it has not read yet waits on disk.

If a process dies, all of the learner's are ended and started again, from the newest snapshot: what was stored since is
read again, and the questions that were open are asked again. None outlives the controller: each holds one end of a
pipe, and the kernel kills it when the other end closes, however the controller dies.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import IO, final

from alearn.errors import LaunchError, StudyFailed, TransportError
from alearn.launcher.supervisor import last_words
from alearn.learner import Answer, Fact, Gone, Hold, Question, Save, Stored, Vitals
from alearn.placement.words import Broke, Close, Message, Opening, Said, Told, Unpacker, asked, pack
from alearn.trainer.placing import Placing

log = logging.getLogger(__name__)

LOG = "learner.log"
CHILD = str(Path(__file__).with_name("child.py"))
SILENCE_S = 120.0
"""A learner process that says nothing for so long (it has a thread for that) is taken for hung."""
CLOSE_S = 5.0
"""How long a learner may take to finish what it is doing when it is closed: it holds nothing then that must be kept."""
END_S = 5.0
STARTING = "starting"
CHUNK = 1 << 18
EVIDENCE = 1 << 14


@dataclasses.dataclass(slots=True)
class _Child:
    """One process, and the pipe whose end is its end."""

    process: subprocess.Popen[bytes]
    life: int

    def end(self) -> None:
        """Kill it, and wait until it is gone."""
        if self.life >= 0:
            os.close(self.life)
            self.life = -1
        self.process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # inside a hung kernel call: the signal waits for it there
            self.process.wait(END_S)


@final
class ProcessLearner:
    """A learner in processes of its own.

    Args:
        opening: what it is made from.
        placing: how many processes, and how often they are started again.
    """

    def __init__(self, opening: Opening, placing: Placing) -> None:
        self._opening, self._placing = dataclasses.replace(opening, path=tuple(sys.path)), placing
        self._directory = Path(opening.directory)
        self._children: list[_Child] = []
        self._channel: socket.socket | None = None
        self._unpacker = Unpacker()
        self._outgoing: deque[memoryview] = deque()
        self._held: list[Hold] = []
        self._gone: dict[str, Gone] = {}
        self._stored = 0
        self._open: dict[int, Question] = {}
        self._asked = 0
        self._answers: list[Answer] = []
        self._vitals = Vitals(doing=STARTING)
        self._busy_before = 0.0
        self._heard = time.monotonic()
        self._restarts = 0
        self._lost = ""
        self._log: IO[bytes] = open(self._directory / LOG, "ab")  # noqa: SIM115 - lives as long as the learner
        try:
            self._start()
        except LaunchError:
            self._log.close()
            raise

    @property
    def pids(self) -> list[int]:
        """The ids of the learner's processes, rank 0 first."""
        return [child.process.pid for child in self._children]

    # --- what the loop calls ---------------------------------------------------------------------------------

    def tell(self, fact: Fact) -> None:
        """A fact. Of samples it is only said up to where they are stored."""
        match fact:
            case Stored():
                self._stored = max(self._stored, fact.upto)
                self._send(Stored(self._stored))
                return
            case Hold():
                self._held.append(fact)
            case Gone():
                self._gone[fact.member] = fact
        self._send(fact)

    def ask(self, question: Question) -> None:
        """Ask; the answer comes by ``answers``."""
        self._asked += 1
        self._open[self._asked] = question
        self._send(asked(self._asked, question))

    def answers(self) -> list[Answer]:
        """The answers since the last call; starts a learner again whose process died.

        Raises:
            StudyFailed: it failed, or died more often than it may.
        """
        if self._channel is None:
            raise StudyFailed("The learner has ended, and answers nothing more.")
        self._flush()
        if self._receive():
            self._again(self._lost or self._why())
        elif time.monotonic() - self._heard > SILENCE_S:
            self._again(f"The learner's process said nothing for {SILENCE_S:.0f} s; the last was that it is {self._vitals.doing}.")
        found, self._answers = self._answers, []
        return found

    def vitals(self) -> Vitals:
        """As it said last."""
        return self._vitals

    def close(self) -> None:
        """End its processes: by a word, and for certain at a deadline."""
        if self._children:
            self._send(Close())
            until = time.monotonic() + (0.0 if self._vitals.doing == STARTING else CLOSE_S)
            while self._children[0].process.poll() is None and time.monotonic() < until:
                with contextlib.suppress(StudyFailed):
                    self._flush()
                    if self._receive():
                        break
                time.sleep(0.01)
            self._end()
        self._log.close()

    # --- the conversation ------------------------------------------------------------------------------------

    def _send(self, message: Message) -> None:
        self._outgoing.append(memoryview(pack(message)))
        self._flush()

    def _flush(self) -> None:
        """Write as much as the process takes now; the loop never waits for it."""
        with contextlib.suppress(OSError):  # that nobody listens is seen when nothing can be read
            while self._outgoing and self._channel is not None:
                piece = self._outgoing[0]
                sent = self._channel.send(piece)
                if sent == len(piece):
                    self._outgoing.popleft()
                else:
                    self._outgoing[0] = piece[sent:]

    def _receive(self) -> bool:
        """Take in what was said; True if one of the processes has ended, or its line."""
        assert self._channel is not None
        try:
            while data := self._channel.recv(CHUNK):
                self._heard = time.monotonic()
                for message in self._unpacker.feed(data):
                    self._heed(message)
        except BlockingIOError:
            return bool(self._lost) or any(child.process.poll() is not None for child in self._children)
        except (OSError, TransportError) as error:
            log.debug("the learner's line broke: %s", error)
        return True

    def _heed(self, message: Message) -> None:
        match message:
            case Vitals():
                self._vitals = dataclasses.replace(message, busy_s=message.busy_s + self._busy_before)
            case Said():
                log.log(message.level, "%s", message.text)
            case Told():
                question = self._open.pop(message.number)
                if isinstance(question, Save):
                    self._opening = dataclasses.replace(self._opening, fresh=False)
                self._answers.append(Answer(question, message.result, message.seconds))
            case Broke(again=True):
                self._lost = message.text
            case Broke():
                raise StudyFailed(f"The learner failed while {message.doing}: {message.text}")

    # --- its processes ---------------------------------------------------------------------------------------

    def _start(self) -> None:
        """Start the processes, and tell them what was told before.

        Raises:
            LaunchError: one cannot be started.
        """
        ours, theirs = socket.socketpair()
        pairs = [socket.socketpair() for _ in range(1, self._placing.ranks)]
        followers = tuple(near.fileno() for near, _ in pairs)
        meeting = str(self._directory / f".ranks.{os.getpid()}.{time.monotonic_ns()}") if pairs else ""
        try:
            self._children.append(self._spawn(0, theirs.fileno(), followers))
            for rank, (_, far) in enumerate(pairs, 1):
                self._children.append(self._spawn(rank, far.fileno()))
        except OSError as error:
            ours.close()
            self._end()
            raise LaunchError(f"The learner's process cannot be started: {error}.") from error
        finally:
            for theirs_too in (theirs, *(side for pair in pairs for side in pair)):
                theirs_too.close()
        ours.setblocking(False)
        self._channel, self._unpacker, self._outgoing = ours, Unpacker(), deque()
        self._heard, self._lost = time.monotonic(), ""
        self._send(dataclasses.replace(self._opening, meeting=meeting, followers=followers))
        facts: list[Fact] = [*self._held, Stored(self._stored), *self._gone.values()]
        for fact in facts:
            self._send(fact)
        for number, question in self._open.items():
            self._send(asked(number, question))

    def _spawn(self, rank: int, channel: int, others: Sequence[int] = ()) -> _Child:
        line, life = os.pipe()
        numbers = map(str, (channel, line, rank, self._placing.ranks))
        try:
            process = subprocess.Popen(
                [sys.executable, "-P", CHILD, *numbers],
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                pass_fds=[channel, line, *others],
                start_new_session=True,  # a Ctrl-C in the terminal is the controller's to answer
            )
        except OSError:
            os.close(life)
            raise
        finally:
            os.close(line)
        return _Child(process, life)

    def _again(self, why: str) -> None:
        """Start it again.

        Raises:
            StudyFailed: it was started again too often.
        """
        self._end()
        if self._restarts >= self._placing.restarts:
            raise StudyFailed(f"{why} It was started again {self._restarts} times (trainer.restarts); look at {self._directory / LOG}.")
        self._restarts += 1
        log.warning(
            "%s It starts again from the newest snapshot and learns what was stored since (restart %d of %d).",
            why,
            self._restarts,
            self._placing.restarts,
        )
        self._busy_before = self._vitals.busy_s
        self._vitals = dataclasses.replace(self._vitals, doing=STARTING)
        self._start()

    def _why(self) -> str:
        """What became of the process that ended first, in a sentence."""
        until = time.monotonic() + END_S
        while (dead := next((r for r, c in enumerate(self._children) if c.process.poll() is not None), None)) is None:
            if time.monotonic() > until:
                return "The learner's process closed its line without ending."
            time.sleep(0.01)
        code = self._children[dead].process.returncode
        who = "The learner's process" if len(self._children) == 1 else f"Rank {dead} of the learner's {len(self._children)} processes"
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        words = "" if code == -signal.SIGKILL else self._last_words()
        return f"{who} {how} while {self._vitals.doing}{f' ({words})' if words else ''}."

    def _last_words(self) -> str:
        with contextlib.suppress(OSError), open(self._directory / LOG, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - EVIDENCE))
            return last_words(file.read())[1]
        return ""

    def _end(self) -> None:
        """End every process, and forget them."""
        for child in self._children:
            child.end()
        self._children.clear()
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        for leftover in self._directory.glob(f".ranks.{os.getpid()}.*"):
            leftover.unlink(missing_ok=True)
