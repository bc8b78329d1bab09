"""A study's surrogate for other programs: ``torch.export`` and ONNX, each verified against the original, with a card beside them."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import math
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from alearn import events as ev
from alearn.config import Config
from alearn.errors import AlearnError, UnknownName
from alearn.ledger import Ledger
from alearn.outcome import versions
from alearn.predict import Loaded, open_surrogate
from alearn.space import Space
from alearn.surrogate.axes import Cube
from alearn.surrogate.decode import predict_field
from alearn.surrogate.graph import graph_of
from alearn.types import Floats, MemberState

FORMATS = ("torch", "onnx")
FILES = {"torch": "surrogate.pt2", "onnx": "surrogate.onnx"}
CHECKED = 256
CHECKED_NUMBERS = 1 << 20
"""Where whole fields are exported, fewer points are looked at: so many numbers."""
TOLERANCE = 1e-3
"""The largest difference from the original, in units of each output's standard deviation, that an export may show."""
SHOWN_FAILURES = 20
SHOWN_LABELS = 12


@dataclass(frozen=True, slots=True)
class Card:
    """What someone needs to know who has the exported surrogate and nothing else.

    Args:
        study: the study's name.
        inputs: each parameter's name, unit, box or labels, in the order of the input's columns.
        t: the range of simulation time that was seen, or None for a surrogate without t.
        outputs: names and units; of whole fields shape and columns too.
        surrogate: the plug-in and its options.
        data: members, samples and steps learned from, by state, and the SHA-256 of what was learned.
        error: the last measured error, in units of each output's standard deviation, and on how many test members.
        calibration: the last measured coverage of the 95 % interval and what else was measured.
        failures: where the simulation failed.
        verified: for each file, the largest difference from the original in units of the outputs' standard deviations.
        licence: of the surrogate, as the exporting user states it.
        versions: of the packages that it was trained and exported with.
        exported_at: UTC, ISO 8601.
    """

    study: str
    inputs: list[dict[str, Any]]
    t: list[float] | None
    outputs: list[dict[str, Any]]
    surrogate: dict[str, Any]
    data: dict[str, Any]
    error: dict[str, float]
    calibration: dict[str, float]
    failures: dict[str, Any]
    verified: dict[str, float]
    licence: str
    versions: dict[str, str]
    exported_at: str


