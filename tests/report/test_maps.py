from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from alearn.errors import ConfigError, LedgerCorrupt
from alearn.report import Axis, build_maps, load_maps, save_maps
from alearn.report.maps import MOST_PARAMETERS, density, interpolate, latin, nearest_distance

TWO = (Axis("F", 0.01, 0.08, "1/s"), Axis("k", 0.03, 0.07))


def cube(n: int, d: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((n, d))


def test_distance_is_zero_at_members_and_brute_force_elsewhere() -> None:
    x, points = cube(50, 3), cube(7, 3, 1)
    brute = [min(math.dist(a, b) for b in points) for a in x]
    assert nearest_distance(x, points) == pytest.approx(brute, abs=1e-7)
    assert nearest_distance(points, points) == pytest.approx(0.0, abs=1e-7)


def test_rows_follow_the_second_parameter() -> None:
    maps = build_maps(TWO, np.asarray([[0.9, 0.1]]), uncertainty=lambda x: x[:, 1], resolution=10)
    assert maps.uncertainty is not None
    assert maps.distance is not None
    assert maps.uncertainty.shape == (1, 10, 10)
    assert maps.uncertainty[0, :, 0] == pytest.approx(maps.centres)
    row, column = np.unravel_index(np.argmin(maps.distance[0]), (10, 10))
    assert (row, column) in {(0, 8), (0, 9), (1, 8), (1, 9)}


def test_density_integrates_to_one_and_is_one_for_a_uniform_design() -> None:
    centres = (np.arange(80) + 0.5) / 80
    points = cube(60, 2)
    assert density(centres, points).mean() == pytest.approx(1.0, abs=0.02)
    assert density(centres, points[:, :1]).mean() == pytest.approx(1.0, abs=0.02)
    side = (np.arange(45) + 0.5) / 45
    lattice = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    assert density(centres, lattice)[10:-10, 10:-10] == pytest.approx(1.0, abs=0.12)
    crowd = density(centres, np.asarray([[0.8, 0.2]] * 30) + 0.01 * cube(30, 2))
    row, column = np.unravel_index(np.argmax(crowd), crowd.shape)
    assert centres[column] == pytest.approx(0.8, abs=0.03)
    assert centres[row] == pytest.approx(0.2, abs=0.03)


@pytest.mark.parametrize("d", [1, 2, 5])
@pytest.mark.parametrize("count", [1, 2, 8, 40])
def test_interpolation_is_exact_at_the_points_and_stays_in_range(d: int, count: int) -> None:
    points = cube(count, d)
    values = np.exp(cube(count, 1, 2)[:, 0] * 5)
    assert interpolate(points, points, values) == pytest.approx(values, rel=1e-3)
    between = interpolate(cube(300, d, 3), points, values)
    assert np.isfinite(between).all()
    assert between.min() >= values.min() - 1e-9
    assert between.max() <= values.max() + 1e-9


def test_points_at_the_same_place_do_not_break_interpolation() -> None:
    assert interpolate(np.full((1, 2), 0.5), np.full((30, 2), 0.5), np.full(30, 3.0)) == pytest.approx(3.0)
    ring = np.asarray([[math.cos(a), math.sin(a)] for a in np.linspace(0, 6, 30)])
    assert interpolate(np.zeros((1, 2)), ring, np.full(30, 2.0)) == pytest.approx(2.0)


def test_more_than_two_parameters_are_averaged_or_cut() -> None:
    axes = tuple(Axis(f"p{i}") for i in range(4))
    seen: list[int] = []

    def score(x: np.ndarray) -> np.ndarray:
        seen.append(len(x))
        return x[:, 3]

    mean = build_maps(axes, cube(9, 4), uncertainty=score, resolution=12, spread=64)
    assert mean.kind == "mean"
    assert mean.pairs == ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))
    assert mean.uncertainty is not None
    assert mean.uncertainty[0] == pytest.approx(0.5, abs=0.03)
    assert mean.uncertainty[2, :, 5] == pytest.approx(mean.centres)
    assert max(seen) <= 4096
    cut = build_maps(axes, cube(9, 4), uncertainty=lambda x: x[:, 3], kind="slice", at=[0, 0, 0, 0.25], resolution=6)
    assert cut.uncertainty is not None
    assert cut.uncertainty[0] == pytest.approx(0.25)


