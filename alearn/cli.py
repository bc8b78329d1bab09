"""The command line. Each command imports only what it needs, so that help answers at once."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from alearn.errors import AlearnError, ConfigError, UnknownName

USAGE = """alearn: train a surrogate of an expensive simulation while the simulation runs.

  alearn demo                     the main job: learn Gray-Scott while it is simulated
  alearn run [OVERRIDES]          run a study; everything Hydra can do works:
                                    alearn run experiment=gray_scott seed=3 budget.members=40
                                    alearn run simulation=python simulation.target=my.py:f space='{a: [0, 1]}'
                                    alearn run --multirun surrogate=ensemble,gp ...   alearn run --cfg job
  alearn submit DIR [OVERRIDES]   run the study in Slurm jobs of its own, one after the other until it is done
                                    (--time, --partition, --cores, …; --dry prints the script)
  alearn resume DIR               go on with a study that was stopped or killed
  alearn status DIR [--json]      where a study stands (--verify: whether launched = stored = trained)
  alearn watch DIR                the same, until it ends
  alearn report DIR               write report.html again, from what is stored
  alearn predict DIR --at F=0.03 --at k=0.06 [--t T] [--json]
  alearn predict DIR --csv FILE [--fields FILE.npz]   the surrogate's mean and standard deviation
  alearn export DIR --to FOLDER   the surrogate for other programs: torch.export, ONNX, and a card that says what it is
  alearn population DIR [--json]  how every model of surrogate=population fared
  alearn specialise DIR --name NAME --region F=0.02..0.04 [--where 'v_mean>0.1']
                                  a surrogate for a part, then predict|export DIR --special NAME
  alearn why DIR [MEMBER]         why a member was chosen, and what became of it
  alearn verify DIR               check every checksum of ledger, archive and snapshots
  alearn export-archive DIR --to zarr|netcdf OUT [--box F=0.03:0.05]
                                  what was streamed, for other tools
  alearn replay DIR               derive every decision again from the events, and say where today's code differs
                                    (--policy NAME --set OPTION=VALUE asks another kill policy)
  alearn kill DIR MEMBER          kill one member of a running study
  alearn steer DIR MEMBER K=V     hand new values to a running simulation
  alearn revoke DIR MEMBER        take a member's samples back (--reason TEXT)
  alearn pause|continue|stop DIR  steer a running study
  alearn slots DIR [N]            how busy slots and learner were; with N: so many members at a time from now on
  alearn plan DIR --nodes 10,100  what the study would take on other machines
  alearn plugins [ROOM]           what can be chosen
  alearn doctor                   what this machine has and lacks

A study directory holds config.yaml, ledger.sqlite, archive.bp, snapshots/, maps.npz and report.html.
"""


class _Parser(argparse.ArgumentParser):
    """argparse with one sentence and exit 2 on errors."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}. See alearn --help.")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code (0 fine, 1 the study failed, 2 wrong input, 130 interrupted)."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        return 0
    if words[0] in ("-V", "--version", "version"):
        from alearn import __version__

        print(f"alearn {__version__}")
        return 0
    try:
        command = COMMANDS.get(words[0])
        if command is None:
            close = difflib.get_close_matches(words[0], COMMANDS, n=1)
            hint = f"Did you mean 'alearn {close[0]}'? " if close else ""
            raise ConfigError(f"There is no command '{words[0]}'. {hint}Valid: {', '.join(COMMANDS)}.")
        return command(words[1:])
    except ConfigError as error:
        print(f"alearn: {error}", file=sys.stderr)
        return 2
    except AlearnError as error:
        print(f"alearn: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("alearn: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that the interpreter's last flush finds a sink
        return 1


def _run(words: list[str]) -> int:
    from alearn.config import Config, launch
    from alearn.sweep import score, tell

    def job(config: Config, directory: Path) -> int:
        if config.view != "quiet":
            where = os.path.relpath(directory) if directory.is_relative_to(Path.cwd()) else directory
            print(f"study {config.study} in {where} (torch takes a few seconds to load)", flush=True)
        from alearn.study import Study

        try:
            return Study.from_config(config, directory).run().exit_code
        except ConfigError:
            with contextlib.suppress(OSError):
                directory.rmdir()  # nothing was started: an empty folder would only puzzle
            raise

    return launch(words, job, score, tell)


def _submit(words: list[str]) -> int:
    parser = _Parser(prog="alearn submit", description="Run a study in Slurm jobs of its own, one after the other until it is done.")
    parser.add_argument("directory", type=Path, metavar="DIR", help="the study's directory; one that holds a study is resumed")
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="as for alearn run")
    parser.add_argument("--dry", action="store_true", help="print the batch script; submit nothing")
    for name in ("time", "partition", "account", "qos"):
        parser.add_argument(f"--{name}", default="", help="as for sbatch")
    parser.add_argument("--nodes", type=int, default=1, help="more than one is for launcher.mode=step")
    parser.add_argument("--cores", type=int, default=1, help="on each node")
    parser.add_argument("--memory-mb", type=int, help="on each node")
    parser.add_argument("--gpus", type=int, default=0, help="on each node")
    parser.add_argument("--drain-s", type=int, default=120, help="seconds before the time limit at which the study stops (120)")
    parser.add_argument("--resubmits", type=int, default=100, help="how many jobs may follow the first (100)")
    parser.add_argument("--sbatch", action="append", default=[], metavar="OPTION", help="a further option: --sbatch=--constraint=x")
    options = vars(parser.parse_intermixed_args(words))
    directory, overrides, dry, extra = (options.pop(name) for name in ("directory", "overrides", "dry", "sbatch"))
    from alearn.launcher.submit import SubmitOptions, submission, submit

    if "=" in str(directory) and not directory.exists():
        raise ConfigError(f"alearn submit takes the study's directory first, and {str(directory)!r} is an override; write: submit DIR …")
    if (directory / "ledger.sqlite").exists():
        if overrides:
            raise ConfigError(f"{directory} holds a study, which is resumed as it was configured; leave out {' '.join(overrides)}.")
    else:  # a wrong override is told now, and not by a job tomorrow
        from alearn.config import Config, compose

        Config.from_mapping(compose(overrides))
    script = submission(directory, overrides, SubmitOptions(**options, extra=tuple(extra)))
    if dry:
        print(script, end="")
        return 0
    print(f"job {submit(directory, script)} submitted; follow it by: alearn watch {directory}")
    return 0


