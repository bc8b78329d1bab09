"""What a member's process runs: ``python -m alearn.simulation.drive python TARGET`` or ``… command OPTIONS -- ARGV``.

It turns the user's generator, function or program into a stream of time steps. Only the client, the loader and the
user's own file are imported, so that a member starts as fast as its own code does.
"""

from __future__ import annotations

import functools
import json
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import IO, Any, TypeVar

from alearn.client import Run, Stopped, connect
from alearn.simulation.mpi import rank

T = TypeVar("T")
TERMINATED = 128 + signal.SIGTERM
"""Exit code after a SIGTERM: the run ended early, whatever became of the simulation."""
TURN_S = 0.2
SILENT_TURNS = 5
"""So many silent turns after a program's end, its output counts as complete though a child of it holds the pipe open."""
_PRIVATE = ("ALEARN_STREAM", "ALEARN_KEY", "ALEARN_KEY_FILE")
_NUMBER = re.compile(rb"(?<=[:,\[\s])([-+]?)(nan|inf(?:inity)?)(?=[,\]}\s])", re.IGNORECASE)


class Terminated(BaseException):
    """SIGTERM arrived. Not an Exception, so that a simulation's own ``except Exception`` cannot swallow it."""


class _Terminator:
    """Turns SIGTERM into ``Terminated``, but never in the middle of a word with the learner."""

    def __init__(self) -> None:
        self.arrived = False
        self.shielded = False
        signal.signal(signal.SIGTERM, self._handle)

    def _handle(self, *_: object) -> None:
        first, self.arrived = not self.arrived, True
        if first and not self.shielded:
            raise Terminated

    def whole(self, work: Callable[[], T]) -> T:
        """This work as a whole, then the signal if one came meanwhile."""
        if self.arrived:
            raise Terminated
        self.shielded = True
        try:
            result = work()
        finally:
            self.shielded = False
        if self.arrived:
            raise Terminated
        return result


def stream(run: Run, steps: Iterable[Any], terminator: _Terminator) -> None:
    """Put every step of a trajectory; a generator is closed whatever happens.

    Args:
        run: the open run.
        steps: mappings with "t" (default: the number of the step) and the named values.
        terminator: hears SIGTERM.

    Raises:
        Stopped: the learner asked this member to stop.
        TypeError: a step is no mapping.
    """
    try:
        for index, values in enumerate(steps):
            if not isinstance(values, Mapping):
                raise TypeError(f'Step {index} is a {type(values).__name__}; yield a dict for each time step, e.g. {{"t": t, "y": y}}.')
            given = dict(values)
            terminator.whole(functools.partial(run.put, float(given.pop("t", index)), given))
    finally:
        if hasattr(steps, "close"):
            steps.close()


def _steered(run: Run, steps: Generator[Any, Any, Any], terminator: _Terminator) -> Iterator[Any]:
    """A generator's steps; it is given what its member is steered to: ``new = yield {...}`` is a mapping, or None as mostly."""
    new = None
    try:
        while True:
            yield steps.send(new)
            new = terminator.whole(run.steering) or None
    except StopIteration:
        return
    finally:
        steps.close()


def _connect(options: Mapping[str, Any]) -> Run:
    given = json.loads(os.environ.get("ALEARN_PARAMETERS", "{}"))  # counts outside a study too, to try a member by hand
    steps = int(options.get("steps", 0))
    if rank():  # all ranks run, the first one speaks for the member
        return connect(default=given, steps_total=steps, environ={k: v for k, v in os.environ.items() if k != "ALEARN_STREAM"})
    return connect(default=given, steps_total=steps)


def drive_python(target: str, options: Mapping[str, Any], function: Callable[..., Any] | None = None) -> int:
    """Run a Python function as a member.

    Args:
        target: ``FILE.py:NAME`` or ``package.module:NAME``.
        options: "steps" (how many the function yields, if known) and "arguments" (more keyword arguments).
        function: the function itself, where this process has loaded it already.

    Returns:
        The exit code.

    Raises:
        TypeError: the function returned nothing that is a trajectory.
    """
    terminator = _Terminator()
    try:
        if function is None:
            from alearn.registry import load_object

            function = load_object(target)
        with _connect(options) as run:
            try:
                result = function(**{**options.get("arguments", {}), **run.parameters})
                if isinstance(result, Mapping):
                    result = [result]
                if not isinstance(result, (Iterator, list, tuple)):
                    raise TypeError(
                        f"{target} returned a {type(result).__name__}; it must be a generator that yields a dict for each time step, "
                        "or return one dict."
                    )
                stream(run, _steered(run, result, terminator) if isinstance(result, Generator) else result, terminator)
            except Terminated:
                run.close("stopped", "SIGTERM")
    except Terminated:
        pass
    return TERMINATED if terminator.arrived else 0


def drive_replay(options: Mapping[str, Any]) -> int:
    """Stream a recorded member.

    Args:
        options: see ``alearn.simulation.replay.recorded_steps``.

    Returns:
        The exit code.
    """
    from alearn.simulation.replay import recorded_steps, units_of

    terminator = _Terminator()
    try:
        with connect(steps_total=int(options["steps"]), units=units_of(options["study"])) as run:
            try:
                stream(run, recorded_steps(options), terminator)
            except Terminated:
                run.close("stopped", "SIGTERM")
    except Terminated:
        pass
    return TERMINATED if terminator.arrived else 0