@pytest.mark.parametrize("d", [1, 2, 3])
def test_maps_survive_the_disk_without_pickle(tmp_path: Path, d: int) -> None:
    axes = (Axis("häufig $x$", 0.1, 10.0, "µm", log=True), Axis("kind", labels=("a", "b")), Axis("z"))[:d]
    maps = build_maps(axes, cube(5, d), ["done", "killed", "failed", "done", "lost"], uncertainty=lambda x: x[:, 0], test=cube(4, d, 1),
                      test_error=np.asarray([0.1, math.nan, 0.3, 0.2]), resolution=8)  # fmt: skip
    path = save_maps(tmp_path, maps)
    assert path == tmp_path / "maps.npz"
    assert [p.name for p in tmp_path.iterdir()] == ["maps.npz"]
    back = load_maps(tmp_path)
    assert back.axes == axes
    assert back.pairs == maps.pairs
    assert back.kind == maps.kind
    assert list(back.states) == ["done", "killed", "failed", "done", "lost"]
    for name in ("distance", "density", "uncertainty", "error", "members", "test", "test_error", "centres"):
        np.testing.assert_array_equal(getattr(back, name), getattr(maps, name))
    with np.load(path, allow_pickle=False) as raw:
        assert raw["values"][0] == pytest.approx(10 ** (-1 + 2 * maps.centres))


def test_maps_of_nothing(tmp_path: Path) -> None:
    maps = build_maps(TWO, np.zeros((0, 2)))
    assert (maps.distance, maps.density, maps.uncertainty, maps.error) == (None, None, None, None)
    assert load_maps(save_maps(tmp_path / "m.npz", maps)).distance is None


def test_bad_input_gets_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"have shape \(3, 5\)"):
        build_maps(TWO, cube(3, 5))
    with pytest.raises(ConfigError, match="1 states"):
        build_maps(TWO, cube(3, 2), ["done"])
    with pytest.raises(ConfigError, match="one error a member"):
        build_maps(TWO, cube(3, 2), test=cube(3, 2))
    with pytest.raises(ConfigError, match="at least one parameter"):
        build_maps((), cube(3, 2))
    with pytest.raises(ConfigError, match="'mean' or 'slice'"):
        build_maps(TWO, cube(3, 2), kind="cut")
    with pytest.raises(ConfigError, match="one a point"):
        build_maps(TWO, cube(3, 2), uncertainty=lambda x: np.zeros(3))
    with pytest.raises(ConfigError, match="There are no maps"):
        load_maps(tmp_path)
    (tmp_path / "maps.npz").write_bytes(b"PK\x03\x04garbage")
    with pytest.raises(LedgerCorrupt, match="does not hold maps"):
        load_maps(tmp_path)
    np.savez(tmp_path / "maps.npz", a=np.zeros(1))
    with pytest.raises(LedgerCorrupt, match="does not hold maps"):
        load_maps(tmp_path)


def test_of_very_many_parameters_the_ones_asked_for_are_shown(tmp_path):
    axes = tuple(Axis(f"c{i}") for i in range(100))
    points = latin(30, 100)
    maps = build_maps(axes, points, uncertainty=lambda x: x[:, 77], shown=[77, 3])
    assert [a.name for a in maps.axes] == ["c3", "c77"]
    assert maps.pairs == ((0, 1),)
    assert np.array_equal(maps.members, points[:, [3, 77]])
    assert maps.uncertainty[0][:, 5] == pytest.approx(maps.centres)  # rows follow the second parameter
    assert build_maps(axes, points).d == MOST_PARAMETERS
    again = load_maps(save_maps(tmp_path, maps))
    assert (again.parameters, again.axes) == (100, maps.axes)
