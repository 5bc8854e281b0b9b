"""Datasets by name. No test needs a network; MNIST is read where it is present."""

import gzip
import hashlib
import http.server
import os
import struct
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ppl_vae.data import load


def test_digits_are_the_bundled_scans_in_a_fixed_stratified_split():
    from sklearn.datasets import load_digits

    train, test = load("digits"), load("digits", split="test")
    assert (len(train), len(test)) == (1437, 360)
    assert train.event_shape == (1, 8, 8)
    assert (train.scale, train.values.max()) == (16, 16)
    bundle = load_digits()
    rows = np.concatenate([d.values.flatten(1).numpy() for d in (train, test)])
    labels = np.concatenate([d.labels.numpy() for d in (train, test)])
    joined = np.column_stack([rows, labels])
    expected = np.column_stack([bundle.data, bundle.target])
    assert np.array_equal(joined[np.lexsort(joined.T)], expected[np.lexsort(expected.T)])
    share = torch.from_numpy(bundle.target).bincount() * 360 / 1797
    assert ((test.labels.bincount() - share).abs() < 1).all()
    # The split is part of every figure reported on it: pinned.
    assert test.labels[:12].tolist() == [1, 3, 4, 5, 3, 4, 7, 0, 6, 0, 0, 7]
    assert test.values.sum() == 112392


def test_digits_are_the_same_where_their_file_is_not_found(monkeypatch):
    found = load("digits")
    monkeypatch.setattr("ppl_vae.data.builtin.find_spec", lambda name: None)
    asked_for = load("digits")
    assert torch.equal(found.values, asked_for.values)
    assert torch.equal(found.labels, asked_for.labels)
    assert found.labels.dtype == asked_for.labels.dtype == torch.int64


def mnist_root() -> Path | None:
    root = Path(os.environ.get("PPL_VAE_DATA", "data"))
    return root if (root / "MNIST" / "raw" / "train-images-idx3-ubyte").is_file() else None


@pytest.mark.skipif(mnist_root() is None, reason="PPL_VAE_DATA has no MNIST/raw")
def test_mnist_itself():
    train, test = load("mnist", root=mnist_root()), load("mnist", root=mnist_root(), split="test")
    assert (len(train), len(test)) == (60_000, 10_000)
    assert train.event_shape == test.event_shape == (1, 28, 28)
    assert train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert test.labels[:5].tolist() == [7, 2, 1, 0, 4]
    # The known mean grey value of the training set.
    assert train.values.sum().item() / train.values.numel() / 255 == pytest.approx(0.1307, abs=5e-5)


def idx_files() -> dict[str, bytes]:
    """Five training and three test images, in the IDX format of the MNIST files."""
    rng = np.random.default_rng(0)
    files = {}
    for prefix, count in (("train", 5), ("t10k", 3)):
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = np.arange(count, dtype=np.uint8)
        for name, array in (("images", images), ("labels", labels)):
            header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
            files[f"{prefix}-{name}-idx{array.ndim}-ubyte"] = header + array.tobytes()
    return files


def write_idx(root: Path, folder: str) -> Path:
    raw = root / folder / "raw"
    raw.mkdir(parents=True)
    for name, content in idx_files().items():
        (raw / name).write_bytes(content)
    return raw


@pytest.fixture
def offline(monkeypatch) -> None:
    def refuse(*args, **kwargs):
        raise urllib.error.URLError("no network in this test")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


@pytest.mark.parametrize(
    ("name", "folder"), [("fashion-mnist", "FashionMNIST"), ("kmnist", "KMNIST")]
)
@pytest.mark.usefixtures("offline")
def test_idx_files_on_disk_are_read_without_a_network(tmp_path, monkeypatch, name, folder):
    write_idx(tmp_path, folder)
    monkeypatch.setenv("PPL_VAE_DATA", str(tmp_path))
    train, test = load(name), load(name, split="test")
    assert (train.name, train.scale) == (name, 255)
    assert (len(train), len(test)) == (5, 3)
    content = idx_files()["t10k-images-idx3-ubyte"][16:]
    assert test.values.flatten().tolist() == list(content)
    assert train.labels.tolist() == [0, 1, 2, 3, 4]


@pytest.fixture
def omniglot(tmp_path, monkeypatch) -> Path:
    """Two alphabets of two characters, dark ink on white, each drawn twice."""
    torchvision = pytest.importorskip("torchvision")
    monkeypatch.setattr(torchvision.datasets.Omniglot, "_check_integrity", lambda self: True)
    for part, ink in (("images_background", 40), ("images_evaluation", 20)):
        for number, character in enumerate(("B/01", "A/02", "A/01", "B/02")):
            folder = tmp_path / "omniglot-py" / part / character
            folder.mkdir(parents=True)
            for drawing in range(2):
                page = np.full((105, 105), 255, dtype=np.uint8)
                page[: ink + 10 * number, :] = 0
                Image.fromarray(page).convert("1").save(folder / f"{drawing}.png")
    return tmp_path


def test_omniglot_is_bright_ink_at_28_with_characters_in_sorted_order(omniglot):
    train, test = load("omniglot", root=omniglot), load("omniglot", root=omniglot, split="test")
    assert train.values.shape == (8, 1, 28, 28)
    assert train.labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    # Share of ink as drawn, for A/01, A/02, B/01, B/02; a row of the resized image is one 28th.
    for dataset, ink in ((train, 40), (test, 20)):
        drawn = torch.tensor([ink + 20, ink + 10, ink, ink + 30]).repeat_interleave(2) / 105
        share = dataset.draw(torch.arange(8), binarise="none").mean(1)
        torch.testing.assert_close(share, drawn, atol=1 / 28, rtol=0)
        assert (dataset.values[:, :, 0] == 255).all()
        assert (dataset.values[:, :, -1] == 0).all()


