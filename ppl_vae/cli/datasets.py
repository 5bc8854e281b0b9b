"""The data of a configuration, for training and evaluation."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ppl_vae.cli.errors import UsageError
from ppl_vae.data import LOADERS, Dataset, SemiSupervised, from_file, from_folder, load
from ppl_vae.data.value_transform import converted, prepare
from ppl_vae.errors import quoted, reason
from ppl_vae.files import opened
from ppl_vae.models import Pair
from ppl_vae.spec import DataSpec, FitSpec, entries


@dataclass(frozen=True)
class Split:
    """Training data, and validation data if any."""

    train: Dataset
    validation: Dataset | None


def loaded(settings: DataSpec, split: str) -> Dataset:
    """Return the training or the test data, binarised if the settings say so."""
    of_file = {e.name: getattr(settings, e.name) for e in entries("data") if e.load}
    dataset = load(settings.name, split=split, seed=settings.seed, **of_file)
    return _binarised(dataset, settings)


def checksum(name: str) -> str | None:
    """Return the SHA-256 of a file, or of the files in a folder; None of named data."""
    path = Path(name).expanduser()
    if name in LOADERS or not path.exists():
        return None
    found = hashlib.sha256()
    files = sorted(f for f in path.rglob("*") if f.is_file()) if path.is_dir() else [path]
    for file in files:
        if file is not path:
            found.update(str(file.relative_to(path)).encode())
        with opened(file) as binary:
            while part := binary.read(2**20):
                found.update(part)
    return found.hexdigest()


def whole(settings: DataSpec, split: str | None, typed: Collection[str]) -> Dataset:
    """Return all of a file or folder, or a split of named data, as `loaded` does.

    Of the settings that were not ``typed``, those of another kind of data are ignored.
    """
    name, path = settings.name, Path(settings.name).expanduser()
    of_file = {e.name: getattr(settings, e.name) for e in entries("data") if e.load}
    if name not in LOADERS and split is not None:
        raise UsageError(f"--split {split}: {quoted(name)} has no splits; leave it out")
    reader: Callable[..., Dataset] = partial(load, name, split=split or "test")
    used = {"root"}
    if name not in LOADERS and path.is_dir():
        reader, used = partial(from_folder, path), {"grey", "size"}
    elif name not in LOADERS and path.suffix.lower() in (".npy", ".npz"):
        reader, used = partial(from_file, path), {"scale", "missing", "channels"}
        used |= {"memory_map"} if path.suffix.lower() == ".npy" else {"x", "y", "mask"}
    for option in typed:
        if option not in used:
            raise UsageError(f"--data.{option} does not apply to DATA {quoted(name)}; leave it out")
    given = {n: v for n, v in of_file.items() if v is not None and n in used}
    dataset = reader(**given)
    if settings.classes is not None and dataset.labels is not None and name not in LOADERS:
        dataset = reader(**given, classes=settings.classes)
    dataset = _binarised(dataset, settings)
    return dataset.dequantised(settings.seed) if settings.dequantise else dataset


def _binarised(dataset: Dataset, settings: DataSpec) -> Dataset:
    if settings.binarise == "static":
        return dataset.binarised(settings.seed)
    if settings.binarise == "threshold":
        x = dataset.tensor(binarise="threshold", flat=False)
        return converted(dataset, x, "0 and 1 by a threshold of 1/2")
    return dataset


def held_out(dataset: Dataset, settings: DataSpec) -> Split:
    """Split training data into training and validation data."""
    if settings.validation == 0:
        return Split(dataset, None)
    return Split(*dataset.split(settings.validation, settings.seed))


def for_training(
    pair: Pair,
    split: Split,
    labelled: Tensor | None,
    settings: DataSpec,
    fit: FitSpec,
    device: torch.device,
) -> dict[str, Any]:
    """Return the arguments ``data``, ``batch_size`` and ``validation`` of ``fit``."""
    train, transform = prepare(pair, split.train)
    validation = split.validation
    noisy = settings.dequantise
    if noisy and pair.observation.is_discrete:
        raise UsageError(
            f"data.dequantise adds noise for a density, and {pair.observation.likelihood} is a "
            f"mass; leave it out, or give another likelihood"
        )
    if noisy and validation is not None:
        validation = validation.dequantised(settings.seed)
    if labelled is None and not noisy:
        return {"data": train, "batch_size": fit.batch_size, "validation": validation}
    drawn: dict[str, Any] = {
        "batch_size": fit.batch_size,
        "binarise": "none" if noisy else transform.binarise,
        "dequantise": noisy,
        "flat": transform.flat,
        "seed": fit.seed,
    }
    batches: Any
    if labelled is None:
        near = train if train.is_memory_mapped else train.to(device)
        batches = near.batches(**drawn)
    else:
        batches = SemiSupervised(
            train,
            labelled,
            labelled_batch_size=settings.labelled_batch_size,
            labelled_weight=settings.labelled_weight,
            unlabelled_weight=settings.unlabelled_weight,
            **drawn,
        ).to(device)
    return {"data": batches, "batch_size": None, "validation": validation}


def check_all_labelled(data: Dataset, name: str) -> None:
    """Raise UsageError unless every datum has its label."""
    if not data.labelled.all():
        raise UsageError(
            f"a {name} needs the label of every datum, and {int((~data.labelled).sum())} of "
            f"{len(data)} in {quoted(data.name)} have none; remove those, or use them without "
            f"their labels: ppl-vae fit ssvae"
        )


def check_labels(data: Dataset, settings: DataSpec) -> None:
    """Raise UsageError if labels are to be shown and there are none."""
    if settings.labels is not None and not data.labelled.any():
        raise UsageError(
            f"data.labels={settings.labels}: {data!r} has no labels; give it some, y in a .npz "
            f"file, -1 where there is none, or data.labels null to train without"
        )


def shown(train: Dataset, settings: DataSpec) -> Tensor | None:
    """Return the items whose label a semi-supervised pair sees; None for a single stream."""
    labels, known = settings.labels, train.labelled
    if labels is None:
        return None if known.all() or not known.any() else known.nonzero().flatten()
    check_labels(train, settings)
    assert train.labels is not None
    classes = len(train.labels[known].unique())
    if labels < classes or labels % classes:
        raise UsageError(
            f"data.labels must be a multiple of {classes}, the number of classes, as many of each, "
            f"got {labels}; give {max(1, round(labels / classes)) * classes}"
        )
    return train.labelled_subset(labels // classes, settings.seed, fewer=not known.all())


def labels_in_words(train: Dataset, labelled: Tensor) -> str:
    """Describe which labels are shown."""
    assert train.labels is not None
    counts = train.labels[labelled].bincount(minlength=train.num_classes).tolist()
    names = train.classes or [f"class {number}" for number in range(len(counts))]
    each = ", ".join(f"{name} {count}" for name, count in zip(names, counts, strict=True))
    known = int(train.labelled.sum())
    of = f"{len(labelled)} of {len(train)} training data"
    if len(labelled) < known:
        of += f", of {known} that have one"
    return f"labels: shown for {of} ({reason(each)})"