class Portable(nn.Module):
    """Mean and standard deviation of the outputs from the parameters in their own units, for a surrogate without t.

    Parameters that are labels are given by their position in the card's list, from 0.
    """

    def __init__(self, loaded: Loaded) -> None:
        super().__init__()
        self.model = graph_of(loaded.surrogate, loaded.fields)
        self.unit = Cube(loaded.space)

    def forward(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """``n x p`` float64 to mean and standard deviation, each ``n x m``."""
        mean, std = self.model(self.unit(parameters))
        return mean, std


class PortableOverT(nn.Module):
    """The same for a surrogate over trajectories."""

    def __init__(self, loaded: Loaded) -> None:
        super().__init__()
        self.inner = Portable(loaded)

    def forward(self, parameters: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """``n x p`` parameters and ``n`` times, float64, to mean and standard deviation, each ``n x m``."""
        mean, std = self.inner.model(torch.cat([self.inner.unit(parameters), t[:, None]], dim=1))
        return mean, std


def portable(loaded: Loaded) -> nn.Module:
    """A study's surrogate as a graph over parameters (and t) in their own units.

    Raises:
        AlearnError: this kind of surrogate cannot be exported.
    """
    return (PortableOverT(loaded) if loaded.surrogate.over_t else Portable(loaded)).eval()


def export(directory: Path, to: Path, formats: tuple[str, ...] = FORMATS, licence: str = "", special: str | None = None) -> Card:
    """Export the newest surrogate of a study into a folder: the files, ``card.json``, ``card.md`` and the coverage map.

    Args:
        directory: the study's.
        to: the folder; made if absent, files of an earlier export are replaced.
        formats: of "torch" (``surrogate.pt2``, read by ``torch.export.load``) and "onnx" (``surrogate.onnx``).
        licence: written into the card.
        special: the name of a special surrogate (``alearn specialise``) in place of the study's.

    Raises:
        ConfigError: there is no study or no snapshot.
        AlearnError: the surrogate has no exportable form, ONNX is not installed, or an exported file disagrees with the original.
    """
    loaded = open_surrogate(directory, special)
    module = portable(loaded)
    to.mkdir(parents=True, exist_ok=True)
    inputs, mean, std = _examples(loaded)
    verified = {}
    for kind in formats:
        path = to / FILES[kind]
        got = _torch(module, inputs, path) if kind == "torch" else _onnx(module, inputs, path)
        verified[FILES[kind]] = _difference(got, (mean, std), loaded, path)
    card = _card(directory, loaded, verified, licence)
    (to / "card.json").write_text(json.dumps(asdict(card), indent=1) + "\n")
    pictures = _pictures(directory, to)
    (to / "card.md").write_text(card_text(card, pictures))
    return card


def export_command(directory: Path, to: Path, formats: Sequence[str] | None, licence: str, special: str | None = None) -> int:
    """``alearn export``: say what was written; without a choice of formats, ONNX is left out where it is not installed.

    Raises:
        UnknownName: no such format.
    """
    for name in formats or ():
        if name not in FORMATS:
            raise UnknownName("format", name, FORMATS)
    missing = not formats and importlib.util.find_spec("onnxscript") is None
    card = export(directory, to, tuple(formats) if formats else FORMATS[:1] if missing else FORMATS, licence, special)
    for name, worst in card.verified.items():
        print(f"{to / name}  verified on {CHECKED} points: differs by at most {worst:.1g} of an output's standard deviation")
    print(f"{to / 'card.md'}")
    if missing:
        print("No ONNX file was written: pip install 'alearn[export]' for that.")
    return 0


def _examples(loaded: Loaded) -> tuple[tuple[Tensor, ...], Floats, Floats]:
    """Inputs all over the box and the range of t, and what the original predicts there (mean and standard deviation, ``n x m``)."""
    cells = sum(len(f.centre) for f in loaded.fields)
    x = loaded.space.sobol(max(8, min(CHECKED, CHECKED_NUMBERS // max(1, cells))), seed=20_261_121)
    points = loaded.space.from_unit(x)
    labels = {n: loaded.space[n].labels for n in loaded.space.names if loaded.space[n].labels}
    rows = [[labels[n].index(p[n]) if n in labels else p[n] for n in loaded.space.names] for p in points]
    parameters = torch.tensor(rows, dtype=torch.float64)
    unit = loaded.space.to_unit(points)
    inputs: tuple[Tensor, ...] = (parameters,)
    if loaded.surrogate.over_t:
        t = np.linspace(loaded.t[0], loaded.t[-1], len(points))
        unit = np.concatenate([unit, t[:, None]], axis=1)
        inputs = (parameters, torch.as_tensor(t))
    at = torch.as_tensor(unit)
    prediction = loaded.surrogate.predict(at)
    spread = (prediction.epistemic**2 + prediction.aleatoric**2).sqrt()
    parts = [tuple(v.double().numpy()[:, : len(loaded.singles)] for v in (prediction.mean, spread))]
    parts += [predict_field(loaded.surrogate, at, f) for f in loaded.fields]
    mean, std = (np.concatenate(p, axis=1) for p in zip(*parts, strict=True))
    return inputs, mean, std


def _torch(module: nn.Module, inputs: tuple[Tensor, ...], path: Path) -> tuple[Floats, Floats]:
    rows = torch.export.Dim("rows", min=1, max=1 << 30)
    dynamic = {"parameters": {0: rows}, **({"t": {0: rows}} if len(inputs) > 1 else {})}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(module, inputs, dynamic_shapes=dynamic, strict=False)
        torch.export.save(program, path)
        mean, std = torch.export.load(path).module()(*inputs)
    return mean.detach().numpy(), std.detach().numpy()


def _onnx(module: nn.Module, inputs: tuple[Tensor, ...], path: Path) -> tuple[Floats, Floats]:
    try:
        import onnx
        import onnxscript  # noqa: F401
        from onnx.reference import ReferenceEvaluator
    except ImportError as error:
        raise AlearnError(f"ONNX needs packages that are not there ({error}): pip install 'alearn[export]', or --format torch.") from error
    names = ["parameters", "t"][: len(inputs)]
    rows = torch.export.Dim("rows", min=1, max=1 << 30)
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)  # it tells of vision operators that nobody asked for
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                module, inputs, path, dynamo=True, input_names=names, output_names=["mean", "std"],
                dynamic_shapes={name: {0: rows} for name in names}, external_data=False, verbose=False,
            )  # fmt: skip
    except torch.onnx.OnnxExporterError as error:
        first = str(error.__cause__ or error).strip().splitlines()[0]
        raise AlearnError(f"ONNX cannot express this surrogate ({first}); export it with --format torch.") from error
    finally:
        exporter.setLevel(level)
    onnx.checker.check_model(path)
    mean, std = ReferenceEvaluator(str(path)).run(None, {n: v.numpy() for n, v in zip(names, inputs, strict=True)})
    return np.asarray(mean, dtype=np.float64), np.asarray(std, dtype=np.float64)


def _difference(got: tuple[Floats, Floats], wanted: tuple[Floats, Floats], loaded: Loaded, path: Path) -> float:
    scale = loaded.surrogate.output_scale.double().numpy()[: len(loaded.singles)]
    scale = np.concatenate([scale, *(np.full(len(f.centre), f.scale) for f in loaded.fields)])
    worst = max(float(np.max(np.abs(g - w) / np.where(scale > 0, scale, 1.0))) for g, w in zip(got, wanted, strict=True))
    if not worst <= TOLERANCE:
        path.unlink(missing_ok=True)
        raise AlearnError(
            f"The exported {path.name} differs from the surrogate by {worst:.2g} standard deviations of an output (at most {TOLERANCE:g} "
            "is allowed) and was removed; export the other format, and report this."
        )
    return worst


def _card(directory: Path, loaded: Loaded, verified: Mapping[str, float], licence: str) -> Card:
    config = Config.load(directory / "config.yaml")
    with Ledger.open(directory, readonly=True) as ledger:
        members = ledger.members()
        measured = [e for _, e in ledger.events() if isinstance(e, ev.Evaluated)]
        digest, samples = hashlib.sha256(), 0
        learned = sorted({name.partition("[")[0] for name in loaded.learned}, key=loaded.learned.index)
        for sample in ledger.samples(fields=learned):
            samples += 1
            digest.update(f"{sample.member} {sample.step} {sample.t!r}".encode())
            for name in learned:
                digest.update(np.ascontiguousarray(sample.values[name]).tobytes())
    states = {s.value: n for s in MemberState if (n := sum(m.state is s for m in members))}
    last = measured[-1] if measured else None
    return Card(
        study=config.study,
        inputs=[{"name": p.name, **p.to_config(), **({"labels": list(p.labels)} if p.labels else {})} for p in loaded.space.parameters],
        t=[float(loaded.t[0]), float(loaded.t[-1])] if loaded.surrogate.over_t else None,
        outputs=_outputs(loaded),
        surrogate={"name": config.surrogate.name, **loaded.surrogate.options(), **({"part": dict(loaded.part)} if loaded.part else {})},
        data={"members": states, "samples": samples, "sha256": digest.hexdigest()},
        error=_numbers(loaded.part.get("error", last.error if last is not None else {})),
        calibration=_numbers(last.calibration if last is not None and not loaded.part else {}),
        failures=_failures(loaded.space, [dict(m.parameters) for m in members if m.state is MemberState.FAILED]),
        verified=dict(verified),
        licence=licence,
        versions=versions(),
        exported_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )


def _outputs(loaded: Loaded) -> list[dict[str, Any]]:
    """Name and unit of every output; of a whole field the shape, and the columns of mean and standard deviation that hold its cells."""
    found: list[dict[str, Any]] = [{"name": n, "unit": loaded.units.get(n.partition("[")[0], "")} for n in loaded.singles]
    at = len(found)
    for f in loaded.fields:
        found.append({"name": f.name, "unit": f.unit, "shape": list(f.shape), "columns": [at, at + len(f.centre)]})
        at += len(f.centre)
    return found


def _numbers(found: Mapping[str, float]) -> dict[str, float]:
    return {k: float(v) for k, v in found.items() if math.isfinite(v)}


def _failures(space: Space, points: list[dict[str, Any]]) -> dict[str, Any]:
    """How many members failed, between which ends of every number, and the first of them."""
    if not points:
        return {"members": 0}
    ends = {n: [min(p[n] for p in points), max(p[n] for p in points)] for n in space.names if not space[n].labels}
    return {"members": len(points), "between": ends, "points": points[:SHOWN_FAILURES]}


def _pictures(directory: Path, to: Path) -> list[str]:
    from alearn.report.map_figures import map_figure
    from alearn.report.maps import load_maps
    from alearn.report.style import render

    if not (directory / "maps.npz").is_file():
        return []
    maps = load_maps(directory / "maps.npz")
    wanted = {"coverage.png": "distance", "uncertainty.png": "uncertainty"}
    for name, what in wanted.items():
        (to / name).write_bytes(render(map_figure(maps, what), dpi=120))
    return list(wanted)


def _labels(labels: Sequence[Any]) -> str:
    """Which position stands for which label."""
    shown = ", ".join(f"{i} = {v}" for i, v in enumerate(labels[:SHOWN_LABELS]))
    return shown if len(labels) <= SHOWN_LABELS else f"{shown}, … ({len(labels)} in all, in card.json)"


def card_text(card: Card, pictures: list[str]) -> str:
    """The card as Markdown."""
    lines = [f"# Surrogate of the study '{card.study}'", "", "## Inputs", "", "| parameter | unit | range |", "|---|---|---|"]
    for spec in card.inputs:
        box = _labels(spec["labels"]) if "labels" in spec else f"{spec['low']:g} to {spec['high']:g}"
        kind = "".join(f", {word}" for word in (spec.get("scale"), "whole numbers" if spec.get("integer") else None) if word)
        lines.append(f"| {spec['name']} | {spec.get('unit', '')} | {box}{kind} |")
    if card.t is not None:
        lines.append(f"| t | | {card.t[0]:g} to {card.t[1]:g} |")
    lines += ["", "Outside these ranges it is a guess.", "", "## Outputs", ""]
    for o in card.outputs:
        where = ""
        if "shape" in o:
            where = f", a field of {' x '.join(map(str, o['shape']))} cells in columns {o['columns'][0]} to {o['columns'][1] - 1}"
        lines.append(f"- {o['name']}" + (f" [{o['unit']}]" if o["unit"] else "") + f": mean and standard deviation{where}")
    data = card.data
    states = ", ".join(f"{n} {state}" for state, n in data["members"].items())
    lines += ["", "## Learned from", "", f"{data['samples']:,} time steps of simulations ({states}); SHA-256 `{data['sha256']}`.", ""]
    lines += ["## How good it is", ""]
    if card.error:
        figures = ", ".join(f"{k} {v:.3g}" for k, v in card.error.items() if k != "n_test" and not k.startswith("relative"))
        n = f"{card.error['n_test']:.0f} " if "n_test" in card.error else ""
        lines.append(f"Error on {n}test members, in units of each output's standard deviation: {figures}.")
        if "relative_l2" in card.error:
            lines.append(
                f"Relative L2 error of the whole fields: {card.error['relative_l2']:.3g} in the mean, "
                f"{card.error['relative_l2_max']:.3g} at the most."
            )
    else:
        lines.append("It was measured on no test set.")
    if "coverage95" in card.calibration:
        lines.append(f"The 95 % interval held {100 * card.calibration['coverage95']:.1f} % of the test values.")
    lines += [f"![{Path(p).stem}]({p})" for p in pictures]
    lines += ["", "## Where the simulation failed", ""]
    if card.failures["members"]:
        ends = ", ".join(f"{n} between {a:g} and {b:g}" for n, (a, b) in card.failures["between"].items())
        lines.append(f"{card.failures['members']} members failed, {ends}; the first of them are in card.json.")
    else:
        lines.append("No member failed.")
    lines += ["", "## Files", ""]
    lines += [
        f"- `{name}`: differs from the original by at most {worst:.1g} of an output's standard deviation"
        for name, worst in card.verified.items()
    ]
    lines += [
        "",
        f"Licence: {card.licence or 'not stated'}. Exported {card.exported_at} with "
        + ", ".join(f"{k} {v}" for k, v in card.versions.items())
        + ".",
    ]
    return "\n".join(lines) + "\n"
