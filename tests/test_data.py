"""Datasets, batches and loaders. No test needs a network; MNIST is read where it is present."""

import doctest
import gzip
import hashlib
import http.server
import io
import os
import re
import struct
import sys
import threading
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ppl_vae import data
from ppl_vae.data import Dataset, from_file, from_folder, from_numpy, from_tensor, load

MODES = ("dynamic", "static", "threshold", "none")
CPU_STATE = torch.random.get_rng_state


def ramp(count: int = 256) -> Dataset:
    """Grey images whose value runs from 0 to 255, label = item number."""
    grey = (torch.arange(count) % 256).to(torch.uint8)
    return from_tensor(grey[:, None, None].expand(count, 2, 3), torch.arange(count), name="ramp")


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def flat_epoch(dataset: Dataset, batch_size: int, **options) -> tuple[Tensor, Tensor]:
    """One epoch's batches, joined."""
    xs, ys = zip(*dataset.batches(batch_size, **options), strict=True)
    return torch.cat(xs), torch.cat(ys)


# ---------------------------------------------------------------------------------------- values


def test_values_are_divided_by_the_scale_and_flattened_on_request():
    values = torch.tensor([[[0, 51], [102, 255]], [[1, 2], [3, 4]]], dtype=torch.uint8)
    dataset = from_tensor(values)
    flat = dataset.draw(torch.tensor([1, 0]), binarise="none")
    assert flat.dtype == torch.float32
    torch.testing.assert_close(flat, torch.tensor([[1, 2, 3, 4], [0, 51, 102, 255]]) / 255)
    images = dataset.draw(torch.tensor([0]), binarise="none", flat=False)
    torch.testing.assert_close(images, values[:1] / 255)
    assert dataset.event_shape == (2, 2)
    assert len(dataset) == 2


@pytest.mark.parametrize(
    ("x", "scale", "expected"),
    [
        (torch.tensor([[0, 255]], dtype=torch.uint8), None, [0.0, 1.0]),
        (torch.tensor([[0, 1]], dtype=torch.uint8), 1, [0.0, 1.0]),
        (torch.tensor([[0, 1]], dtype=torch.uint8), 255, [0.0, 1 / 255]),
        (torch.tensor([[0, 8]], dtype=torch.uint8), 16, [0.0, 0.5]),
        (torch.tensor([[False, True]]), None, [0.0, 1.0]),
        (torch.tensor([[-3.0, 0.25]]), None, [-3.0, 0.25]),
        (torch.tensor([[0.0, 64.0]], dtype=torch.float64), 256, [0.0, 0.25]),
    ],
)
def test_scale_follows_dtype_or_is_given(x, scale, expected):
    drawn = from_tensor(x, scale=scale).draw(torch.tensor([0]), binarise="none")
    torch.testing.assert_close(drawn, torch.tensor([expected]))


def test_dataset_is_frozen_and_its_methods_leave_it_alone():
    dataset = ramp(20)
    before = dataset.values.clone()
    dataset.binarised(0), dataset.subset([1, 2]), dataset.split(0.5), dataset.labelled_subset(1)
    assert torch.equal(dataset.values, before)
    with pytest.raises(AttributeError):
        dataset.name = "other"  # type: ignore[misc]


def test_labels_of_any_integer_type_become_int64_and_count_the_classes():
    dataset = from_tensor(torch.rand(3, 2), torch.tensor([4, 0, 1], dtype=torch.uint8))
    assert dataset.labels is not None
    assert dataset.labels.dtype == torch.int64
    assert dataset.num_classes == 5


# -------------------------------------------------------------------------------------- binarise


def test_dynamic_draws_have_the_grey_value_as_mean_and_differ():
    dataset, draws = ramp(), 2000
    generator = seeded(0)
    index = torch.arange(256)
    first, second = (dataset.draw(index, generator=generator) for _ in range(2))
    assert not torch.equal(first, second)
    assert set(first.unique().tolist()) == {0.0, 1.0}
    total = sum(dataset.draw(index, generator=generator).double() for _ in range(draws))
    grey = dataset.draw(index, binarise="none").double()
    error = (grey * (1 - grey) / draws).sqrt()
    assert ((total / draws - grey).abs() <= 5 * error).all()  # exact where p is 0 or 1


