"""Datasets held in memory, and batches drawn from them by index.

A `Dataset` keeps the values as they came (one byte per grey pixel) with a ``scale``: the pixel that
a model sees is ``value / scale``. Nothing about the scale is guessed from the content.

Example:
    >>> from ppl_vae import data
    >>> digits = data.load("digits")
    >>> digits
    Dataset('digits', 1437 x (1, 8, 8), torch.uint8 / 16, 10 classes)
    >>> for x, y in digits.batches(500, seed=0):
    ...     print(tuple(x.shape), tuple(y.shape))
    (500, 64) (500,)
    (500, 64) (500,)
    (437, 64) (437,)
"""

from __future__ import annotations

import os
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import cached_property, partial
from http.client import HTTPException
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64, Integer
from torch import Tensor

from ppl_vae.errors import describe, positive_int

BINARISE = ("dynamic", "static", "threshold", "none")
SPLITS = ("train", "test")
IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".tif", ".tiff", ".webp")


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Values and labels in memory. Immutable: every method returns a new dataset.

    Args:
        values: shape ``(N, *event)``, uint8 or floating, images ``(N, channels, height, width)``;
            held, not copied.
        labels: integers 0, 1, ... of shape ``(N,)``, kept as int64; None if there are none.
        name: for messages and reports.
        scale: the value that means 1.0 (white, full ink): 255 for 8-bit images, 1 for 0/1 or for
            real values that are to stay as they are.

    Raises:
        TypeError: the dtype of values or labels cannot be used.
        ValueError: no data; NaN or infinite values; uint8 values above ``scale``; labels of another
            length or negative.
    """

    values: Tensor
    labels: Tensor | None = None
    name: str = "data"
    _: KW_ONLY
    scale: int | float = 1.0

    def __post_init__(self) -> None:
        _check_values(self.values, self.scale)
        if self.labels is not None:
            object.__setattr__(self, "labels", _checked_labels(self.labels, len(self)))

    def __len__(self) -> int:
        return self.values.shape[0]

    def __repr__(self) -> str:
        size = f"{len(self)} x {self.event_shape}, {self.values.dtype} / {self.scale:g}"
        classes = "no labels" if self.labels is None else f"{self.num_classes} classes"
        return f"Dataset({self.name!r}, {size}, {classes})"

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one item, before flattening."""
        return tuple(self.values.shape[1:])

    @property
    def num_classes(self) -> int:
        """The largest label plus one. Raises ValueError without labels."""
        return int(self._required_labels("num_classes").max()) + 1

    def to(self, device: torch.device | str) -> Dataset:
        """Hold values and labels on ``device``; batches are then drawn and binarised there."""
        labels = None if self.labels is None else self.labels.to(device)
        return replace(self, values=self.values.to(device), labels=labels)

    def subset(self, indices: Tensor | np.ndarray | Sequence[int]) -> Dataset:
        """Keep the items at ``indices`` (integers, or a mask of N booleans), in that order."""
        dtype = None if len(indices) else torch.int64
        index = torch.as_tensor(indices, dtype=dtype, device=self.values.device)
        labels = None if self.labels is None else self.labels[index]
        return replace(self, values=self.values[index], labels=labels)

    def labelled_subset(self, per_class: int, seed: int = 0) -> Int64[Tensor, " labelled"]:
        """Choose ``per_class`` random items of every class that occurs; return their indices.

        Raises ValueError without labels, or where a class has fewer items.

        Example:
            >>> chosen = load("digits").labelled_subset(10, seed=0)  # 100 labels, the rest hidden
            >>> len(chosen)
            100
        """
        positive_int("labelled_subset", "per_class", per_class)
        labels = self._required_labels("labelled_subset").cpu()
        order = _permutation(len(self), seed)
        chosen = {int(c): order[labels[order] == c][:per_class] for c in labels.unique()}
        for label, found in chosen.items():
            if len(found) < per_class:
                raise ValueError(
                    f"labelled_subset: per_class must be at most {len(found)}, the number of items "
                    f"of class {label} in {self.name!r}, got {per_class}"
                )
        return torch.cat(list(chosen.values()))

    def split(self, test_fraction: int | float = 0.1, seed: int = 0) -> tuple[Dataset, Dataset]:
        """Split at random into ``(train, test)``, each class in proportion if there are labels.

        Depends on the seed, the labels and N alone. Raises ValueError where a side would be empty.
        """
        count = round(test_fraction * len(self)) if 0 < test_fraction < 1 else 0
        if not 0 < count < len(self):
            raise ValueError(
                f"split: test_fraction must leave items on both sides of {self.name!r} "
                f"({len(self)} items), got {test_fraction}; give a fraction such as 0.1"
            )
        return self._hold_out(count, seed)

    def binarised(self, seed: int = 0) -> Dataset:
        """Draw every pixel once: a dataset of 0 and 1, the same for the same seed.

        Raises ValueError where ``value / scale`` leaves [0, 1].
        """
        generator = self._generator(seed)
        parts = torch.arange(len(self)).split(4096)  # bounds the memory of the float draws
        draws = (self.draw(i, generator=generator, flat=False).to(torch.uint8) for i in parts)
        return replace(self, values=torch.cat(list(draws)), scale=1.0)

    def draw(
        self,
        index: Integer[Tensor, " batch"],
        *,
        binarise: str = "dynamic",
        generator: torch.Generator | None = None,
        flat: bool = True,
        device: torch.device | str | None = None,
    ) -> Float[Tensor, " batch *event"]:
        """Return the items at ``index`` as float32, ``(B, D)`` if flat, else ``(B, *event)``.

        Args:
            index: integers, shape ``(B,)``.
            binarise: what to do with the grey value p = value / scale.
                ``"dynamic"``: a Bernoulli(p) draw, anew at every call.
                ``"static"``: drawn once, as ``binarised(seed=0)``, whatever the batch; for another
                seed, call `binarised` yourself. Binarise first, take subsets after.
                ``"threshold"``: p > 0.5. ``"none"``: p itself.
            generator: for the dynamic draw, on the values' device; None is torch's global one.
            flat: flatten the event.
            device: where the result goes; None leaves it where the values are.

        Raises:
            ValueError: unknown mode, or values to be binarised outside [0, 1].

        Example:
            >>> load("digits").draw(torch.arange(3), binarise="threshold", flat=False).shape
            torch.Size([3, 1, 8, 8])
        """
        self._check_binarise(binarise)
        if binarise == "static":
            return self._static.draw(index, binarise="none", flat=flat, device=device)
        x = self.values[index.to(self.values.device)].to(torch.float32) / self.scale
        if binarise == "dynamic":
            # On a CPU a third of the time of torch.bernoulli; 0 and 1 stay what they are.
            u = torch.rand(x.shape, generator=generator, device=x.device)
            x = (u < x).to(torch.float32)
        elif binarise == "threshold":
            x = (x > 0.5).to(torch.float32)
        return (x.flatten(1) if flat else x).to(device=device)

    def batches(
        self,
        batch_size: int,
        *,
        binarise: str = "dynamic",
        shuffle: bool = True,
        seed: int = 0,
        generator: torch.Generator | None = None,
        drop_last: bool = False,
        flat: bool = True,
        device: torch.device | str | None = None,
    ) -> Batches:
        """Return the epochs of this dataset: ``for x, labels in dataset.batches(100): ...``.

        Every iteration is a new epoch that goes on where the generator stands, so the order and the
        dynamic draws differ from epoch to epoch and all follow from one seed. torch's global
        generator is not touched.

        Args:
            batch_size: items per batch; the last batch is shorter if N is no multiple.
            binarise: as in `draw`.
            shuffle: a new order in each epoch, else the order of the data.
            seed: of the order and the dynamic draws.
            generator: used in place of ``seed`` if given; on the device of the values.
            drop_last: leave a short last batch out.
            flat: as in `draw`.
            device: as in `draw`, for the labels too.
        """
        return Batches(
            dataset=self,
            batch_size=batch_size,
            binarise=binarise,
            shuffle=shuffle,
            generator=self._generator(seed) if generator is None else generator,
            drop_last=drop_last,
            flat=flat,
            device=device,
        )

    @cached_property
    def _static(self) -> Dataset:
        return self.binarised(seed=0)

    @cached_property
    def _range(self) -> tuple[float, float]:
        low, high = self.values.aminmax()
        return low.item() / self.scale, high.item() / self.scale

    def _generator(self, seed: int) -> torch.Generator:
        return torch.Generator(self.values.device).manual_seed(seed)

    def _check_binarise(self, mode: str) -> None:
        if mode not in BINARISE:
            raise ValueError(f"binarise must be one of {', '.join(BINARISE)}, got {describe(mode)}")
        low, high = self._range
        if mode != "none" and (low < 0 or high > 1):
            raise ValueError(
                f"binarise={mode!r} needs pixels in [0, 1], got values / scale from {low:g} to "
                f"{high:g} in {self.name!r}; give the scale that means 1.0, or binarise='none' and "
                f"a likelihood for real values"
            )

    def _required_labels(self, owner: str) -> Tensor:
        if self.labels is None:
            raise ValueError(f"{owner}: {self.name!r} must have labels, got None; give labels=")
        return self.labels

    def _hold_out(self, count: int, seed: int) -> tuple[Dataset, Dataset]:
        order = _permutation(len(self), seed)
        if self.labels is not None:
            order = order[self.labels.cpu()[order].argsort(stable=True)]
        # Evenly spaced in label order: each class gives its share, to within one item.
        spaced = (2 * torch.arange(count) + 1) * len(self) // (2 * count)
        held = torch.zeros(len(self), dtype=torch.bool)
        held[order[spaced]] = True
        return self.subset(~held), self.subset(held)


