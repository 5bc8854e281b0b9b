"""``ppl-vae encode``: the latents of data under a trained pair, as a file."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyro
from torch import Tensor

from ppl_vae import io
from ppl_vae.cli import datasets
from ppl_vae.cli.arguments import OF_FILE
from ppl_vae.cli.configuration import FILE, is_pair, read, section
from ppl_vae.cli.errors import SUCCESS, UsageError
from ppl_vae.cli.flags import parsed_value
from ppl_vae.cli.output import show
from ppl_vae.cli.output_file import output_file
from ppl_vae.cli.runs import Run, device_of
from ppl_vae.data import Dataset
from ppl_vae.io.atomic import replaced_file
from ppl_vae.models import ConditionalVAE, Pair
from ppl_vae.spec import DataSpec, entries

SUFFIXES = (".csv", ".npy", ".npz")


def encode(flags: Any) -> int:
    """Encode data by the pair of a run, and return the exit code."""
    run = Run(Path(flags.run).expanduser())
    if run.is_table:
        from ppl_vae.cli import tables  # slow to import

        file = _file(run, flags, tables.sources(flags.run))
        return _write(file, {"z": tables.latents(flags)}, None, "means of the posterior")
    is_run = not _holds_pair(run.folder)
    settings = run.configuration.data if is_run else DataSpec()
    file = _file(run, flags, run.sources if is_run else ())
    pair: Any = run.pair(flags.device) if is_run else _saved(run.folder, flags.device)
    if flags.samples is not None and not isinstance(pair, Pair):
        raise UsageError(
            f"--samples draws from a guide, and a {type(pair).__name__} has none; leave it out for "
            f"the means"
        )
    data = _data(run, is_run, settings, flags)
    _check(pair, data)
    pyro.set_rng_seed(flags.seed)
    latents = _means(pair, data) if flags.samples is None else _draws(pair, data, flags)
    if file.suffix.lower() == ".npy" and len(latents) > 1:
        raise UsageError(
            f"{flags.out}: there are {len(latents)} latents, {', '.join(latents)}, and a .npy file "
            f"holds one array; give a .npz or a .csv file"
        )
    what = "means of the posterior" if flags.samples is None else "draws from the posterior"
    return _write(file, latents, _labels(data, flags, file), what)


def _write(
    file: Path, latents: Mapping[str, np.ndarray], labels: np.ndarray | None, what: str
) -> int:
    """Write latents in the format of the suffix, say so, and return the exit code."""
    suffix = file.suffix.lower()
    with replaced_file(file) as temporary:
        if suffix == ".csv":
            _as_csv(temporary, latents, labels)
        elif suffix == ".npy":
            (z,) = latents.values()
            with temporary.open("wb") as binary:  # by name, NumPy adds .npy to .NPY
                np.save(binary, z)
        else:
            arrays: dict[str, Any] = dict(latents) if labels is None else {**latents, "y": labels}
            with temporary.open("wb") as binary:
                np.savez(binary, **arrays)
    shapes = ", ".join(f"{name} {z.shape}" for name, z in latents.items())
    show(f"latents: {file}, {what}, {shapes}")
    return SUCCESS


def _file(run: Run, flags: Any, sources: Sequence[str]) -> Path:
    """Return the file to write, which is none of the data's, nor of those of the run."""
    if flags.out is None:
        return run.folder / "latents.npz"
    file = output_file("--out", flags.out, SUFFIXES, run.folder, (flags.data, *sources))
    if flags.labels and file.suffix.lower() == ".npy":
        raise UsageError("--labels: a .npy file holds one array; give a .npz or a .csv file")
    return file


def _holds_pair(folder: Path) -> bool:
    return (folder / FILE).is_file() and is_pair(read(folder / FILE))


def _saved(folder: Path, device: str) -> Any:
    pair = io.load(folder, device=device_of(device)).eval()
    if not hasattr(pair, "encode"):
        raise UsageError(f"RUN: {folder} holds a {type(pair).__name__}, which encodes no data")
    return pair


def _data(run: Run, is_run: bool, settings: DataSpec, flags: Any) -> Dataset:
    """Return the data that were named, with the settings of the run unless typed."""
    typed = {
        name: parsed_value(text) for name in OF_FILE if (text := getattr(flags, name)) is not None
    }
    if flags.data is None:
        if not is_run:
            raise UsageError(f"DATA is missing: {run.folder} is a saved pair, without data")
        for name in typed:
            raise UsageError(f"--data.{name} is for DATA, which was not given; leave it out")
        return run.data(flags.split or "test")
    inherited = {e.name: getattr(settings, e.name) for e in entries("data") if e.name not in typed}
    chosen = section("data", {**inherited, **typed, "name": flags.data})
    return datasets.whole(chosen, flags.split, typed)


def _check(pair: Any, data: Dataset) -> None:
    """Raise an error if the data are incompatible with a pair, or lack its conditions."""
    if isinstance(pair, ConditionalVAE):
        if pair.num_classes is None:
            raise UsageError(
                "encode: this ConditionalVAE is conditioned on vectors, which a file cannot hold; "
                "use ppl_vae.load(run / 'model').encode(x, c) in Python"
            )
        if not data.labelled.all():
            raise UsageError(
                f"encode: a ConditionalVAE needs the label of every datum, and "
                f"{int((~data.labelled).sum())} of {len(data)} in {data.name!r} have none; give y "
                f"in a .npz file, or subfolders of images"
            )
    if hasattr(pair, "check"):
        pair.check(data)


def _means(pair: Any, data: Dataset) -> dict[str, np.ndarray]:
    found = pair.encode(data)
    if isinstance(found, Tensor):
        return {"z": found.cpu().numpy()}
    return {f"z{i}": z.cpu().numpy() for i, z in enumerate(found, start=1)}


def _draws(pair: Pair, data: Dataset, flags: Any) -> dict[str, np.ndarray]:
    from ppl_vae.evaluation.latents import draw_latents  # slow to import

    drawn = draw_latents("encode", pair, data, flags.samples, seed=flags.seed)
    return {name: z.cpu().numpy() for name, z in drawn.items()}


def _labels(data: Dataset, flags: Any, file: Path) -> np.ndarray | None:
    """Return the labels to write: names if the classes have names, empty for none; else numbers."""
    if not flags.labels:
        return None
    if data.labels is None:
        raise UsageError(f"--labels: {data.name!r} has no labels; leave it out")
    numbers = data.labels.cpu().numpy()
    if data.classes is None:
        return numbers
    return np.array([*data.classes, ""])[numbers]  # -1 is the last


def _as_csv(file: Path, latents: Mapping[str, np.ndarray], labels: np.ndarray | None) -> None:
    """Write a row for each datum, or for each draw with the numbers of both, from 0."""
    several = len(latents) > 1
    header = [
        f"{name}_{i + 1}" if several else f"{name}{i + 1}"
        for name, z in latents.items()
        for i in range(z.shape[-1])
    ]
    z = np.concatenate(list(latents.values()), -1)
    draws = z if z.ndim == 3 else z[None]
    numbered = z.ndim == 3
    with file.open("w", newline="", encoding="utf-8") as text:
        table = csv.writer(text)
        extra = [] if labels is None else ["label"]
        table.writerow([*(("row", "draw") if numbered else ()), *header, *extra])
        for row in range(draws.shape[1]):
            label = [] if labels is None else [labels[row]]
            for draw, values in enumerate(draws[:, row]):
                number = [row, draw] if numbered else []
                # As text each number has the digits of its dtype.
                table.writerow([*number, *values.astype(str), *label])
