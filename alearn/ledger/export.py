"""The archive in other people's formats: Zarr or netCDF, written block by block so that memory stays bounded."""

from __future__ import annotations

import importlib
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from alearn.errors import ConfigError, MissingDependency, UnknownName

if TYPE_CHECKING:
    import xarray as xr

FORMATS = ("zarr", "netcdf")
BLOCK_BYTES = 32 << 20
"""What is read and written at a time, or one time step if that is more."""
CHUNK_BYTES = 4 << 20


def export_archive(
    directory: Path | str,
    to: str,
    target: Path | str,
    *,
    box: Mapping[str, Any] | None = None,
    members: Sequence[str] | None = None,
    fields: Sequence[str] | None = None,
    decode: bool = True,
) -> Path:
    """Copy a study's samples into a Zarr store or a netCDF file that xarray, and anything else, opens; also while it runs.

    What was stored when the export began is written; every checksum is verified on the way. The target appears under its
    name only when it is whole.

    Args:
        directory: the study directory.
        to: "zarr" (a directory, Zarr 3) or "netcdf" (a netCDF-4 file, which is HDF5).
        target: what to write.
        box: see ``open_archive``.
        members: see ``open_archive``.
        fields: see ``open_archive``.
        decode: undo the study's codecs, so that other programs find the fields themselves; False copies what is stored.

    Returns:
        The target.

    Raises:
        UnknownName: there is no such format, parameter, member or field.
        MissingDependency: the format's package is not installed.
        ConfigError: the target is there already, or nothing is selected.
        LedgerError: there is no study.
    """
    if to not in FORMATS:
        raise UnknownName("format to export to", to, FORMATS)
    packages = {"zarr": ("zarr",), "netcdf": ("h5netcdf", "h5py")}[to]
    modules = [_load(name, to) for name in packages]
    target = Path(target)
    if target.exists():
        raise ConfigError(f"{target} is there already; remove it or choose another name.")
    from alearn.ledger.dataset import open_archive

    dataset = open_archive(directory, box=box, members=members, fields=fields, decode=decode)
    if not dataset.sizes.get("member"):
        raise ConfigError(f"There is nothing to export from {directory}: no member with samples is selected.")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    _remove(partial)
    try:
        _to_zarr(dataset, partial, *modules) if to == "zarr" else _to_netcdf(dataset, partial, *modules)
        partial.rename(target)
    finally:
        _remove(partial)
    return target


def _load(package: str, to: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise MissingDependency(package, f"Exporting the archive to {to}", "archive") from error


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def _to_zarr(dataset: xr.Dataset, target: Path, zarr: Any) -> None:
    group = zarr.create_group(str(target), zarr_format=3, attributes=_attributes(dataset))
    for name, variable in dataset.variables.items():
        text = variable.dtype.kind in "US"
        array = group.create_array(
            str(name),
            shape=variable.shape,
            chunks=_chunks(variable),
            dtype=str if text else variable.dtype,
            fill_value="" if text else np.nan if variable.dtype.kind == "f" else 0,
            dimension_names=[str(d) for d in variable.dims],
            attributes=_variable_attributes(dataset, str(name)),
        )
        for block in _blocks(variable):
            values = np.asarray(variable[block].values)
            array[block] = values.astype(object) if text else values


def _to_netcdf(dataset: xr.Dataset, target: Path, h5netcdf: Any, h5py: Any) -> None:
    with h5netcdf.File(target, "w") as file:
        file.attrs.update(_attributes(dataset))
        file.dimensions = {str(name): size for name, size in dataset.sizes.items()}
        for name, variable in dataset.variables.items():
            text, kind = variable.dtype.kind in "US", variable.dtype.kind
            # netCDF has neither a truth value nor half precision; xarray understands the attribute dtype
            stored = np.dtype({"bool": "int8", "float16": "float32"}.get(variable.dtype.name, variable.dtype.str))
            there = file.create_variable(
                str(name),
                tuple(map(str, variable.dims)),
                dtype=h5py.string_dtype() if text else stored,
                chunks=_chunks(variable),
                fillvalue=np.nan if kind == "f" else None,
            )
            there.attrs.update(_variable_attributes(dataset, str(name)))
            if kind == "b":
                there.attrs["dtype"] = "bool"
            for block in _blocks(variable):
                values = np.asarray(variable[block].values)
                there[block] = values.astype(object) if text else np.asarray(values, dtype=stored)


def _attributes(dataset: xr.Dataset) -> dict[str, str | int]:
    return {str(name): value for name, value in dataset.attrs.items()}


def _variable_attributes(dataset: xr.Dataset, name: str) -> dict[str, str]:
    """Units and the like; fields also name the coordinates that are no dimensions, as the CF conventions do."""
    own = {str(key): str(value) for key, value in dataset.variables[name].attrs.items()}
    if name not in dataset.data_vars:
        return own
    return own | {"coordinates": " ".join(str(c) for c in dataset.coords if c not in dataset.dims)}


def _chunks(variable: xr.Variable) -> tuple[int, ...]:
    """One member and as many whole time steps as fit; coordinates in one piece."""
    shape = tuple(max(1, int(n)) for n in variable.shape)
    if len(shape) < 2:
        return shape
    step = variable.dtype.itemsize * math.prod(shape[2:])
    return (1, max(1, min(shape[1], CHUNK_BYTES // max(1, step))), *shape[2:])


def _blocks(variable: xr.Variable) -> Iterator[tuple[slice, ...]]:
    """Slices of at most ``BLOCK_BYTES``, whole chunks each, that together are the variable."""
    shape = variable.shape
    if len(shape) < 2:
        if math.prod(shape):
            yield tuple(slice(0, n) for n in shape)
        return
    _, steps, *rest = _chunks(variable)
    chunk = variable.dtype.itemsize * steps * math.prod(rest)
    if not math.prod(shape):
        return
    along = steps * max(1, BLOCK_BYTES // max(1, chunk))
    for member in range(shape[0]):
        for start in range(0, shape[1], along):
            yield (slice(member, member + 1), slice(start, min(start + along, shape[1])), *(slice(0, n) for n in rest))


def parse_box(words: Sequence[str]) -> dict[str, Any]:
    """``NAME=LOW:HIGH`` or ``NAME=VALUE`` for each parameter, as the command line has it.

    Raises:
        ConfigError: a word has another form.
    """
    box: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        low, colon, high = text.partition(":")
        try:
            if not name or not equals or not text:
                raise ValueError
            box[name] = (float(low), float(high)) if colon else _value(text)
        except ValueError:
            raise ConfigError(f"The box '{word}' cannot be read; write NAME=LOW:HIGH or NAME=VALUE.") from None
    return box


def _value(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def summary(target: Path, to: str) -> str:
    """One line about what an export wrote."""
    import xarray as xr

    with xr.open_zarr(target, chunks=None, consolidated=False) if to == "zarr" else xr.open_dataset(target, engine="h5netcdf") as data:
        members, samples = data.sizes["member"], int(data["stored"].sum())
        fields = len(data.data_vars) - 1
    files = [f for f in target.rglob("*") if f.is_file()] if target.is_dir() else [target]
    size = sum(f.stat().st_size for f in files) / 1e6
    return f"{target}: {_plural(members, 'member')}, {_plural(samples, 'sample')} of {_plural(fields, 'field')}, {size:.1f} MB"


def _plural(n: int, word: str) -> str:
    return f"{n} {word}{'' if n == 1 else 's'}"
