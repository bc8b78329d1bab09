"""The view of a running study: a live picture in a terminal, plain lines anywhere else.

The study's loop makes a ``Snapshot`` of its arm now and then and hands it to ``View.show``; the view keeps the
latest of each arm, draws at its own pace and never raises into the study.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from alearn.report.status import MemberCounts, Status, idle_words
from alearn.report.words import clean, count, duration, number, percent, plural

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

STATE_STYLES = {
    "done": "blue",
    "running": "green",
    "queued": "bright_black",
    "killed": "yellow",
    "failed": "red",
    "lost": "magenta",
}
_BARS = "▁▂▃▄▅▆▇█"
_HISTORY = 400


@dataclass(frozen=True, slots=True)
class KillNote:
    """One member that was killed, and why.

    Args:
        member: its id.
        reason: why, in one line.
        step: the last step it delivered, if it delivered any.
        how: "killed" or "failed".
    """

    member: str
    reason: str
    step: int | None = None
    how: str = "killed"

    def __str__(self) -> str:
        where = f" at step {self.step}" if self.step is not None else ""
        return clean(f"{self.member}{where}: {self.reason}")


@dataclass(frozen=True, slots=True)
class Gauge:
    """How much of one limit is used ("members", 46, 64).

    Args:
        name: what is limited.
        used: spent so far.
        limit: the limit.
        unit: "" for a count, "s" for seconds (shown as a duration), or any unit.
    """

    name: str
    used: float
    limit: float
    unit: str = ""

    @property
    def share(self) -> float:
        """Used over limit, within 0 and 1; 0 for an impossible limit."""
        ratio = self.used / self.limit if self.limit > 0 else 0.0
        return min(1.0, max(0.0, ratio)) if math.isfinite(ratio) else 0.0

    def __str__(self) -> str:
        if self.unit == "s":
            return f"{duration(self.used)} of {duration(self.limit)}"
        write = number if self.unit else count
        return f"{write(self.used)} of {write(self.limit)} {self.unit}".rstrip()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One arm of a study at one moment: numbers and short strings only.

    Args:
        status: the same object that goes to ``status.json`` (members, samples, error, cost, …).
        elapsed_s: seconds since the arm started.
        samples_per_s: samples stored per second, lately.
        updates_per_s: optimiser updates per second, lately.
        buffer_fill: samples in the training buffer.
        buffer_capacity: how many it holds; 0 if it has no bound.
        eta_s: seconds until everything that is still to run is expected to end, later arms included; None if unknown.
        budget: the limits that are set and what is spent of each.
        kills: the last kills, the newest last.
        activity: what goes on now, in a few words ("training", "waiting for members").
    """

    status: Status
    elapsed_s: float = 0.0
    samples_per_s: float | None = None
    updates_per_s: float | None = None
    buffer_fill: int = 0
    buffer_capacity: int = 0
    eta_s: float | None = None
    budget: tuple[Gauge, ...] = ()
    kills: tuple[KillNote, ...] = ()
    activity: str = ""

    @property
    def arm(self) -> str:
        return self.status.arm

    @property
    def ended(self) -> bool:
        return self.status.state != "running"


class View(Protocol):
    """Where a running study is shown. No method raises because of the terminal."""

    def show(self, snapshot: Snapshot) -> None:
        """Take the latest snapshot of an arm; cheap enough for every turn of the loop."""
        ...

    def say(self, line: str) -> None:
        """A line that stays: a round, a failure, how to resume."""
        ...

    def close(self) -> None:
        """Draw the last state and give the terminal back. May be called twice."""
        ...


def open_view(kind: str = "auto", stream: TextIO | None = None, every_s: float = 4.0) -> View:
    """The view that fits the output.

    Args:
        kind: "live", "plain", "none", or "auto": live if the stream is a terminal that can move its cursor.
        stream: where to write; standard output by default.
        every_s: seconds between two plain lines of an arm.
    """
    out = stream if stream is not None else sys.stdout
    if kind == "none":
        return NullView()
    if kind == "auto":
        able = _is_terminal(out) and os.environ.get("TERM", "") not in ("", "dumb")
        kind = "live" if able else "plain"
    if kind == "live":
        try:
            return LiveView(out)
        except Exception:  # no rich, an exotic terminal: the study runs on with plain lines
            return PlainView(out, every_s)
    return PlainView(out, every_s)


def _is_terminal(stream: TextIO) -> bool:
    try:
        return bool(stream.isatty())
    except (AttributeError, ValueError):
        return False


class NullView:
    """Shows nothing."""

    def show(self, snapshot: Snapshot) -> None:
        return

    def say(self, line: str) -> None:
        return

    def close(self) -> None:
        return