def test_static_draws_are_one_image_whatever_the_batch():
    dataset = ramp()
    whole = dataset.draw(torch.arange(256), binarise="static")
    assert set(whole.unique().tolist()) == {0.0, 1.0}
    for size in (1, 7, 256):
        x, y = flat_epoch(dataset, size, binarise="static", seed=size)
        assert torch.equal(x, whole[y])
    assert torch.equal(ramp().draw(torch.arange(256), binarise="static"), whole)


def test_binarised_depends_on_its_seed_alone_and_is_fixed_in_every_mode():
    # More items than the chunk of 4096 that is drawn at once.
    grey = Dataset(torch.full((5000, 4), 100, dtype=torch.uint8), scale=255)
    zero, again, one = grey.binarised(0), grey.binarised(0), grey.binarised(1)
    assert torch.equal(zero.values, again.values)
    assert not torch.equal(zero.values, one.values)
    assert zero.values.dtype == torch.uint8
    p, n = 100 / 255, 20_000
    assert abs(zero.values.double().mean() - p) < 5 * (p * (1 - p) / n) ** 0.5
    for mode in MODES:
        drawn = zero.draw(torch.arange(5000), binarise=mode)
        assert torch.equal(drawn, zero.values.float()), mode


def test_threshold_is_strictly_above_one_half():
    dataset = from_tensor(torch.tensor([[0.0, 0.5, 0.50001, 1.0]]))
    drawn = dataset.draw(torch.tensor([0]), binarise="threshold")
    assert drawn.tolist() == [[0.0, 0.0, 1.0, 1.0]]


def test_real_values_outside_the_unit_interval_can_be_drawn_as_they_are():
    x = torch.randn(10, 3, generator=seeded(0))
    drawn, _ = next(iter(from_tensor(x).batches(10, binarise="none", shuffle=False)))
    assert torch.equal(drawn, x)


# --------------------------------------------------------------------------------------- batches


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize(
    ("batch_size", "sizes"), [(1, [1] * 10), (4, [4, 4, 2]), (10, [10]), (99, [10])]
)
def test_every_item_comes_once_per_epoch(batch_size, sizes, shuffle):
    batches = ramp(10).batches(batch_size, shuffle=shuffle, binarise="none")
    assert len(batches) == len(sizes)
    for _ in range(2):
        epoch = list(batches)
        assert [len(x) for x, _ in epoch] == sizes
        labels = torch.cat([y for _, y in epoch])
        assert labels.sort().values.tolist() == list(range(10))
        for x, y in epoch:  # label = grey value: image and label belong together
            torch.testing.assert_close(x, (y / 255)[:, None].expand(-1, 6))


def test_drop_last_leaves_out_only_a_short_batch():
    assert [len(x) for x, _ in ramp(10).batches(4, drop_last=True)] == [4, 4]
    assert len(ramp(10).batches(4, drop_last=True)) == 2
    assert [len(x) for x, _ in ramp(10).batches(5, drop_last=True)] == [5, 5]


def test_one_seed_gives_one_sequence_of_epochs():
    def epochs(seed: int) -> list[tuple[Tensor, Tensor]]:
        batches = ramp().batches(50, seed=seed)
        return [pair for _ in range(2) for pair in batches]

    first, again, other = epochs(3), epochs(3), epochs(4)
    for (x, y), (x2, y2) in zip(first, again, strict=True):
        assert torch.equal(x, x2)
        assert torch.equal(y, y2)
    assert not torch.equal(first[0][1], other[0][1])
    assert not torch.equal(first[0][1], first[6][1])  # a new order in the second epoch


def test_unshuffled_epochs_keep_the_order_and_draw_anew():
    batches = ramp().batches(256, shuffle=False)
    (x, y), (x2, y2) = next(iter(batches)), next(iter(batches))
    assert y.tolist() == y2.tolist() == list(range(256))
    assert not torch.equal(x, x2)


def test_generator_replaces_the_seed_and_resumes_exactly():
    batches = ramp().batches(50, generator=seeded(7), seed=1)
    x, _ = next(iter(ramp().batches(50, seed=7)))
    assert torch.equal(next(iter(batches))[0], x)
    state = batches.generator.get_state()
    rest = [x for x, _ in batches]
    batches.generator.set_state(state)
    assert all(torch.equal(a, b) for a, (b, _) in zip(rest, batches, strict=True))


