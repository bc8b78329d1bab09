from __future__ import annotations

import io
import math
import re
from dataclasses import replace

import pytest

from alearn.report import (
    CalibrationSummary,
    Cost,
    ErrorSummary,
    Gauge,
    KillNote,
    LiveView,
    MemberCounts,
    NullView,
    PlainView,
    SampleCounts,
    Snapshot,
    Status,
    open_view,
)
from alearn.report.live import plain_line, sparkline


def snapshot(arm: str = "active", state: str = "running", error: float | None = 0.0123, **changes: object) -> Snapshot:
    status = Status(
        "gray_scott", state, arm, MemberCounts(1, 2, 30, 10, 1, 0), SampleCounts(1833, 1830, 3), 9, 5210,
        ErrorSummary(error, 0.05, 0.07, 0.1, 64), CalibrationSummary(0.94), Cost(1830, 410, 31.5),
    )  # fmt: skip
    base = Snapshot(
        status, 62.0, 66.2, 118.0, 812, 1000, 48.0, (Gauge("members", 44, 64), Gauge("wall time", 62, 120, "s")),
        (KillNote("m0031", "nothing left to teach", 12),), "training",
    )  # fmt: skip
    return replace(base, **changes)  # type: ignore[arg-type]


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    encoding = "utf-8"  # type: ignore[assignment]

    def isatty(self) -> bool:
        return True


def test_plain_when_the_output_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    assert isinstance(open_view(stream=io.StringIO()), PlainView)
    view = open_view(stream=Terminal())
    assert isinstance(view, LiveView)
    view.close()
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(open_view(stream=Terminal()), PlainView)
    assert isinstance(open_view("none"), NullView)
    NullView().show(snapshot())


def test_plain_lines_keep_their_pace_and_hold_no_escape_codes() -> None:
    out, now = io.StringIO(), [0.0]
    view = PlainView(out, every_s=4.0, clock=lambda: now[0])
    for second in range(10):
        now[0] = float(second)
        view.show(snapshot())
        view.show(snapshot("control"))
    lines = [line for line in out.getvalue().splitlines() if "| samples" in line]
    assert len(lines) == 6  # at 0, 4 and 8 seconds, both arms
    assert "\x1b" not in out.getvalue()
    assert out.getvalue().count("active: killed m0031 at step 12: nothing left to teach") == 1


def test_a_plain_line_holds_the_figures() -> None:
    line = plain_line(snapshot())
    for said in ("1:02 min", "active: ", "members 44 of 64", "2 running", "10 killed", "1,830 (66.2/s)", "buffer 81 %",
                 "updates 5,210 (118/s)",
                 "mean 0.0123 p95 0.0500 max 0.100", "saved 410 steps", "ETA 48 s"):  # fmt: skip
        assert said in line
    assert "error" not in plain_line(snapshot(error=None))


def test_the_end_of_an_arm_is_told_at_once_and_close_tells_the_last() -> None:
    out = io.StringIO()
    view = PlainView(out, every_s=1e9, clock=lambda: 0.0)
    view.show(snapshot())
    view.show(snapshot(state="done"))
    assert out.getvalue().splitlines()[-1].endswith("done")
    view.show(snapshot("control"))
    view.show(snapshot("control", error=0.5))
    view.close()
    view.close()
    assert "mean 0.500" in out.getvalue().splitlines()[-1]


def test_many_kills_at_once_are_summed_up() -> None:
    out = io.StringIO()
    PlainView(out).show(snapshot(kills=tuple(KillNote(f"m{i}", "why") for i in range(9))))
    assert "killed 6 more" in out.getvalue()
    assert out.getvalue().count("why") == 3