# ---------------------------------------------------------------------------------------- download


@pytest.fixture
def mirror(tmp_path, monkeypatch) -> Iterator[Path]:
    """A server on this machine that torchvision's KMNIST downloads from; yields its folder."""
    torchvision = pytest.importorskip("torchvision")
    folder = tmp_path / "mirror"
    folder.mkdir()
    resources = []
    for name, content in idx_files().items():
        packed = gzip.compress(content)
        (folder / f"{name}.gz").write_bytes(packed)
        resources.append((f"{name}.gz", hashlib.md5(packed).hexdigest()))

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    address = f"http://127.0.0.1:{server.server_port}/"
    monkeypatch.setattr(torchvision.datasets.KMNIST, "mirrors", [address])
    monkeypatch.setattr(torchvision.datasets.KMNIST, "resources", resources)
    yield folder
    server.shutdown()
    server.server_close()
    thread.join()


def test_absent_files_are_downloaded_once(tmp_path, mirror):
    root = tmp_path / "new" / "root"
    assert load("kmnist", root=root).labels.tolist() == [0, 1, 2, 3, 4]
    for file in mirror.iterdir():
        file.unlink()
    assert len(load("kmnist", root=root, split="test")) == 3
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["root"]
    assert [p.name for p in root.iterdir()] == ["KMNIST"]


@pytest.mark.parametrize("damage", ["replaced", "truncated"])
def test_a_broken_download_leaves_nothing_behind(tmp_path, mirror, damage):
    last = mirror / "t10k-labels-idx1-ubyte.gz"
    page = b"<html>Please sign in</html>"  # what a hotel's network sends for every file
    last.write_bytes(page if damage == "replaced" else last.read_bytes()[:-5])
    before = sorted(tmp_path.rglob("*"))
    pattern = r"dataset 'kmnist' must be in .*new.*[Cc]orrupted.*PPL_VAE_DATA"
    with pytest.raises(FileNotFoundError, match=pattern):
        load("kmnist", root=tmp_path / "new" / "root")
    assert sorted(tmp_path.rglob("*")) == before


LAYOUTS = {
    "mnist": "MNIST/raw/train-images-idx3-ubyte",
    "fashion-mnist": "FashionMNIST/raw/train-images-idx3-ubyte",
    "kmnist": "KMNIST/raw/train-images-idx3-ubyte",
    "omniglot": "omniglot-py/images_background.zip",
}


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("given", ["root", "variable", "nothing"])
@pytest.mark.usefixtures("offline")
def test_absent_data_name_the_folder_the_layout_and_the_variable(
    tmp_path, monkeypatch, name, given
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PPL_VAE_DATA", "empty" if given == "variable" else "")
    root = tmp_path / ("data" if given == "nothing" else "empty")
    with pytest.raises(FileNotFoundError) as caught:
        load(name, root="empty" if given == "root" else None)
    message = str(caught.value)
    assert message.startswith(f"dataset '{name}' must be in '{root}' (as {LAYOUTS[name]}")
    rest = ("no network in this test", "PPL_VAE_DATA", f"holds {LAYOUTS[name].split('/')[0]}/,")
    assert sorted(rest, key=message.index) == list(rest)
    assert "\n" not in message
    assert len(message) - len(str(root)) < 350
    assert isinstance(caught.value.__cause__, (urllib.error.URLError, RuntimeError))
    assert not root.exists()


@pytest.mark.parametrize("length", [0, 10, 100])
@pytest.mark.usefixtures("offline")
def test_a_truncated_idx_file_is_said_to_be_damaged_and_kept(tmp_path, length):
    images = write_idx(tmp_path, "KMNIST") / "train-images-idx3-ubyte"
    images.write_bytes(images.read_bytes()[:length])
    with pytest.raises(ValueError, match=r"the files of 'kmnist' in .* delete them and load again"):
        load("kmnist", root=tmp_path)
    assert images.stat().st_size == length


# ------------------------------------------------------------------------------------- torchvision


MISMATCH = "operator torchvision::nms does not exist"
FIX = "pip install --force-reinstall torch torchvision"


@pytest.mark.parametrize(
    ("failure", "exception", "message"),
    [(MISMATCH, ImportError, FIX), ("something else", RuntimeError, "^something else$")],
)
def test_a_torchvision_that_cannot_be_imported(monkeypatch, tmp_path, failure, exception, message):
    """A mismatched build is explained, another failure passed on; the digits need neither."""
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(f"raise RuntimeError({failure!r})\n")
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(exception, match=message) as caught:
        load("mnist", root=tmp_path)
    assert str(caught.value.__cause__ or caught.value) == failure
    assert len(load("digits")) == 1437


def test_sprites_have_factors_in_both_splits_and_their_own_classes():
    train, test = load("sprites"), load("sprites", split="test")
    assert (len(train), len(test)) == (18_000, 2_000)
    assert train.factors.names == test.factors.names == ("shape", "scale", "orientation", "x", "y")
    assert load("sprites", classes=train.classes).classes == train.classes
    with pytest.raises(ValueError, match="classes does not apply to source 'sprites'"):
        load("sprites", classes=["a", "b", "c"])