def _demo(words: list[str]) -> int:
    return _run(["experiment=gray_scott", *words])


def _directory(name: str, prog: str, words: list[str], *flags: str) -> argparse.Namespace:
    parser = _Parser(prog=f"alearn {prog}", description=name)
    parser.add_argument("directory", type=Path, metavar="DIR")
    for flag in flags:
        parser.add_argument(flag, action="store_true")
    return parser.parse_args(words)


def _resume(words: list[str]) -> int:
    args = _directory("Go on with a study that was stopped or killed.", "resume", words)
    from alearn.study import Study

    return Study.resume(args.directory).run().exit_code


def _status(words: list[str]) -> int:
    args = _directory("Where a study stands.", "status", words, "--json", "--verify")
    from alearn.report.status import read_status, render_status

    if args.verify:
        return _reconcile(args.directory)
    status = read_status(args.directory)
    print(status.to_json() if args.json else render_status(status))
    if not args.json and status.state == "running":
        from alearn.ledger.folders import arm_folders
        from alearn.ledger.lock import has_writer

        if not any(map(has_writer, arm_folders(args.directory))):
            print(f"  its controller is gone; `alearn resume {args.directory}` goes on from there")
    return 0


def _reconcile(directory: Path) -> int:
    from alearn.reconcile import reconcile
    from alearn.study import Study

    accounts = [reconcile(folder, name) for name, folder, _ in Study.open(directory).arms() if (folder / "ledger.sqlite").is_file()]
    for account in accounts:
        print(account.render())
    sound = all(account.sound for account in accounts)
    print(f"verdict: launched, stored and trained {'agree' if sound else 'do NOT agree'} in {directory}.")
    return 0 if sound else 1


def _watch(words: list[str]) -> int:
    args = _directory("Show a study until it ends.", "watch", words)
    from alearn.watch import watch

    watch(args.directory)
    return 0


def _report(words: list[str]) -> int:
    args = _directory("Write report.html again, from what is stored.", "report", words)
    from alearn.study import Study

    print(Study.open(args.directory).report())
    return 0


def _verify(words: list[str]) -> int:
    args = _directory("Check every checksum of ledger, archive and snapshots.", "verify", words)
    from alearn.ledger import Ledger
    from alearn.ledger.folders import arm_folders
    from alearn.surrogate.snapshot import verify_snapshots

    sound = True
    for arm in arm_folders(args.directory) or [args.directory]:
        ledger = Ledger.open(arm, readonly=True)
        problems = [*ledger.verify(), *verify_snapshots(arm / "snapshots")]
        gone, of = ledger.counts()["discarded"]["samples"], ledger.counts()["samples"]["stored"]
        ledger.close()
        if gone:
            print(f"{arm}: archive=none: {gone} of {of} samples were discarded; of these only the record can be checked.")
        for problem in problems:
            print(f"{arm}: {problem}", file=sys.stderr)
        sound = sound and not problems
    if sound:
        print(f"{args.directory}: every checksum matches; events, members, samples, data and snapshots agree.")
    return 0 if sound else 1