class PlainView:
    """One line every few seconds for each arm: for logs, pipes and batch jobs.

    Args:
        stream: where to write; standard output by default.
        every_s: seconds between two lines of an arm.
        clock: seconds, monotonic.
    """

    def __init__(self, stream: TextIO | None = None, every_s: float = 4.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream: TextIO | None = stream if stream is not None else sys.stdout
        self._every_s = every_s
        self._clock = clock
        self._last: dict[str, float] = {}
        self._latest: dict[str, Snapshot] = {}
        self._shown: dict[str, Snapshot] = {}
        self._told: set[tuple[str, KillNote]] = set()

    def show(self, snapshot: Snapshot) -> None:
        arm = snapshot.arm
        now = self._clock()
        self._latest[arm] = snapshot
        before = self._shown.get(arm)
        turned = before is None or before.status.state != snapshot.status.state
        if turned or now - self._last.get(arm, -math.inf) >= self._every_s:
            self._print(snapshot)
            self._last[arm] = now

    def say(self, line: str) -> None:
        self._write("".join(c if c.isprintable() or c == "\n" else " " for c in line))

    def close(self) -> None:
        for arm, snapshot in self._latest.items():
            shown = self._shown.get(arm)
            # what is idle goes on changing when nothing happens
            if shown is None or replace(shown.status, idle=snapshot.status.idle) != snapshot.status:
                self._print(snapshot)
        self._latest.clear()

    def _print(self, snapshot: Snapshot) -> None:
        self._shown[snapshot.arm] = snapshot
        fresh = [note for note in snapshot.kills if (snapshot.arm, note) not in self._told]
        self._told.update((snapshot.arm, note) for note in fresh)
        for how in ("failed", "killed"):
            notes = [note for note in fresh if note.how == how]
            for note in notes[:3]:
                self._write(f"    {snapshot.arm}: {how} {note}")
            if len(notes) > 3:
                self._write(f"    {snapshot.arm}: {how} {len(notes) - 3} more")
        self._write(plain_line(snapshot))

    def _write(self, line: str) -> None:
        if self._stream is None:
            return
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        try:
            self._stream.write(line.encode(encoding, "replace").decode(encoding) + "\n")
            self._stream.flush()
        except (OSError, ValueError, LookupError):  # the pipe's reader left or the stream was closed; the study goes on
            self._stream = None


def plain_line(snapshot: Snapshot) -> str:
    """A snapshot in one line of text."""
    s, m = snapshot.status, snapshot.status.members
    limit = next((f" of {count(g.limit)}" for g in snapshot.budget if g.name == "members"), "")
    states = ", ".join(f"{n} {name}" for name in ("running", "queued", "done", "killed", "failed", "lost") if (n := getattr(m, name)))
    parts = [
        f"members {m.total}{limit}" + (f" ({states})" if states else ""),
        f"samples {count(s.samples.stored)}{_rate(snapshot.samples_per_s)}",
    ]
    if snapshot.buffer_capacity:
        parts.append(f"buffer {percent(min(1.0, snapshot.buffer_fill / snapshot.buffer_capacity))}")
    elif snapshot.buffer_fill:
        parts.append(f"buffer {count(snapshot.buffer_fill)}")
    parts += [f"round {s.rounds}", f"updates {count(s.updates)}{_rate(snapshot.updates_per_s)}"]
    if s.idle.slots is not None and s.idle.learner is not None:
        parts.append(f"idle: slots {percent(s.idle.slots)}, learner {percent(s.idle.learner)}")
    if s.error.mean is not None:
        parts.append(f"error mean {number(s.error.mean)} p95 {number(s.error.p95)} max {number(s.error.max)}")
    if s.cost.saved_steps:
        parts.append(f"kills saved {plural(s.cost.saved_steps, 'step')}")
    if snapshot.ended:
        parts.append(s.state)
    elif snapshot.eta_s:
        parts.append(f"ETA {duration(snapshot.eta_s)}")
    elif snapshot.activity:
        parts.append(snapshot.activity)
    return f"[{duration(snapshot.elapsed_s):>8}] {s.arm}: " + " | ".join(parts)


def _rate(per_s: float | None) -> str:
    return f" ({number(per_s)}/s)" if per_s is not None and math.isfinite(per_s) else ""


def sparkline(values: Iterable[float], width: int) -> str:
    """The values as a row of block characters on a logarithmic scale, resampled to ``width``."""
    logs = [math.log(v) for v in values if math.isfinite(v) and v > 0]
    if len(logs) < 2 or width < 2:
        return ""
    n = min(width, len(logs))
    picked = [logs[round(i * (len(logs) - 1) / (n - 1))] for i in range(n)]
    low, high = min(picked), max(picked)
    span = high - low
    return "".join(_BARS[round((v - low) / span * (len(_BARS) - 1))] if span > 1e-12 else _BARS[0] for v in picked)


@dataclass(slots=True)
class _Arm:
    """What the live view remembers of an arm."""

    snapshot: Snapshot
    errors: list[float] = field(default_factory=list)


class LiveView:
    """A picture that is redrawn in place, both arms side by side where the terminal is wide enough.

    Honours NO_COLOR and the terminal's width. If drawing ever fails, it falls back to plain lines.

    Args:
        stream: the terminal.
        redraw_s: at least this long between two redraws.
        width: columns; None follows the terminal.
    """

    def __init__(self, stream: TextIO | None = None, redraw_s: float = 0.2, width: int | None = None) -> None:
        from rich.console import Console
        from rich.live import Live

        self._stream = stream if stream is not None else sys.stdout
        self._console = Console(file=self._stream, width=width, highlight=False, soft_wrap=False)
        self._live: Live | None = Live(console=self._console, auto_refresh=False, transient=False, vertical_overflow="crop")
        self._arms: dict[str, _Arm] = {}
        self._redraw_s = redraw_s
        self._drawn = -math.inf
        self._fallback: PlainView | None = None
        self._closed = False
        self._live.start()

    def show(self, snapshot: Snapshot) -> None:
        if self._closed:
            return
        if self._fallback is not None:
            self._fallback.show(snapshot)
            return
        arm = self._arms.setdefault(snapshot.arm, _Arm(snapshot))
        turned = arm.snapshot.status.state != snapshot.status.state
        arm.snapshot = snapshot
        mean = snapshot.status.error.mean
        if mean is not None and (not arm.errors or arm.errors[-1] != mean):
            arm.errors = [*arm.errors[-_HISTORY:], mean]
        now = time.monotonic()
        if turned or now - self._drawn >= self._redraw_s:
            self._drawn = now
            self._guard(self._draw)

    def say(self, line: str) -> None:
        if self._fallback is not None or self._closed:
            (self._fallback or PlainView(self._stream)).say(line)
            return

        printable = "".join(c if c.isprintable() or c == "\n" else " " for c in line)

        def print_above() -> None:
            self._console.print(printable, markup=False, highlight=False)
            if self._live is not None:
                self._live.refresh()

        self._guard(print_above)

    def close(self) -> None:
        if self._closed:
            return
        if self._fallback is None and self._arms:
            self._guard(self._draw)
        self._closed = True
        self._stop()
        if self._fallback is not None:
            self._fallback.close()

    def _draw(self) -> None:
        if self._live is not None:
            self._live.update(self.render(), refresh=True)

    def _guard(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception:  # a resized, vanished or broken terminal must not end a study
            self._stop()
            self._fallback = PlainView(self._stream)

    def _stop(self) -> None:
        live, self._live = self._live, None
        if live is not None:
            with contextlib.suppress(Exception):
                live.stop()

    def render(self) -> RenderableType:
        """The picture of all arms as a rich renderable."""
        from rich.columns import Columns
        from rich.console import Group

        width = self._console.width
        side_by_side = len(self._arms) > 1 and width >= 128
        each = width // len(self._arms) - 1 if side_by_side else min(width, 110)
        panels = [self._panel(arm, each) for arm in self._arms.values()]
        return Columns(panels, padding=(0, 1), equal=False) if side_by_side else Group(*panels)

    def _panel(self, arm: _Arm, width: int) -> RenderableType:
        from rich.panel import Panel
        from rich.table import Table
        from rich.text import Text

        snapshot = arm.snapshot
        s = snapshot.status
        inner = width - (4 if width >= 50 else 0)
        unicode = not self._console.options.ascii_only
        table = Table.grid(padding=(0, 1))
        table.add_column(style="bright_black", no_wrap=True, min_width=8)
        table.add_column(overflow="ellipsis" if unicode else "crop")
        bar = max(4, min(40, inner - 34))

        def row(label: str, *pieces: Any, wrap: bool = False) -> None:
            line = Text(no_wrap=not wrap, overflow="fold" if wrap else "ellipsis" if unicode else "crop")
            for piece in pieces:
                line.append_text(piece) if isinstance(piece, Text) else line.append(str(piece))
            table.add_row(label, line)

        limit = next((int(g.limit) for g in snapshot.budget if g.name == "members" and math.isfinite(g.limit)), 0)
        row("members", _state_bar(s.members, bar, unicode, limit), f"  {count(s.members.total)}" + (f" of {count(limit)}" if limit else ""))
        row("", _state_counts(s.members), wrap=True)
        for gauge in snapshot.budget:
            if gauge.name == "members":
                continue
            row("budget", _bar(gauge.share, bar, "cyan", unicode), f"  {gauge.name} {gauge}")
        row("samples", f"{count(s.samples.stored)}", _dim(_rate(snapshot.samples_per_s)), _dropped(s))
        if snapshot.buffer_capacity:
            share = min(1.0, snapshot.buffer_fill / snapshot.buffer_capacity)
            row("buffer", _bar(share, bar, "green", unicode), f"  {count(snapshot.buffer_fill)} of {count(snapshot.buffer_capacity)}")
        elif snapshot.buffer_fill:
            row("buffer", count(snapshot.buffer_fill), _dim(" rows"))
        row("training", f"round {s.rounds}, {plural(s.updates, 'update')}", _dim(_rate(snapshot.updates_per_s)))
        if (idle := idle_words(s.idle)) is not None:
            row("idle", idle)
        if s.lead:
            row("surrogate", s.lead, wrap=True)
        if s.error.mean is not None:
            tail = f"mean {number(s.error.mean)}  p95 {number(s.error.p95)}  p99 {number(s.error.p99)}  max {number(s.error.max)}"
            row("error", Text(tail, style="bold"), wrap=True)
            line = sparkline(arm.errors, max(0, min(60, inner - 11))) if unicode else ""
            if line:
                row("", Text(line, style="cyan"))
        else:
            row("error", _dim("not measured yet"))
        if s.calibration.coverage95 is not None:
            row(
                "inside95", f"{percent(s.calibration.coverage95)} of {'test' if s.error.n_test else 'arriving'} values in the 95 % interval"
            )
        if s.cost.saved_steps:
            share = s.cost.saved_steps / (s.cost.saved_steps + s.cost.simulated_steps)
            row("saved", f"{plural(s.cost.saved_steps, 'step')} by {plural(s.members.killed, 'kill')} ({percent(share)})")
        for note in snapshot.kills[-3:]:
            row(note.how, Text(str(note), style=STATE_STYLES[note.how]))
        ending = (
            f"{s.state} after {duration(snapshot.elapsed_s)}"
            if snapshot.ended
            else f"{duration(snapshot.elapsed_s)}, ETA {duration(snapshot.eta_s)}"
        )
        row("time", ending, _dim(f"  {snapshot.activity}" if snapshot.activity and not snapshot.ended else ""))
        title = Text(f" {s.study} / {s.arm} ", style="bold")
        if width < 50:
            table.title = title
            return table
        colour = {"running": "green", "done": "blue", "failed": "red"}.get(s.state, "yellow")
        return Panel(table, title=title, title_align="left", border_style=colour, width=width, padding=(0, 1))


def _dim(text: str) -> Text:
    from rich.text import Text

    return Text(text, style="bright_black")


def _dropped(status: Status) -> Text:
    n = status.samples.duplicates_dropped
    return _dim(f"  {plural(n, 'duplicate')} dropped") if n else _dim("")


def _bar(share: float, width: int, style: str, unicode: bool) -> Text:
    from rich.text import Text

    full = round(share * width)
    text = Text("━" * full if unicode else "#" * full, style=style)
    return text.append("━" * (width - full) if unicode else "-" * (width - full), style="bright_black")


def _state_bar(members: MemberCounts, width: int, unicode: bool, limit: int = 0) -> Text:
    """The members' states as one bar of coloured parts, as long as the share of the limit that they use; every state
    that occurs is seen."""
    from rich.text import Text

    counts = {name: getattr(members, name) for name in STATE_STYLES}
    total = sum(counts.values())
    if not total:
        return _bar(0.0, width, "green", unicode)
    length = max(len([n for n in counts.values() if n]), round(width * min(1.0, total / limit))) if limit > 0 else width
    cells = {name: max(1 if n else 0, math.floor(n * length / total)) for name, n in counts.items()}
    largest = max(counts, key=lambda name: counts[name])
    cells[largest] += length - sum(cells.values())
    text = Text()
    for name, n in cells.items():
        text.append(("━" if unicode else name[0]) * max(0, n), style=STATE_STYLES[name])
    return text.append(("━" if unicode else "-") * max(0, width - length), style="bright_black")


def _state_counts(members: MemberCounts) -> Text:
    from rich.text import Text

    text = Text()
    for name in STATE_STYLES:
        n = getattr(members, name)
        if n or name in ("done", "running"):
            text.append(f"{', ' if text.plain else ''}{n} {name}", style=STATE_STYLES[name])
    return text
