"""Datasets of one's own: arrays, files and folders, and what `load` says of those it cannot use."""

import io
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ppl_vae.data import from_file, from_folder, from_numpy, load

X = np.random.default_rng(0).integers(0, 256, (30, 4, 5), dtype=np.uint8)
Y = np.arange(30, dtype=np.int32) % 3


def test_from_numpy_copies():
    array = X.copy()
    dataset = from_numpy(array, Y)
    array[:] = 0
    assert np.array_equal(dataset.values.numpy(), X)


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_numpy_files_round_trip(tmp_path, suffix):
    path = tmp_path / f"own.{suffix}"
    np.save(path, X) if suffix == "npy" else np.savez(path, x=X, y=Y)
    dataset = from_file(path)
    assert np.array_equal(dataset.values.numpy(), X)
    assert (dataset.name, dataset.scale) == ("own", 255)
    labels = None if dataset.labels is None else dataset.labels.tolist()
    assert labels == (None if suffix == "npy" else Y.tolist())
    train, test = load(path), load(str(path), split="test")
    assert (len(train), len(test)) == (27, 3)
    assert torch.equal(test.values, dataset.split(0.1, seed=0)[1].values)
    assert len(load(path, split="test", test_fraction=0.5, seed=3)) == 15


def test_scale_of_a_file_is_passed_on(tmp_path):
    np.save(tmp_path / "binary.npy", X % 2)
    assert load(tmp_path / "binary.npy", scale=1).values.max() == 1


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two classes of colour images, 6 wide and 4 high, with what else lies about in folders."""
    root = tmp_path / "images"
    for label, name in enumerate(("ants", "bees")):
        (root / name).mkdir(parents=True)
        for number in range(10):
            page = np.full((4, 6, 3), 100 * label + number, dtype=np.uint8)
            page[..., 2] = 7
            Image.fromarray(page).save(root / name / f"{number}.PNG")
        (root / name / "notes.txt").write_text("not an image")
        (root / name / ".hidden.png").write_text("not an image")
    (root / ".cache").mkdir()
    return root


def test_folder_of_classes(folder):
    colour = from_folder(folder)
    assert colour.values.shape == (20, 3, 4, 6)
    assert colour.labels.tolist() == [0] * 10 + [1] * 10
    assert colour.values[10:, 0, 2, 3].tolist() == list(range(100, 110))
    assert (colour.values[:, 2] == 7).all()
    assert (colour.scale, colour.name) == (255, "images")
    assert colour.conversions == ()
    grey = from_folder(folder, grey=True)
    assert grey.conversions == ("colour made grey in 20 of 20 images",)
    assert grey.values.shape == (20, 1, 4, 6)
    weights = torch.tensor([0.299, 0.587, 0.114])  # luma, as Pillow's mode L
    expected = (colour.values.float() * weights[:, None, None]).sum(1, keepdim=True)
    torch.testing.assert_close(grey.values.float(), expected, atol=1.0, rtol=0)
    assert len(load(folder, split="test", test_fraction=0.2)) == 4


def test_folder_without_subfolders_has_no_labels(folder):
    dataset = from_folder(folder / "bees")
    assert len(dataset) == 10
    assert dataset.labels is None


@pytest.mark.parametrize(("size", "shape"), [(8, (8, 8)), ((3, 9), (3, 9))])
def test_folder_images_are_resized_to_height_and_width(folder, size, shape):
    page = np.zeros((40, 60), dtype=np.uint8)
    page[:20] = 200
    Image.fromarray(page).save(folder / "ants" / "0.PNG")
    assert load(folder, size=size).event_shape == (3, *shape)
    first = from_folder(folder, size=size).values[0, 0]
    assert (first[0] == 200).all()  # upper half bright, lower half dark
    assert (first[-1] == 0).all()


# ------------------------------------------------------------------------------------------- errors


def npz(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path / "a.npz", **arrays)
    return path / "a.npz"


def file(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def nested(path: Path) -> Path:
    for name in ("a", "b", "b/more"):
        (path / name).mkdir()
        Image.fromarray(X[0]).save(path / name / "0.png")
    return path


def corrupt_npz() -> bytes:
    """An archive whose directory is whole and whose data are not."""
    buffer = io.BytesIO()
    np.savez(buffer, x=X)
    content = bytearray(buffer.getvalue())
    content[200:260] = bytes(60)
    return bytes(content)


def archive(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as opened:
        opened.writestr("readme.txt", "no arrays")
    return path


def images(path: Path, **arrays: np.ndarray | None) -> Path:
    """A folder of images by name; None makes a subfolder."""
    for name, array in arrays.items():
        if array is None:
            (path / name).mkdir()
        else:
            Image.fromarray(array).save(path / f"{name}.png")
    return path


NO_FILE = "path must be an existing .npy or .npz file, got '.*a.npz'"
NO_SOURCE = (
    "source must be one of digits, mnist, fashion-mnist, kmnist, omniglot, sprites, or a path to a "
    ".npy or .npz file or to an existing folder of images, got "
)
TWO_SIZES = r"one size, got \(4, 5\) in .* and \(3, 5\) in .*b.png'; give size=\(height, width\)"
KEYS = (
    r"must have the array x .* and no others, got images, labels; give the names "
    r"of its arrays: x=, y="
)
LABELS = np.array(["a"] * 30)
DATES = np.array(["2020"] * 30, dtype="datetime64[Y]")
OBJECTS = np.array([{}, []], dtype=object)

Case = tuple[Callable[[Path], object], str]
VALUE_ERRORS: dict[str, Case] = {
    "another array": (
        lambda p: load(npz(p, x=X, y=Y, labels=Y, seen=X)),
        "and no others, got labels, seen; give the names",
    ),
    "a folder in a class": (lambda p: load(nested(p)), "got the folder 'b/more'; move its images"),
    "unknown name": (lambda p: load("mnits"), f"{NO_SOURCE}'mnits'"),
    "unknown suffix": (lambda p: load(file(p / "a.csv", b"1")), f"{NO_SOURCE}'.*a.csv'"),
    "unknown split": (lambda p: load("digits", split="val"), "train, test, got 'val'"),
    "scale of digits": (lambda p: load("digits", scale=1), "scale does not apply .*drop"),
    "size of digits": (lambda p: load("digits", size=8), "size does not apply"),
    "fraction of digits": (
        lambda p: load("digits", test_fraction=0.2),
        "test_fraction does not apply to source 'digits', got 0.2",
    ),
    "size of npz": (lambda p: load(npz(p, x=X), size=8), "size does not"),
    "scale of folder": (lambda p: load(p, scale=1), "scale does not apply"),
    "garbage npz": (lambda p: load(file(p / "a.npz", b"junk")), "a.npz', which cannot be read"),
    "empty npy": (lambda p: load(file(p / "a.npy", b"")), "a.npy', which cannot be read"),
    "corrupt npz": (lambda p: load(file(p / "a.npz", corrupt_npz())), "which cannot be read"),
    "truncated npz": (
        lambda p: load(file(p / "b.npz", npz(p, x=X).read_bytes()[:-30])),
        "b.npz', which cannot be read",
    ),
    "pickled objects": (
        lambda p: load(npz(p, x=OBJECTS)),
        r"without pickled objects.* of 'x', .* .astype\(float\), strings with .astype\(str\)",
    ),
    "pickled labels": (lambda p: load(npz(p, x=X, y=OBJECTS)), "of 'y', the entries are Python o"),
    "no such array": (
        lambda p: load(npz(p, images=X), x="pictures"),
        "must have the array 'pictures', given as x=, got images",
    ),
    "no such labels": (lambda p: load(npz(p, x=X), y="target"), "'target', given as y=, got x"),
    "an array's name in a .npy": (
        lambda p: load(file(p / "a.npy", b""), x="data"),
        "is a .npy file, whose array has no name, got x='data'; drop it",
    ),
    "an array's name in digits": (lambda p: load("digits", y="target"), "y does not apply to sour"),
    "an array's name in a folder": (lambda p: load(p, x="data"), "x does not apply to source"),
    "a table": (lambda p: load(str(p / "a.csv")), r"got '.*a\.csv'; a table is for .*tables\.fit"),
    "other keys": (lambda p: load(npz(p, images=X, labels=Y)), KEYS),
    "no keys": (lambda p: load(archive(p / "a.npz")), "must have the array x .* got readme"),
    "loose image": (lambda p: load(images(p, a=X[0], b=None)), "got both, 'a.png' and 'b'"),
    "two sizes": (lambda p: load(images(p, a=X[0], b=X[0, 1:])), TWO_SIZES),
    "broken image": (
        lambda p: load(file(p / "a.png", b"\x89PNG broken").parent),
        "a.png' must be a readable",
    ),
    "16-bit image": (
        lambda p: load(images(p, a=X[0].astype(np.uint16) * 200)),
        "8-bit image: it has mode I;16",
    ),
}
TYPE_ERRORS: dict[str, Case] = {
    "text": (lambda p: from_numpy(LABELS[:, None]), "x must be a numeric array, got dtype <U1"),
    "masked": (lambda p: from_numpy(np.ma.masked_array(X)), "x must not be a masked array"),
    "dates as labels": (
        lambda p: from_numpy(X, DATES),
        "labels must be a numeric array, got .*date",
    ),
}
NOT_FOUND: dict[str, Case] = {
    "missing file": (lambda p: load(p / "a.npz"), NO_FILE),
    "folder without images": (lambda p: load(p), "must hold images .* got none"),
    "subfolders without images": (lambda p: load(images(p, a=None)), "must hold images .* got non"),
    "no such folder": (lambda p: from_folder(p / "no"), "no' must hold images"),
}
ERRORS = {ValueError: VALUE_ERRORS, TypeError: TYPE_ERRORS, FileNotFoundError: NOT_FOUND}


@pytest.mark.parametrize(
    ("exception", "case"), [(kind, case) for kind, cases in ERRORS.items() for case in cases]
)
def test_errors_say_what_came_and_what_was_expected(exception, case, tmp_path):
    call, message = ERRORS[exception][case]
    with pytest.raises(exception) as caught:
        call(tmp_path)
    assert type(caught.value) is exception
    assert re.search(message, str(caught.value)), caught.value


@pytest.mark.parametrize("x", [[[1, 2]], None, "a.npy"])
def test_only_arrays_are_taken_for_arrays(x, as_users_see_it):
    message = f"x must be a NumPy array, got {x!r} ({type(x).__name__}); make one, by numpy.asarray"
    with pytest.raises(TypeError, match=re.escape(message)):
        from_numpy(x)