def _replay(words: list[str]) -> int:
    parser = _Parser(prog="alearn replay", description="Derive every decision of a study again from its events.")
    parser.add_argument("directory", type=Path, metavar="DIR")
    parser.add_argument("--policy", metavar="NAME", help="another kill policy (alearn plugins kill): what it would have done")
    parser.add_argument("--set", action="append", default=[], metavar="OPTION=VALUE", help="an option of it (may be repeated)")
    parser.add_argument("--all", action="store_true", help="list every difference")
    args = parser.parse_args(words)
    from alearn.hindsight import replay_command

    return replay_command(args.directory, args.policy, args.set, args.all)


def _export_archive(words: list[str]) -> int:
    parser = _Parser(prog="alearn export-archive", description="Copy what a study stored into a Zarr store or a netCDF file.")
    parser.add_argument("directory", type=Path, metavar="DIR", help="the study's, or DIR/control for its control arm")
    parser.add_argument("out", type=Path, metavar="OUT", help="what to write")
    parser.add_argument("--to", required=True, metavar="zarr|netcdf")
    parser.add_argument("--box", action="append", default=[], metavar="NAME=LOW:HIGH", help="only members in this box (once for each)")
    parser.add_argument("--member", action="append", metavar="MEMBER", help="only this member (may be repeated)")
    parser.add_argument("--field", action="append", metavar="FIELD", help="only this field (may be repeated)")
    parser.add_argument("--encoded", action="store_true", help="as it is stored: coefficients, where a codec made some of a field")
    args = parser.parse_args(words)
    from alearn.ledger.export import export_archive, parse_box, summary

    box = parse_box(args.box)
    out = export_archive(args.directory, args.to, args.out, box=box, members=args.member, fields=args.field, decode=not args.encoded)
    print(summary(out, args.to))
    return 0


def _export(words: list[str]) -> int:
    parser = _Parser(prog="alearn export", description="Write the surrogate for other programs, with a card beside it.")
    parser.add_argument("directory", type=Path, metavar="DIR")
    parser.add_argument("--to", type=Path, metavar="FOLDER", help="where to; default DIR/export")
    parser.add_argument("--format", action="append", metavar="torch|onnx", help="only this one (default: both)")
    parser.add_argument("--licence", default="", help="a line for the card")
    parser.add_argument("--special", metavar="NAME", help="a special surrogate (alearn specialise) in place of the study's")
    args = parser.parse_args(words)
    from alearn.export import export_command

    folder = args.directory / ("export" if args.special is None else f"export-{args.special}")
    return export_command(args.directory, args.to or folder, args.format, args.licence, args.special)


def _predict(words: list[str]) -> int:
    parser = _Parser(prog="alearn predict", description="The surrogate's mean and standard deviation.")
    parser.add_argument("directory", type=Path, metavar="DIR")
    parser.add_argument("--at", action="append", default=[], metavar="NAME=VALUE", help="a parameter's value (once for each)")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="a table with a column for each parameter")
    parser.add_argument("--t", type=float, action="append", metavar="T", help="only this simulation time (may be repeated)")
    parser.add_argument("--json", action="store_true", help="JSON instead of a table")
    parser.add_argument("--fields", type=Path, metavar="FILE.npz", help="write whole fields, mean and standard deviation, into this file")
    parser.add_argument("--special", metavar="NAME", help="by a special surrogate (alearn specialise) in place of the study's")
    args = parser.parse_args(words)
    from alearn.predict import predict_command

    return predict_command(args.directory, args.at, args.csv, args.t, as_json=args.json, fields=args.fields, special=args.special)


def _specialise(words: list[str]) -> int:
    parser = _Parser(prog="alearn specialise", description="Train a special surrogate for a part, from what a study has simulated.")
    parser.add_argument("directory", type=Path, metavar="DIR")
    parser.add_argument("--name", required=True, help="by which predict and export find it (--special NAME)")
    parser.add_argument("--region", action="append", default=[], metavar="NAME=LOW..HIGH", help="a parameter's range (may be repeated)")
    parser.add_argument(
        "--where", action="append", default=[], metavar="OUTPUT>VALUE", help="a condition on an output or t (may be repeated)"
    )
    parser.add_argument("--updates", type=int, help="of its training; default: to convergence")
    parser.add_argument("--anyway", action="store_true", help="also if it is no better, or nothing new is known")
    args = parser.parse_args(words)
    from alearn.specialise import specialise_command

    return specialise_command(args.directory, args.name, args.region, args.where, args.updates, anyway=args.anyway)


