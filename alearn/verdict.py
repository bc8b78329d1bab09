"""What became of an attempt: from how its process and its stream ended, and from what was known of it."""

from __future__ import annotations

from collections.abc import Callable

from alearn.controller.member import Record
from alearn.events import MonitorAlarm
from alearn.transport.base import Broken, End
from alearn.types import Exit, ExitCause


def verdict(
    gone: Exit,
    stream: End | Broken | None,
    record: Record | None,
    alarm: MonitorAlarm | None,
    ended: str,
    classify: Callable[[Exit, Record], tuple[str, str, str]],
) -> tuple[str, str, str]:
    """The member's state, the reason in words, and the cause.

    Args:
        gone: how the process ended.
        stream: how the stream ended, if it did.
        record: the member's, if it is active.
        alarm: of a monitor that condemned it.
        ended: why the study has ended, if it has.
        classify: the failure policy's opinion where nothing else decides.
    """
    if record is None or record.attempt != gone.attempt:
        return "lost", "its attempt was over before", gone.cause.value
    if record.won:
        return classify(gone, record)
    if alarm is not None:
        return ("failed" if alarm.fault else "killed"), alarm.reason, alarm.monitor
    if gone.cause is ExitCause.DONE and record.kill and not (isinstance(stream, End) and stream.status == "done"):
        return "killed", record.kill, "killed"
    if isinstance(stream, Broken) and stream.final and not record.kill and gone.cause in (ExitCause.DONE, ExitCause.CANCELLED):
        return "lost", stream.reason, "stream"
    if gone.cause is ExitCause.DONE and record.steps == 0:
        return "failed", "it ended well but streamed no time step", "no data"
    if gone.cause is ExitCause.CANCELLED and ended and not record.kill:
        return "lost", f"the study ended while it ran ({ended})", gone.cause.value
    return classify(gone, record)
