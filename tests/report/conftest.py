"""A synthetic study of each size, as the study room would hand it over."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from alearn.events import Evaluated
from alearn.report import (
    ArmData,
    Axis,
    Calibration,
    CalibrationSummary,
    Cost,
    ErrorSummary,
    KillAudit,
    MemberCounts,
    ReportData,
    SampleCounts,
    Snapshot2D,
    Status,
    Trajectory,
    build_maps,
)
from alearn.types import Member, MemberState, member_id


def ridge(x: np.ndarray) -> np.ndarray:
    """A thin crescent of something to learn in the unit cube."""
    return 0.01 + np.exp(-60 * (x[:, 0] - 0.25 - 0.5 * x[:, -1] ** 2) ** 2)


def make_members(d: int, n: int, crowd: bool, seed: int, begin: float = 1e9) -> list[Member]:
    rng = np.random.default_rng(seed)
    names = [f"p{i}" for i in range(d)] if d != 2 else ["F", "k"]
    out = []
    clock = [begin, begin]
    for i in range(n):
        pool = rng.random((24 if crowd and i > n // 4 else 1, d))
        x = pool[int(np.argmax(ridge(pool)))]
        killed = crowd and i > n // 3 and rng.random() < 0.3
        state = MemberState.KILLED if killed else MemberState.FAILED if i % 17 == 11 else MemberState.DONE
        reason = {
            MemberState.KILLED: "nothing left to teach: its remaining steps are worth 0.04 of the best candidate's"
            if i % 5
            else "diverging: |v| doubled 6 times in 10 steps",
            MemberState.FAILED: "FloatingPointError: v became NaN at step 7",
            MemberState.DONE: "",
        }[state]
        slot = int(np.argmin(clock))
        length = (0.4 if killed else 1.0) * (0.8 + 0.3 * rng.random())
        start, clock[slot] = clock[slot], clock[slot] + length + 0.05
        out.append(
            Member(
                id=member_id(i),
                parameters={name: float(v) for name, v in zip(names, x, strict=True)},
                x=tuple(float(v) for v in x),
                state=state,
                attempt=1,
                reason=reason,
                steps=int(40 * (0.4 if killed else 1)),
                queued_at=start - 0.2,
                started_at=start,
                ended_at=start + length,
                core_s=length,
            )
        )
    return out


def make_evaluations(n: int, final: float, seed: int, steps: int = 40, begin: float = 1e9) -> list[Evaluated]:
    rng = np.random.default_rng(seed)
    out = []
    for k in range(1, n + 1):
        mean = final * (n / k) ** 0.8 * float(np.exp(0.05 * rng.standard_normal()) if k < n else 1)
        error = {"mean": mean, "p95": 3.2 * mean, "p99": 5.1 * mean, "max": 7.5 * mean, "n_test": 64}
        out.append(
            Evaluated(at=begin + 2.0 * k, simulated_steps=steps * 4 * k, members=4 * k, error=error, prequential={"mean": 1.3 * mean})
        )
    return out


def make_arm(name: str, d: int, n: int = 48, final: float = 0.012, seed: int = 0, **changes: Any) -> ArmData:
    crowd = name == "active"
    members = make_members(d, n, crowd, seed)
    log = d == 2
    axes = (
        (Axis("F", 0.01, 0.08, "1/s"), Axis("k", 0.03, 0.07))
        if d == 2
        else tuple(Axis(f"p{i}", 0.1, 10.0, "m" if i == 0 else "", log=i == 1 and not log) for i in range(d))
    )
    rng = np.random.default_rng(seed + 1)
    test = rng.random((64, d))
    maps = build_maps(
        axes,
        np.asarray([m.x for m in members if m.steps]),
        [m.state.value for m in members if m.steps],
        uncertainty=lambda x: 0.05 * ridge(x) * (0.6 if crowd else 1.0),
        test=test,
        test_error=ridge(test) * final,
    )
    nominal = np.linspace(0.05, 0.95, 19)
    killed = sum(m.state is MemberState.KILLED for m in members)
    saved, simulated = 24 * killed, sum(m.steps for m in members)
    evaluations = make_evaluations(n // 4, final, seed, 34 if crowd else 40)
    status = Status(
        "gray_scott", "done", name, MemberCounts.of(m.state for m in members), SampleCounts(simulated, simulated, 0), n // 4, 5210,
        ErrorSummary.of(evaluations[-1].error), CalibrationSummary(0.94), Cost(simulated, saved, 41.2),
    )  # fmt: skip
    reasons = {"nothing left to teach": killed - 2, "diverging": 2}
    audit = KillAudit(killed, saved, simulated, reasons, 2, 31, 0.84) if crowd else KillAudit(0, 0, simulated)
    arm = ArmData(
        name, "std_distance" if crowd else "Sobol", members, evaluations, status, maps,
        Calibration(nominal, nominal ** (0.9 if crowd else 1.2), 64 * 40),
        audit,
    )  # fmt: skip
    return replace(arm, **changes)


def spots(F: float, n: int = 64) -> np.ndarray:
    y, x = np.mgrid[0:n, 0:n] / n
    return (
        0.3
        * (np.sin(2 * np.pi * (3 + 60 * F) * x) * np.sin(2 * np.pi * (3 + 60 * F) * y) > 0.2 - 3 * F)
        * np.exp(-4 * ((x - 0.5) ** 2 + (y - 0.5) ** 2))
    )


def make_report(d: int = 2, final: float = 0.012, control_final: float = 0.022) -> ReportData:
    t = np.linspace(0, 4000, 40)
    curves = []
    for i, rate in enumerate((0.001, 0.002, 0.0005)):
        for output, unit in (("v_mean", ""), ("v_std", ""), ("scale", "cells")):
            value = 0.3 * (1 - np.exp(-rate * t)) * (1 + i / 3)
            curves.append(
                Trajectory(f"m000{i}: F = 0.0{i + 3}, k = 0.06", output, t, value, unit, "s", t, value * 1.02, 0.01 + 0.03 * value)
            )
    active = make_arm("active", d, final=final)
    control = make_arm("control", d, final=control_final, seed=5)
    return ReportData(
        study="gray_scott",
        active=active,
        control=control,
        state="done",
        reason="the budget of 48 members is spent",
        simulation="Gray-Scott reaction-diffusion on a 96 x 96 grid",
        surrogate="deep ensemble of 5 over (F, k, t)",
        error_name="relative error",
        trajectories=curves,
        fields=[Snapshot2D(f"m{i:04d}\nF = 0.0{i + 2}, k = 0.06", "v", spots(0.01 * (i + 2))) for i in range(6)],
        config="study: gray_scott\nseed: 7\nspace:\n  F: [0.01, 0.08]\n  k: [0.03, 0.07]\n",
        versions={"alearn": "0.1.0", "torch": "2.13.0", "numpy": "2.4.6"},
        reproduce=["pip install alearn", "alearn run experiment=gray_scott seed=7"],
        seed=7,
        created_at=1.7e9,
    )


@pytest.fixture(scope="session")
def study_data() -> ReportData:
    return make_report()
