"""``alearn replay``: a study's decisions derived again from its events, and what another kill policy would have done."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alearn import events as ev
from alearn.assembly import make_policy
from alearn.config import Config, PlugIn
from alearn.controller import Difference, Hindsight, differences, hindsight, replay
from alearn.errors import ConfigError
from alearn.ledger import Ledger
from alearn.study import Study

SHOWN = 20
"""Differences that are listed; the rest is counted."""


def replay_command(directory: Path, policy: str | None, settings: Sequence[str], everything: bool = False) -> int:
    """Print what today's code, or another kill policy, decides on a recorded study; 1 if today's code decides otherwise.

    Args:
        directory: the study's.
        policy: a kill policy's name, or None for the study's own policy.
        settings: its options as ``name=value``.
        everything: list every difference.

    Raises:
        ConfigError: there is no study, or nothing that a policy decided.
    """
    study = Study.open(directory)
    if study.config.simulation is None:
        raise ConfigError(f"{directory} is an ask-and-tell study: its user decided, and there is no policy to replay.")
    if settings and policy is None:
        raise ConfigError("--set gives options of the policy that --policy names; name one.")
    arms = [(name, folder, config) for name, folder, config in study.arms() if (folder / "ledger.sqlite").is_file()]
    if policy is not None:
        other = PlugIn(policy, options_of(settings))
        folder, config = study.directory, study.config
        print("\n".join(ask(folder, config, other)))
        return 0
    agreed = True
    for name, folder, config in arms:
        lines, same = again(folder, config, None if everything else SHOWN, learning=name != "test")
        print("\n".join(f"{name} arm: {line}" if i == 0 else line for i, line in enumerate(lines)))
        agreed = agreed and same
    return 0 if agreed else 1


def again(directory: Path, config: Config, shown: int | None = SHOWN, *, learning: bool = True) -> tuple[list[str], bool]:
    """What today's code decides on the recorded events of one arm: lines for a person, and whether it is the same."""
    events = _events(directory)
    policy = make_policy(config, learning=learning)
    steps = Counter(step.agrees for step in replay(events, policy))
    found = differences(events, policy)
    decided = steps[True] + steps[False]
    lines = [
        f"{len(events)} events, {decided} of them decisions; today's code decides {'all' if not found else steps[True]} of them alike."
    ]
    began = events[0].at if events else 0.0
    lines += [_line(d, began) for d in found[:shown]]
    if shown is not None and len(found) > shown:
        lines.append(f"  and {len(found) - shown} more (--all lists them)")
    if found:
        lines.append("  Each is judged on the recorded state: what would have followed from another decision, nobody simulated.")
    return lines, not found


def ask(directory: Path, config: Config, other: PlugIn) -> list[str]:
    """What another kill policy would have done on the recorded members of one arm, in lines for a person."""
    policy = make_policy(dataclasses.replace(config, kill=other))
    seen = hindsight(_events(directory), policy)
    options = "".join(f", {k}={v}" for k, v in other.options.items())
    return [
        f"kill policy {other.name}{options}, asked about {seen.members} recorded members:",
        *_sentences(seen, config.kill.name, other.name),
    ]


def options_of(words: Sequence[str]) -> dict[str, Any]:
    """Options from ``name=value`` words; a value is read as YAML.

    Raises:
        ConfigError: a word has another form.
    """
    import yaml

    out: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise ConfigError(f"--set has {word!r}; write OPTION=VALUE, such as threshold=0.2.")
        out[name] = yaml.safe_load(value)
    return out


def _sentences(seen: Hindsight, recorded: str, other: str) -> list[str]:
    if not seen.scored and other != "never":
        return [
            f"  The study ran with kill={recorded} and wrote down no score of a running member, so a policy that judges by value",
            "  cannot be asked about it. What follows is only about alarms and the budget.",
            *_figures(seen),
        ]
    return _figures(seen)


def _figures(seen: Hindsight) -> list[str]:
    lines = [
        f"  {seen.same} recorded kills it wants as well.",
        f"  {len(seen.earlier)} members it would have killed that ran on: {seen.saved_steps} steps saved"
        + (f" ({_names(seen.earlier)})." if seen.earlier else "."),
        f"  {len(seen.unwanted)} recorded kills it does not want"
        + (f" ({_names(seen.unwanted)}): about {seen.unknown_steps} steps that nobody simulated." if seen.unwanted else "."),
    ]
    if seen.spared:
        lines.append(f"  {seen.spared} members it would have let run on as ghosts.")
    lines += [
        "  Known: the steps of members that ran on. Not known, because nobody simulated it: what the killed members would have",
        "  done, which members would have run in the freed slots, and so the error that the study would have ended with.",
    ]
    return lines


def _names(members: Sequence[str]) -> str:
    return ", ".join(members[:6]) + (", …" if len(members) > 6 else "")


def _line(d: Difference, began: float) -> str:
    return f"  event {d.number + 1}, {d.at - began:.1f} s: {d.what}"


def _events(directory: Path) -> list[ev.Event]:
    with Ledger.open(directory, readonly=True) as ledger:
        return [event for _, event in ledger.events()]