@dataclass(frozen=True, kw_only=True)
class Batches:
    """The epochs of a dataset, from `Dataset.batches`; ``len()`` is the number of batches in one.

    Saving and restoring ``generator.get_state()`` between epochs resumes them exactly.
    """

    dataset: Dataset
    batch_size: int
    binarise: str
    shuffle: bool
    generator: torch.Generator = field(repr=False)
    drop_last: bool
    flat: bool
    device: torch.device | str | None

    def __post_init__(self) -> None:
        positive_int("batches", "batch_size", self.batch_size)
        self.dataset._check_binarise(self.binarise)
        if not len(self):
            raise ValueError(
                f"batches: drop_last=True must leave a batch, got batch_size={self.batch_size} for "
                f"{len(self.dataset)} items; lower batch_size or keep the last batch"
            )

    def __len__(self) -> int:
        whole, rest = divmod(len(self.dataset), self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    def __iter__(
        self,
    ) -> Iterator[tuple[Float[Tensor, " batch *event"], Int64[Tensor, " batch"] | None]]:
        labels = self.dataset.labels
        for index in self._order().split(self.batch_size)[: len(self)]:
            x = self.dataset.draw(
                index,
                binarise=self.binarise,
                generator=self.generator,
                flat=self.flat,
                device=self.device,
            )
            yield x, None if labels is None else labels[index].to(device=self.device)

    def _order(self) -> Tensor:
        count, device = len(self.dataset), self.dataset.values.device
        if not self.shuffle:
            return torch.arange(count, device=device)
        return torch.randperm(count, generator=self.generator, device=device)


def from_tensor(
    x: Tensor,
    labels: Tensor | None = None,
    *,
    scale: int | float | None = None,
    name: str = "tensor",
) -> Dataset:
    """Make a dataset of tensors: ``x`` of shape ``(N, *event)``, ``labels`` of shape ``(N,)``.

    ``scale`` is the value that means 1.0. Left out, it is 255 for uint8, 1 for bool and floating
    values; for uint8 with nothing above 1 it must be given, since both are common there.

    Example:
        >>> from_tensor(torch.rand(100, 784))
        Dataset('tensor', 100 x (784,), torch.float32 / 1, no labels)
    """
    if scale is None and x.dtype == torch.uint8 and x.numel() and x.max() <= 1:
        raise ValueError(
            f"scale must be given for uint8 values with nothing above 1, got None for {name!r}; "
            f"scale=1 if they are 0/1, scale=255 if they are 8-bit grey values"
        )
    if scale is None:
        scale = 255.0 if x.dtype == torch.uint8 else 1.0
    values = x.to(torch.uint8) if x.dtype == torch.bool else x
    return Dataset(values, labels, name, scale=scale)


def from_numpy(
    x: np.ndarray,
    labels: np.ndarray | None = None,
    *,
    scale: int | float | None = None,
    name: str = "array",
) -> Dataset:
    """Make a dataset of arrays, which are copied; otherwise as `from_tensor`."""
    target = None if labels is None else _as_tensor("labels", labels)
    return from_tensor(_as_tensor("x", x), target, scale=scale, name=name)


def from_file(path: str | Path, *, scale: int | float | None = None) -> Dataset:
    """Read a ``.npy`` file (values) or a ``.npz`` file (``x``: values, ``y``: labels, optional).

    Raises FileNotFoundError, or ValueError for a damaged file or one without ``x``.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"path must be an existing .npy or .npz file, got '{path}'")
    try:
        arrays, keys = _read_arrays(path)
    except (EOFError, OSError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            f"path must be a NumPy file without pickled objects, got '{path}', which cannot be "
            f"read: {error}; write it again with np.save or np.savez"
        ) from error
    if "x" not in arrays:
        raise ValueError(
            f"'{path}' must have the key x (values) and may have y (labels), got "
            f"{', '.join(keys) or 'no keys'}; write it with np.savez(path, x=..., y=...)"
        )
    return from_numpy(arrays["x"], arrays.get("y"), scale=scale, name=path.stem)


def from_folder(
    path: str | Path, *, size: int | tuple[int, int] | None = None, grey: bool = True
) -> Dataset:
    """Read a folder of 8-bit images. Subfolders, in sorted order, are classes if there are any.

    Args:
        path: the folder. Names that start with a dot are passed over; transparency is ignored.
        size: resize to ``(height, width)``, or to a square; None if all images have one size.
        grey: shape ``(N, 1, height, width)`` if True, else RGB, ``(N, 3, height, width)``.

    Raises FileNotFoundError where there is no image, ValueError for an image that cannot be read.
    """
    path = Path(path).expanduser()
    visible = sorted(p for p in path.glob("*") if not p.name.startswith("."))
    classes = [p for p in visible if p.is_dir()]
    loose = [p for p in visible if p.suffix.lower() in IMAGE_SUFFIXES]
    if classes and loose:
        raise ValueError(
            f"'{path}' must hold either images or subfolders, got both '{loose[0].name}' and "
            f"'{classes[0].name}'; move the images into a subfolder"
        )
    found = [(file, label) for label, folder in enumerate(classes) for file in _images(folder)]
    files = [file for file, _ in found] or loose
    if not files:
        raise FileNotFoundError(
            f"'{path}' must hold images ({', '.join(IMAGE_SUFFIXES)}), in it or in its subfolders, "
            f"got none"
        )
    labels = torch.tensor([label for _, label in found]) if found else None
    return Dataset(_read_images(files, size, grey), labels, path.name, scale=255)


def load(
    source: str | Path,
    *,
    root: str | Path | None = None,
    split: str = "train",
    scale: int | float | None = None,
    size: int | tuple[int, int] | None = None,
    test_fraction: int | float | None = None,
    seed: int = 0,
) -> Dataset:
    """Load a dataset by name, or your own from a ``.npy`` or ``.npz`` file or a folder of images.

    ``"digits"`` comes with scikit-learn: 1,797 scans of 8x8 pixels, 17 levels. It has no official
    split: a fixed seed holds out 360 for the test, each digit in proportion. ``"mnist"``,
    ``"fashion-mnist"`` and ``"kmnist"`` are 60,000 + 10,000 images of 28x28. ``"omniglot"`` is
    19,280 + 13,180 drawings, ink bright, resized from 105x105 to 28x28; its train and test labels
    number *different* characters, and its split is not that of the 28x28 files used in papers.
    These four are read by torchvision, and downloaded if absent.

    Args:
        source: one of the names in `LOADERS`, or a path.
        root: folder of the named datasets; None is the environment variable ``PPL_VAE_DATA``, or
            ``./data`` without it.
        split: ``"train"`` or ``"test"``.
        scale: of your own file, as in `from_tensor`.
        size: of your own images, as in `from_folder`.
        test_fraction: of your own data, which has no official split; None is 0.1. See
            `Dataset.split`.
        seed: of that split.

    Raises:
        FileNotFoundError: the data are absent and cannot be downloaded; nothing is left behind.
        ImportError: torchvision is missing or does not match torch.
        ValueError: unknown name or split; an option that this source does not take; damaged data.

    Example:
        >>> load("digits", split="test")
        Dataset('digits', 360 x (1, 8, 8), torch.uint8 / 16, 10 classes)
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {describe(split)}")
    path = Path(source).expanduser()
    if isinstance(source, str) and source in LOADERS:
        _refuse(source, scale=scale, size=size, test_fraction=test_fraction)
        folder = Path(root or os.environ.get("PPL_VAE_DATA") or "data")
        return LOADERS[source](folder.expanduser().absolute(), split)
    if path.is_dir():
        _refuse(source, scale=scale)
        dataset = from_folder(path, size=size)
    elif path.suffix in (".npy", ".npz"):
        _refuse(source, size=size)
        dataset = from_file(path, scale=scale)
    else:
        raise ValueError(
            f"source must be one of {', '.join(LOADERS)}, or a path to a .npy or .npz file or to "
            f"an existing folder of images, got '{source}'"
        )
    fraction = 0.1 if test_fraction is None else test_fraction
    return dataset.split(fraction, seed)[SPLITS.index(split)]


def _digits(root: Path, split: str) -> Dataset:
    from sklearn.datasets import load_digits

    bundle = load_digits()
    values = torch.tensor(bundle.images, dtype=torch.uint8).unsqueeze(1)
    dataset = Dataset(values, torch.tensor(bundle.target), "digits", scale=16)
    return dataset._hold_out(360, seed=0)[SPLITS.index(split)]


def _mnist_like(name: str, class_name: str, root: Path, split: str) -> Dataset:
    source = getattr(_torchvision_datasets(), class_name)
    found = _fetch(name, root, partial(source, train=split == "train"))
    return Dataset(found.data.unsqueeze(1), found.targets, name, scale=255)


def _omniglot(root: Path, split: str) -> Dataset:
    source = _torchvision_datasets().Omniglot
    found = _fetch("omniglot", root, partial(source, background=split == "train"))
    # torchvision numbers the characters in the order of os.listdir, which differs between machines.
    characters = sorted(Path(found.target_folder).glob("*/*"))
    files = [(file, label) for label, folder in enumerate(characters) for file in _images(folder)]
    ink = 255 - _read_images([file for file, _ in files], size=28, grey=True)
    return Dataset(ink, torch.tensor([label for _, label in files]), "omniglot", scale=255)


LOADERS: dict[str, Callable[[Path, str], Dataset]] = {
    "digits": _digits,
    "mnist": partial(_mnist_like, "mnist", "MNIST"),
    "fashion-mnist": partial(_mnist_like, "fashion-mnist", "FashionMNIST"),
    "kmnist": partial(_mnist_like, "kmnist", "KMNIST"),
    "omniglot": _omniglot,
}


def _torchvision_datasets() -> ModuleType:
    try:
        from torchvision import datasets
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        raise ImportError(
            "torchvision does not match torch: the two come from different builds (for example "
            "CPU-only torch beside the registry's torchvision). Install both in one command: "
            "pip install --force-reinstall torch torchvision"
        ) from error
    return datasets


def _fetch(name: str, root: Path, source: Callable[..., Any]) -> Any:
    """Build the torchvision dataset ``source`` from ``root``, downloaded first if absent."""
    try:
        return source(root, download=False)
    except (AssertionError, OSError, RuntimeError, TypeError, ValueError) as error:
        if "download=True" not in str(error):  # torchvision's words for files that are not there
            raise ValueError(
                f"the files of {name!r} in '{root}' must be whole, got: {error}; delete them and "
                f"load again"
            ) from error
    try:
        _download(root, source)
    except (HTTPException, OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise FileNotFoundError(
            f"dataset {name!r} must be in '{root}' or be downloadable, got neither: {reason}. Set "
            f"root= or the environment variable PPL_VAE_DATA to the folder that has it, or load it "
            f"once with a network"
        ) from error
    return source(root, download=False)


def _download(root: Path, source: Callable[..., Any]) -> None:
    """Download beside ``root`` and move in what is complete: a broken download leaves nothing."""
    existing = next(p for p in (root, *root.parents) if p.is_dir())
    with tempfile.TemporaryDirectory(prefix=".ppl_vae-", dir=existing) as staging:
        source(Path(staging), download=True)
        for file in [p for p in Path(staging).rglob("*") if p.is_file()]:
            target = root / file.relative_to(staging)
            target.parent.mkdir(parents=True, exist_ok=True)
            file.replace(target)


def _images(folder: Path) -> list[Path]:
    files = (p for p in folder.glob("*") if not p.name.startswith("."))
    return sorted(p for p in files if p.suffix.lower() in IMAGE_SUFFIXES)


def _read_images(files: list[Path], size: int | tuple[int, int] | None, grey: bool) -> Tensor:
    """Read images of one size, uint8 of shape ``(N, channels, height, width)``."""
    images = [_read_image(file, size, grey) for file in files]
    for file, image in zip(files, images, strict=True):
        if image.shape != images[0].shape:
            raise ValueError(
                f"images must have one size, got {tuple(images[0].shape[1:])} in '{files[0]}' and "
                f"{tuple(image.shape[1:])} in '{file}'; give size=(height, width)"
            )
    return torch.stack(images)


def _read_image(file: Path, size: int | tuple[int, int] | None, grey: bool) -> Tensor:
    from PIL import Image

    try:
        with Image.open(file) as opened:
            # Pillow would clip 16-bit and real-valued images to 255 without a word.
            if opened.mode[0] in "IF":
                raise ValueError(f"it has mode {opened.mode}, expected 8 bits per channel")
            image = opened.convert("L" if grey else "RGB")
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"'{file}' must be a readable 8-bit image: {error}") from error
    if size is not None:
        height, width = (size, size) if isinstance(size, int) else size
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    pixels = torch.tensor(np.asarray(image))
    return pixels.unsqueeze(0) if grey else pixels.permute(2, 0, 1)


def _read_arrays(path: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return the arrays x and y of a file, and all the keys that it has."""
    with path.open("rb") as file:  # opened here: np.load leaves a damaged file open
        loaded = np.load(file, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {"x": loaded}, ["x"]
        return {key: loaded[key] for key in ("x", "y") if key in loaded.files}, loaded.files


def _as_tensor(argument: str, array: np.ndarray) -> Tensor:
    try:
        return torch.tensor(array)
    except (TypeError, ValueError) as error:  # objects, strings, foreign byte order
        raise TypeError(
            f"{argument} must be a numeric array, got dtype {array.dtype}; convert it with .astype"
        ) from error


def _permutation(count: int, seed: int) -> Tensor:
    # NumPy has frozen this stream (NEP 19), so splits survive upgrades; torch's may change.
    return torch.from_numpy(np.random.RandomState(seed).permutation(count)).long()


def _refuse(source: str | Path, **options: object) -> None:
    for option, value in options.items():
        if value is not None:
            raise ValueError(
                f"{option} does not apply to source '{source}', got {value!r}; drop it"
            )


def _check_values(values: Tensor, scale: int | float) -> None:
    if values.dtype != torch.uint8 and not values.is_floating_point():
        raise TypeError(
            f"values must be uint8 or floating, got {describe(values)}; convert them, and give the "
            f"scale that means 1.0"
        )
    if values.ndim < 2 or not values.numel():
        raise ValueError(
            f"values must have shape (N, *event) and not be empty, got {describe(values)}"
        )
    if not scale > 0:
        raise ValueError(f"scale must be above 0, got {scale}; it is the value that means 1.0")
    if values.dtype == torch.uint8:
        if values.max() > scale:
            raise ValueError(
                f"uint8 values must be at most scale={scale:g}, got {values.max()}; give the value "
                f"that means 1.0 (255 for 8-bit images)"
            )
    elif not values.isfinite().all():
        where = tuple(values.isfinite().logical_not().nonzero()[0].tolist())
        raise ValueError(
            f"values must be finite, got {values[where]} at index {where}; remove or fill them"
        )


def _checked_labels(labels: Tensor, count: int) -> Tensor:
    fix = "give class numbers 0, 1, ... as int64"
    if labels.dtype == torch.bool or labels.is_floating_point() or labels.is_complex():
        raise TypeError(f"labels must be integers, got {describe(labels)}; {fix}")
    if labels.shape != (count,):
        raise ValueError(f"labels must have shape ({count},), got {describe(labels)}; {fix}")
    if labels.min() < 0:
        raise ValueError(
            f"labels must be 0 or more, got {int(labels.min())}; {fix}, and choose the items whose "
            f"label is seen with labelled_subset"
        )
    return labels.to(torch.int64)