def test_labels_are_none_where_there_are_none():
    assert [y for _, y in from_tensor(torch.rand(5, 2)).batches(2)] == [None, None, None]


def test_global_random_state_is_untouched(tmp_path):
    before, numpy_before = CPU_STATE(), np.random.get_state()[1].copy()
    dataset = load("digits")
    for mode in MODES:
        list(dataset.batches(500, binarise=mode))
    dataset.split(0.2), dataset.labelled_subset(3), dataset.binarised(2)
    assert torch.equal(CPU_STATE(), before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)


def test_batches_go_to_the_device():
    x, y = next(iter(ramp().batches(5, device="meta")))
    assert (x.device.type, y.device.type) == ("meta", "meta")
    x, y = next(iter(ramp().to("cpu").batches(5)))
    assert (x.device.type, y.device.type) == ("cpu", "cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_dataset_on_an_accelerator_draws_there():
    dataset = ramp().to("cuda")
    for mode in MODES:
        x, y = flat_epoch(dataset, 50, binarise=mode)
        assert x.is_cuda
        assert y.sort().values.tolist() == list(range(256))
    assert dataset.split(0.5)[0].values.is_cuda
    assert len(dataset.labelled_subset(1)) == 256


# ------------------------------------------------------------------------------ subsets and splits


def test_subset_takes_indices_or_a_mask():
    dataset = ramp(10)
    assert dataset.subset([7, 2]).labels.tolist() == [7, 2]
    assert dataset.subset(np.array([3])).values[0, 0, 0] == 3
    assert dataset.subset(torch.arange(10) > 7).labels.tolist() == [8, 9]


def test_labelled_subset_is_balanced_distinct_and_seeded():
    digits = load("digits")
    chosen = digits.labelled_subset(10, seed=1)
    assert len(set(chosen.tolist())) == 100
    assert digits.labels[chosen].bincount().tolist() == [10] * 10
    assert torch.equal(chosen, digits.labelled_subset(10, seed=1))
    assert not torch.equal(chosen, digits.labelled_subset(10, seed=2))


@pytest.mark.parametrize("labelled", [True, False])
def test_split_is_a_seeded_partition(labelled):
    x = torch.arange(100.0)[:, None]
    labels = torch.arange(100) % 5 if labelled else None
    train, test = from_tensor(x, labels).split(0.2, seed=1)
    assert (len(train), len(test)) == (80, 20)
    assert sorted((train.values.flatten().tolist()) + test.values.flatten().tolist()) == list(
        range(100)
    )
    assert torch.equal(test.values, from_tensor(x, labels).split(0.2, seed=1)[1].values)
    assert not torch.equal(test.values, from_tensor(x, labels).split(0.2, seed=2)[1].values)
    if labelled:
        assert test.labels.bincount().tolist() == [4] * 5
        assert torch.equal(test.values.flatten().long() % 5, test.labels)


def test_split_of_uneven_classes_is_in_proportion_to_within_one():
    labels = torch.tensor([0] * 71 + [1] * 17 + [2] * 5)
    _, test = from_tensor(torch.rand(93, 1), labels).split(0.3)
    share = labels.bincount() * len(test) / 93
    assert ((test.labels.bincount(minlength=3) - share).abs() < 1).all()


# ---------------------------------------------------------------------------------- named datasets


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


def idx(array: np.ndarray) -> bytes:
    """An array of bytes in the IDX format of the MNIST files."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def idx_files(train: int = 5, test: int = 3) -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    files = {}
    for prefix, count in (("train", train), ("t10k", test)):
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        files[f"{prefix}-images-idx3-ubyte"] = idx(images)
        files[f"{prefix}-labels-idx1-ubyte"] = idx(np.arange(count, dtype=np.uint8))
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
    with pytest.raises(FileNotFoundError, match=r"dataset 'kmnist' must be in .*new.*PPL_VAE_DATA"):
        load("kmnist", root=tmp_path / "new" / "root")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "kmnist", "omniglot"])
@pytest.mark.usefixtures("offline")
def test_absent_data_name_the_dataset_the_folder_and_the_variable(tmp_path, name):
    root = tmp_path / "empty"
    pattern = rf"dataset '{name}' must be in '.*empty' .*no network in this test.*PPL_VAE_DATA"
    with pytest.raises(FileNotFoundError, match=pattern) as caught:
        load(name, root=root)
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


def broken_torchvision(monkeypatch, folder: Path, message: str) -> None:
    """Put a torchvision in the way whose import fails as a mismatched build does."""
    (folder / "torchvision").mkdir()
    (folder / "torchvision" / "__init__.py").write_text(f"raise RuntimeError({message!r})\n")
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    monkeypatch.syspath_prepend(folder)


def test_mismatched_torchvision_is_explained(monkeypatch, tmp_path):
    broken_torchvision(monkeypatch, tmp_path, "operator torchvision::nms does not exist")
    with pytest.raises(
        ImportError, match=r"pip install --force-reinstall torch torchvision"
    ) as caught:
        load("mnist", root=tmp_path)
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_another_failure_of_torchvision_is_passed_on(monkeypatch, tmp_path):
    broken_torchvision(monkeypatch, tmp_path, "something else")
    with pytest.raises(RuntimeError, match=r"^something else$"):
        load("mnist", root=tmp_path)


def test_digits_need_no_torchvision(monkeypatch, tmp_path):
    broken_torchvision(monkeypatch, tmp_path, "imported")
    assert len(load("digits")) == 1437


# ----------------------------------------------------------------------------------------- own data

RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (30, 4, 5), dtype=np.uint8)
Y = np.arange(30, dtype=np.int32) % 3


def test_from_numpy_copies():
    array = X.copy()
    dataset = from_numpy(array, Y)
    array[:] = 0
    assert np.array_equal(dataset.values.numpy(), X)


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_numpy_files_round_trip(tmp_path, suffix):
    path = tmp_path / f"own.{suffix}"
    np.save(path, X) if suffix == "npy" else np.savez(path, x=X, y=Y, other=np.arange(3))
    dataset = from_file(path)
    assert np.array_equal(dataset.values.numpy(), X)
    assert (dataset.name, dataset.scale) == ("own", 255)
    assert (
        (dataset.labels is None) if suffix == "npy" else np.array_equal(dataset.labels.numpy(), Y)
    )
    train, test = load(path), load(str(path), split="test")
    assert (len(train), len(test)) == (27, 3)
    expected = dataset.split(0.1, seed=0)[1]
    assert torch.equal(test.values, expected.values)
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
    colour = from_folder(folder, grey=False)
    assert colour.values.shape == (20, 3, 4, 6)
    assert colour.labels.tolist() == [0] * 10 + [1] * 10
    assert colour.values[10:, 0, 2, 3].tolist() == list(range(100, 110))
    assert (colour.values[:, 2] == 7).all()
    assert (colour.scale, colour.name) == (255, "images")
    grey = from_folder(folder)
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
    dataset = load(folder, size=size)
    assert dataset.event_shape == (1, *shape)
    first = from_folder(folder, size=size).values[0, 0]
    assert (first[0] == 200).all()  # upper half bright, lower half dark
    assert (first[-1] == 0).all()


# ------------------------------------------------------------------------------------------- errors


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def npz(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays)
    return path


def corrupt_npz(path: Path) -> Path:
    """An archive whose directory is whole and whose data are not."""
    buffer = io.BytesIO()
    np.savez(buffer, x=X)
    content = bytearray(buffer.getvalue())
    content[200:260] = bytes(60)
    return write(path, bytes(content))


def archive(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as opened:
        opened.writestr("readme.txt", "no arrays")
    return path


def image(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(array).save(path)
    return path.parent


def two_sizes(path: Path) -> Path:
    image(path / "a.png", X[0])
    return image(path / "b.png", X[0, 1:])


def loose_image(path: Path) -> Path:
    image(path / "a.png", X[0])
    (path / "class").mkdir()
    return path


def broken_image(path: Path) -> Path:
    path.mkdir()
    return write(path / "a.png", b"\x89PNG broken").parent


def floats(*rows: list[float]) -> Dataset:
    return from_tensor(torch.tensor(rows))


NAN, INF = float("nan"), float("inf")
ERRORS: dict[str, tuple[Callable[[Path], object], type[Exception], str]] = {
    "unknown name": (
        lambda p: load("mnits"),
        ValueError,
        "source must be one of digits, mnist, fashion-mnist, kmnist, omniglot, or a path to a .npy "
        "or .npz file or to an existing folder of images, got 'mnits'",
    ),
    "unknown suffix": (lambda p: load(write(p / "a.csv", b"1")), ValueError, "got '.*a.csv'"),
    "unknown split": (lambda p: load("digits", split="val"), ValueError, "train, test, got 'val'"),
    "scale of digits": (
        lambda p: load("digits", scale=1),
        ValueError,
        "scale does not apply .*drop",
    ),
    "size of digits": (lambda p: load("digits", size=8), ValueError, "size does not apply"),
    "fraction of digits": (
        lambda p: load("digits", test_fraction=0.2),
        ValueError,
        "test_fraction does not apply to source 'digits', got 0.2",
    ),
    "size of npz": (lambda p: load(npz(p / "a.npz", x=X), size=8), ValueError, "size does not"),
    "scale of folder": (lambda p: load(p, scale=1), ValueError, "scale does not apply"),
    "missing file": (
        lambda p: load(p / "a.npz"),
        FileNotFoundError,
        "existing .npy .* got '.*a.npz'",
    ),
    "garbage npz": (
        lambda p: load(write(p / "a.npz", b"junk")),
        ValueError,
        "a.npz', which cannot",
    ),
    "empty npy": (
        lambda p: load(write(p / "a.npy", b"")),
        ValueError,
        "a.npy', which cannot be read",
    ),
    "corrupt npz": (lambda p: load(corrupt_npz(p / "a.npz")), ValueError, "cannot be read"),
    "truncated npz": (
        lambda p: load(write(p / "b.npz", npz(p / "a.npz", x=X).read_bytes()[:-30])),
        ValueError,
        "b.npz', which cannot be read",
    ),
    "pickled objects": (
        lambda p: load(npz(p / "a.npz", x=np.array([{}, []], dtype=object))),
        ValueError,
        "without pickled objects",
    ),
    "other keys": (
        lambda p: load(npz(p / "a.npz", images=X, labels=Y)),
        ValueError,
        r"must have the key x .* got images, labels; write it with np.savez\(path, x=",
    ),
    "no keys": (
        lambda p: load(archive(p / "a.npz")),
        ValueError,
        "must have the key x .* got readme",
    ),
    "text array": (
        lambda p: from_numpy(np.array([["a"]])),
        TypeError,
        "x must be a numeric array, got dtype <U1",
    ),
    "text labels": (
        lambda p: from_numpy(X, np.array(["a"] * 30)),
        TypeError,
        "labels must be a numeric array, got dtype <U1",
    ),
    "folder without images": (lambda p: load(p), FileNotFoundError, "must hold images .* got none"),
    "no such folder": (lambda p: from_folder(p / "no"), FileNotFoundError, "no' must hold images"),
    "loose image": (
        lambda p: load(loose_image(p / "f")),
        ValueError,
        "got both 'a.png' and 'class'",
    ),
    "two sizes": (
        lambda p: load(two_sizes(p / "f")),
        ValueError,
        r"one size, got \(4, 5\) in .* and \(3, 5\) in .*b.png'; give size=\(height, width\)",
    ),
    "broken image": (
        lambda p: load(broken_image(p / "f")),
        ValueError,
        "a.png' must be a readable",
    ),
    "16-bit image": (
        lambda p: load(image(p / "f" / "a.png", X[0].astype(np.uint16) * 200)),
        ValueError,
        "8-bit image: it has mode I;16",
    ),
    "int64 values": (
        lambda p: from_tensor(torch.ones(2, 3, dtype=torch.int64)),
        TypeError,
        r"values must be uint8 or floating, got a tensor of shape \(2, 3\) and dtype torch.int64",
    ),
    "no items": (
        lambda p: from_tensor(torch.zeros(0, 3)),
        ValueError,
        r"not be empty, got .*\(0, 3\)",
    ),
    "no items, uint8": (
        lambda p: from_tensor(torch.zeros(0, 3, dtype=torch.uint8)),
        ValueError,
        "not be empty",
    ),
    "no pixels": (lambda p: from_tensor(torch.zeros(3, 0)), ValueError, "not be empty"),
    "no event": (lambda p: from_tensor(torch.zeros(3)), ValueError, r"shape \(N, \*event\)"),
    "empty subset": (lambda p: ramp().subset([]), ValueError, "not be empty"),
    "nan": (
        lambda p: floats([0.0, 1.0], [0.5, NAN]),
        ValueError,
        r"finite, got nan at index \(1, 1\)",
    ),
    "infinity": (lambda p: floats([-INF]), ValueError, r"finite, got -inf at index \(0, 0\)"),
    "scale not given": (
        lambda p: from_numpy(X % 2),
        ValueError,
        "scale must be given for uint8 values with nothing above 1.*scale=1 if .*scale=255 if",
    ),
    "scale of zero": (lambda p: from_numpy(X, scale=0), ValueError, "scale must be above 0, got 0"),
    "above the scale": (
        lambda p: from_numpy(X | 128, scale=16),
        ValueError,
        r"uint8 values must be at most scale=16, got 2\d\d",
    ),
    "labels too short": (
        lambda p: from_numpy(X, Y[:-1]),
        ValueError,
        r"labels must have shape \(30,\), got a tensor of shape \(29,\)",
    ),
    "labels as column": (lambda p: from_numpy(X, Y[:, None]), ValueError, r"got .* \(30, 1\)"),
    "float labels": (
        lambda p: from_numpy(X, Y.astype(np.float32)),
        TypeError,
        "labels must be integers, got .*float32; give class numbers",
    ),
    "bool labels": (lambda p: from_numpy(X, Y > 0), TypeError, "labels must be integers"),
    "negative labels": (
        lambda p: from_numpy(X, Y - 1),
        ValueError,
        "labels must be 0 or more, got -1",
    ),
    "classes without labels": (lambda p: from_numpy(X).num_classes, ValueError, "must have labels"),
    "chosen without labels": (
        lambda p: from_numpy(X, name="mine").labelled_subset(1),
        ValueError,
        "labelled_subset: 'mine' must have labels, got None",
    ),
    "too few of a class": (
        lambda p: from_numpy(X, np.arange(30) // 16).labelled_subset(15),
        ValueError,
        "per_class must be at most 14, the number of items of class 1 in 'array', got 15",
    ),
    "none per class": (
        lambda p: ramp().labelled_subset(0),
        ValueError,
        "labelled_subset: per_class must be 1 or more, got 0",
    ),
    "whole fraction": (lambda p: ramp().split(1.0), ValueError, "test_fraction must .* got 1.0"),
    "negative fraction": (
        lambda p: ramp().split(-0.5),
        ValueError,
        "test_fraction must .* got -0.5",
    ),
    "nan fraction": (lambda p: ramp().split(NAN), ValueError, "test_fraction must .* got nan"),
    "tiny fraction": (
        lambda p: ramp(10).split(0.01),
        ValueError,
        r"leave items on both sides of 'ramp' \(10 items\), got 0.01",
    ),
    "unknown mode": (
        lambda p: ramp().batches(5, binarise="stochastic"),
        ValueError,
        "binarise must be one of dynamic, static, threshold, none, got 'stochastic'",
    ),
    "unknown mode of draw": (
        lambda p: ramp().draw(torch.tensor([0]), binarise="yes"),
        ValueError,
        "binarise must be one of",
    ),
    "batch size": (lambda p: ramp().batches(0), ValueError, "batch_size must be 1 or more, got 0"),
    "no batch left": (
        lambda p: ramp(10).batches(11, drop_last=True),
        ValueError,
        "drop_last=True must leave a batch, got batch_size=11 for 10 items",
    ),
    "no such item": (
        lambda p: ramp(10).draw(torch.tensor([10])),
        IndexError,
        "out of (range|bounds)",
    ),
} | {
    f"{mode} of real values": (
        lambda p, mode=mode: floats([-0.5, 2.0]).batches(1, binarise=mode),
        ValueError,
        rf"binarise='{mode}' needs pixels in \[0, 1\], got values / scale from -0.5 to 2 in",
    )
    for mode in ("dynamic", "static", "threshold")
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_say_what_came_and_what_was_expected(case, tmp_path):
    call, exception, message = ERRORS[case]
    with pytest.raises(exception) as caught:
        call(tmp_path)
    assert type(caught.value) is exception
    assert re.search(message, str(caught.value)), caught.value


# -------------------------------------------------------------------------------------------- docs


def test_examples_in_docstrings_run():
    result = doctest.testmod(data)
    assert result.failed == 0
    assert result.attempted >= 6