def test_a_closed_pipe_or_a_narrow_encoding_does_not_end_the_study() -> None:
    class Broken(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    view = PlainView(Broken())
    view.show(snapshot())
    view.say("line")
    view.close()

    raw = io.BytesIO()
    ascii_only = io.TextIOWrapper(raw, encoding="ascii")
    PlainView(ascii_only).say("µ – …")
    assert raw.getvalue() == b"? ? ?\n"

    gone = io.StringIO()
    gone.close()
    PlainView(gone).show(snapshot())


@pytest.mark.parametrize("width", [30, 60, 90, 160])
def test_the_live_picture_fits_every_width(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    out = Terminal()
    view = LiveView(out, width=width)
    for error in (0.5, 0.2, 0.1):
        view.show(snapshot(error=error))
    view.show(snapshot("control"))
    view.close()
    with view._console.capture() as captured:
        view._console.print(view.render(), no_wrap=True)
    lines = re.sub(r"\x1b\[[0-9;]*m", "", captured.get()).splitlines()
    text = "\n".join(lines)
    assert max(len(line) for line in lines) <= width
    for said in ("active", "control", "members", "44 of 64", "1,830", "812 of 1,000", "5,210", "m0031"):
        assert said in text
    if width >= 60:
        for said in (
            "30 done, 2 running",
            "10 killed",
            "mean 0.100",
            "p99 0.0700",
            "nothing left to teach",
            "410 steps by 10 kills",
            "ETA 48 s",
        ):
            assert said in text


def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")

    def colours() -> bool:
        out = Terminal()
        view = LiveView(out, width=100)
        view.show(snapshot())
        view.close()
        codes = {code for codes in re.findall(r"\x1b\[([0-9;]+)m", out.getvalue()) for code in codes.split(";")}
        return bool(codes & {str(c) for c in [*range(30, 38), *range(90, 98), 38]})

    monkeypatch.delenv("NO_COLOR", raising=False)
    assert colours()
    monkeypatch.setenv("NO_COLOR", "1")
    assert not colours()


def test_a_line_stays_above_the_picture_and_markup_in_it_is_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    out = Terminal()
    view = LiveView(out, width=100)
    view.show(snapshot())
    view.say("round [3] of [bold]x[/nonsense]")
    view.show(snapshot(state="done"))
    view.close()
    view.close()
    view.show(snapshot())
    assert "round [3] of [bold]x[/nonsense]" in out.getvalue()
    assert "done after 1:02 min" in out.getvalue()


def test_the_live_view_falls_back_to_plain_lines_when_drawing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    out = Terminal()
    view = LiveView(out, width=100)

    def fail() -> None:
        raise RuntimeError("no such terminal")

    monkeypatch.setattr(view, "render", fail)
    view.show(snapshot())
    view.show(snapshot(state="done"))
    view.say("still here")
    view.close()
    assert "members 44 of 64" in out.getvalue()
    assert out.getvalue().splitlines()[-1] == "still here"


@pytest.mark.parametrize(
    "strange",
    [
        {"samples_per_s": math.nan, "updates_per_s": math.inf, "eta_s": math.nan, "elapsed_s": math.nan},
        {"budget": (Gauge("members", 5, 0), Gauge("core-hours", 0.1, math.nan, "h"), Gauge("wall", math.inf, 0, "s"))},
        {"status": Status("", "failed", "")},
        {"kills": (KillNote("m1", "[red]\x1b[31m\nnew line"),)},
    ],
)
def test_strange_numbers_are_drawn_too(strange: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    view = LiveView(Terminal(), width=90)
    view.show(snapshot(**strange))
    assert view._fallback is None
    assert "\x1b[31m\n" not in view._stream.getvalue()  # type: ignore[attr-defined]
    view.close()
    assert plain_line(snapshot(**strange))


def test_the_sparkline_falls_with_the_error() -> None:
    assert sparkline([1.0, 0.1, 0.01], 3) == "█▅▁" or sparkline([1.0, 0.1, 0.01], 3) == "█▄▁"
    assert sparkline([1.0], 5) == ""
    assert sparkline([1.0, math.nan, 0.0, 1.0], 9) == "▁▁"
    assert len(sparkline(range(1, 500), 40)) == 40