def _population(words: list[str]) -> int:
    args = _directory("How every model of a population fared.", "population", words, "--json")
    from alearn.standings import population_command

    return population_command(args.directory, as_json=args.json)


def _why(words: list[str]) -> int:
    parser = _Parser(prog="alearn why", description="Why a member was chosen, and what became of it.")
    parser.add_argument("directory", type=Path, metavar="DIR")
    parser.add_argument("member", nargs="?", metavar="MEMBER", help="its id; without one the latest members")
    parser.add_argument("--all", action="store_true", help="all members, not the latest alone")
    parser.add_argument("--json", action="store_true", help="JSON instead of words")
    args = parser.parse_args(words)
    from alearn.why import why_command

    return why_command(args.directory, args.member, everything=args.all, as_json=args.json)


def _plan(words: list[str]) -> int:
    from alearn.plan import plan_command

    return plan_command(words)


def _plugins(words: list[str]) -> int:
    from alearn.registry import ROOMS, plugins

    parser = _Parser(prog="alearn plugins", description="What can be chosen.")
    parser.add_argument("room", nargs="?")
    room = parser.parse_args(words).room
    if room is not None and room not in ROOMS:
        raise UnknownName("room", room, ROOMS)
    for name in [room] if room else ROOMS:
        for plugin, entry in sorted(plugins(name).items()):
            print(f"{name:<12} {plugin:<16} {entry.value}")
    return 0


def _doctor(words: list[str]) -> int:
    _Parser(prog="alearn doctor", description="What this machine has and lacks.").parse_args(words)
    from alearn.doctor import doctor
    from alearn.launcher.checkup import CHECKS

    return doctor(CHECKS)


def _steer(command: str) -> Callable[[list[str]], int]:
    def steer(words: list[str]) -> int:
        parser = _Parser(prog=f"alearn {command}", description="Steer a running study.")
        parser.add_argument("directory", type=Path, metavar="DIR")
        if command == "kill":
            parser.add_argument("member", metavar="MEMBER")
        args = parser.parse_args(words)
        from alearn.steering import request

        print(request(args.directory, command, args.member if command == "kill" else None))
        return 0

    return steer


def _slots(words: list[str]) -> int:
    parser = _Parser(prog="alearn slots", description="How busy slots and learner were, or how many members run at a time from now on.")
    parser.add_argument("directory", type=Path, metavar="DIR")
    parser.add_argument("slots", type=int, nargs="?", metavar="N")
    args = parser.parse_args(words)
    from alearn.slots import slots_command

    return slots_command(args.directory, args.slots)


def _steer_member(words: list[str]) -> int:
    parser = _Parser(prog="alearn steer", description="Hand new values to a running simulation.")
    parser.add_argument("directory", type=Path, metavar="DIR")
    parser.add_argument("member", metavar="MEMBER")
    parser.add_argument("values", nargs="+", metavar="NAME=VALUE")
    args = parser.parse_args(words)
    from alearn.steering import steer

    print(steer(args.directory, args.member, args.values))
    return 0


def _revoke(words: list[str]) -> int:
    parser = _Parser(prog="alearn revoke", description="Take a member's samples back: out of the training and the archive's views.")
    parser.add_argument("directory", type=Path, metavar="DIR")
    parser.add_argument("member", metavar="MEMBER")
    parser.add_argument("--reason", default="", help="why, for the record")
    args = parser.parse_args(words)
    from alearn.steering import revoke

    print(revoke(args.directory, args.member, args.reason))
    return 0


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "demo": _demo,
    "run": _run,
    "submit": _submit,
    "resume": _resume,
    "status": _status,
    "watch": _watch,
    "report": _report,
    "predict": _predict,
    "export": _export,
    "verify": _verify,
    "export-archive": _export_archive,
    "replay": _replay,
    "population": _population,
    "specialise": _specialise,
    "why": _why,
    "kill": _steer("kill"),
    "steer": _steer_member,
    "revoke": _revoke,
    "slots": _slots,
    "pause": _steer("pause"),
    "continue": _steer("continue"),
    "stop": _steer("stop"),
    "plan": _plan,
    "plugins": _plugins,
    "doctor": _doctor,
}

if __name__ == "__main__":
    sys.exit(main())