def parse_step(line: bytes) -> dict[str, Any] | None:
    """A line of a program's output as a time step, or None if it is just text.

    The NaN and infinity of C, Fortran and Python are all understood.
    """
    text = line.strip()
    if not text.startswith(b"{"):
        return None
    for attempt in (text, _NUMBER.sub(_json_number, text)):
        try:
            values = json.loads(attempt)
        except ValueError:
            continue
        return values if isinstance(values, dict) else None
    return None


def _json_number(match: re.Match[bytes]) -> bytes:
    if match[2].lower() == b"nan":
        return b"NaN"
    return (b"-" if match[1] == b"-" else b"") + b"Infinity"


def drive_command(argv: list[str], options: Mapping[str, Any]) -> int:
    """Run a program as a member: JSON lines on its stdout are time steps, all else goes to the log.

    Args:
        argv: the program and its arguments.
        options: "steps" (how many it prints, if known), "terminal" (give it a pseudo-terminal as stdout) and "collect" (the steps
            are in the files that it leaves; all that it prints goes to the log).

    Returns:
        The program's exit code; if a signal ended it, this process ends by the same.
    """
    terminator = _Terminator()
    environ = {k: v for k, v in os.environ.items() if k not in _PRIVATE}
    environ.setdefault("PYTHONUNBUFFERED", "1")
    environ.setdefault("GFORTRAN_UNBUFFERED_PRECONNECTED", "y")
    program = None
    code = 0
    try:
        with _connect(options) as run:
            try:
                if options.get("collect"):
                    program = subprocess.Popen(argv, stdin=subprocess.DEVNULL, env=environ)
                    steps = _collected(options["collect"], program)
                else:
                    program, lines = _open(argv, environ, bool(options.get("terminal")))
                    steps = _steps(_lines(lines.fileno(), program))
                stream(run, steps, terminator)
                code = program.wait()
                if code:
                    run.close("failed", f"exit code {code}" if code > 0 else f"ended by {signal.Signals(-code).name}")
            except Terminated:
                _end(program)
                run.close("stopped", "SIGTERM")
            except Stopped:
                _end(program)
                raise
    except Terminated:
        pass
    finally:
        _end(program)
    if terminator.arrived:
        return TERMINATED
    if code < 0:
        sys.stdout.flush()
        signal.signal(-code, signal.SIG_DFL) if -code not in (signal.SIGKILL, signal.SIGSTOP) else None
        os.kill(os.getpid(), -code)
    return code


def _collected(options: Mapping[str, Any], program: subprocess.Popen[bytes]) -> Iterator[Mapping[str, Any]]:
    """The steps in the files that the program leaves in this folder."""
    from pathlib import Path

    from alearn.simulation.collect import Collector

    return Collector.of(options).steps(Path(), lambda: program.poll() is None)


def _lines(fd: int, program: subprocess.Popen[bytes]) -> Iterator[bytes]:
    """The lines of a program's stdout, until its end: a child that it leaves behind may hold the pipe open for ever."""
    buffer = bytearray()
    silent = 0
    while silent < SILENT_TURNS:
        if not select.select([fd], [], [], TURN_S)[0]:
            silent += program.poll() is not None
            continue
        try:
            chunk = os.read(fd, 1 << 16)
        except OSError:  # how a pseudo-terminal says that the program has ended
            chunk = b""
        if not chunk:
            break
        start = len(buffer)
        buffer += chunk
        while (end := buffer.find(b"\n", start)) >= 0:
            yield bytes(buffer[: end + 1])
            del buffer[: end + 1]
            start = 0
    if buffer:
        yield bytes(buffer)


def _steps(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    for line in lines:
        values = parse_step(line)
        if values is None:
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()
        else:
            yield values


def _open(argv: list[str], environ: Mapping[str, str], terminal: bool) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
    if not terminal:
        program = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=environ)
        assert program.stdout is not None
        return program, program.stdout
    import tty

    ours, theirs = os.openpty()
    tty.setraw(theirs)  # no carriage returns, no echo
    try:
        program = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=theirs, env=environ)
    finally:
        os.close(theirs)
    return program, os.fdopen(ours, "rb")


def _end(program: subprocess.Popen[bytes] | None, grace_s: float = 1.0) -> None:
    """End the program if it still runs (its descendants are the supervisor's care)."""
    if program is None or program.poll() is not None:
        return
    program.terminate()
    try:
        program.wait(grace_s)
    except subprocess.TimeoutExpired:
        program.kill()
        program.wait()


def main(arguments: list[str]) -> int:
    """The entry: ``python TARGET [OPTIONS]`` or ``command OPTIONS -- ARGV…``; OPTIONS is a JSON object."""
    match arguments:
        case ["python", target]:
            return drive_python(target, {})
        case ["python", target, options]:
            return drive_python(target, json.loads(options))
        case ["replay", options]:
            return drive_replay(json.loads(options))
        case ["command", options, "--", *argv] if argv:
            return drive_command(argv, json.loads(options))
    print("usage: python -m alearn.simulation.drive python TARGET [OPTIONS] | command OPTIONS -- ARGV…", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
