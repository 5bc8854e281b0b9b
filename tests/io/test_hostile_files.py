"""Hostile files, which would hang a program, exhaust its memory or run code, are refused at once.

Each call may take a second of this process and little memory: the limits are those of what the
files are, not of how they are read.
"""

import functools
import json
import os
import resource
import shutil
import socket
import struct
import subprocess
import time
import warnings
import zipfile
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pairs
import pytest
import torch
import yaml
from configs import SHORTEST
from forked import forked
from PIL import Image

import ppl_vae
from ppl_vae import cli, data, io
from ppl_vae.data import from_file, from_folder
from ppl_vae.files import read_bytes
from ppl_vae.io.config import ConfigError, from_config
from ppl_vae.io.format import CONFIG_ENTRIES
from ppl_vae.io.manifest import check, seal
from ppl_vae.io.tensors import read_tensors

pytestmark = pytest.mark.usefixtures("as_users_see_it")
KILOBYTES = 400_000


def refused(call, words, error=(ValueError, OSError)):
    """Let a call be refused within a second, in few bytes, and in few words."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    with pytest.raises(error, match=words) as caught:
        call()
    assert time.process_time() - start < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < KILOBYTES
    assert len(str(caught.value)) < 1000
    assert "\n" not in str(caught.value)


def pipe(path):
    os.mkfifo(path)


def link_to_pipe(path):
    os.mkfifo(path.with_name("pipe"))
    path.symlink_to(path.with_name("pipe"))


def device(path):
    path.symlink_to("/dev/zero")


def terminal(path):
    path.symlink_to("/dev/full")


def folder(path):
    path.mkdir()


def listening(path):
    with socket.socket(socket.AF_UNIX) as one:
        here = os.getcwd()
        os.chdir(path.parent)  # a socket's path may not be long
        try:
            one.bind(path.name)
        finally:
            os.chdir(here)


def holes(path):
    path.touch()
    os.truncate(path, 100 * 10**9)


NO_FILES = [pipe, link_to_pipe, device, terminal, folder, listening, holes]
READERS = {
    "a state": ("s.pt", io.load_state),
    "tensors": ("w.safetensors", read_tensors),
    "YAML": ("c.yaml", from_config),
    "JSON": ("c.json", from_config),
    "an array": ("a.npy", from_file),
    "arrays": ("a.npz", data.load),
    "an image": ("a.png", lambda path: from_folder(path.parent)),
    "a pair's configuration": ("config.yaml", lambda path: ppl_vae.load(path.parent)),
    "a pair's weights": ("model.safetensors", lambda path: ppl_vae.load(path.parent)),
    "a manifest": ("manifest.json", lambda path: check(path.parent)),
}


@pytest.mark.parametrize("kind", NO_FILES)
@pytest.mark.parametrize("reader", READERS)
def test_only_regular_files_are_read(reader, kind, tmp_path):
    name, read = READERS[reader]
    if reader.startswith("a pair"):
        ppl_vae.save(pairs.vae(), tmp_path)
        (tmp_path / name).unlink()
    kind(tmp_path / name)
    refused(lambda: read(tmp_path / name), r"pipe|folder|long|sparse|must hold|missing|link|file")


@pytest.mark.parametrize("kind", [pipe, device, holes])
def test_a_sealed_file_that_is_not_regular(kind, tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    seal(tmp_path)
    (tmp_path / "a").unlink()
    kind(tmp_path / "a")
    size = 100 * 10**9 if kind is holes else 3
    listed = json.loads((tmp_path / "manifest.json").read_text())
    listed["files"]["a"]["bytes"] = size
    (tmp_path / "manifest.json").write_text(json.dumps(listed))
    refused(lambda: check(tmp_path), "a is missing|link|sparse|lists 'a'")


def test_system_files_that_claim_to_be_empty():
    with pytest.raises(ValueError, match="longer than it claims"):
        read_bytes("/proc/self/maps")


# --- configurations


def mapping(**more):
    return yaml.safe_dump({**SHORTEST, **more})


def net(**more):
    return {"class": "Bernoulli", "net": {"class": "MLP", **more}}


def layers(hidden):
    """A configuration with so many hidden layers, which YAML would take long to write."""
    return mapping(likelihood=net(hidden="LAYERS")).replace("LAYERS", str(hidden))


TEXTS = {
    "40 MB": "# " + "a" * 40 * 2**20,
    "1 MB of lists": "class: [" + "[]," * 350_000 + "]",
    "many lists": "class: [" + "[]," * 60_000 + "]",
    "many keys": "".join(f"k{i}: 1\n" for i in range(20_000)),
    "many words": "class: " + "a " * 120_000,
    "many lines": "class: |\n" + " a\n" * 80_000 + "more: 1",
    "many comments": "#\n" * 120_000 + "class: 3",
    "many anchors": "class: [" + "".join(f"&a{i} a, " for i in range(20_000)) + "]",
    "aliases": "a: &a [1,1,1,1,1,1,1,1,1]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\n"
    "c: &c [*b,*b,*b,*b,*b,*b,*b,*b]\nd: [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]\nclass: VAE",
    "nested": "{a: " * 20_000,
    "nested in lines": "".join(" " * i + "a:\n" for i in range(600)),
    "nested dashes": "- " * 100_000,
    "questions": "? " * 100_000,
    "a long number": "latent_dim: " + "9" * 200_000,
    "a long number in base 60": "latent_dim: 1" + ":1" * 100_000,
    "a long hexadecimal number": "latent_dim: 0x" + "f" * 200_000,
    "a long number in JSON": '{"class": ' + "9" * 200_000 + "}",
    "a long binary": "class: !!binary " + "a" * 200_000,
    "many hidden layers": layers([100] * 5000),
    "words for layers": layers(["1e2"] * 4000),
    "very wide": mapping(likelihood=net(hidden=[10**9])),
    "too wide a latent": mapping(latent_dim=10**9),
    "a huge latent": mapping(latent_dim=10**30),
    "a huge mixture": mapping(prior={"class": "GaussianMixture", "components": 10**9}),
    "huge data": mapping(event_shape=10**10),
    "huge images": mapping(event_shape=[1, 100_000, 100_000]),
    "a huge flow": mapping(prior={"class": "Flow", "latent_dim": 3, "hidden": [10**6, 10**6]}),
    "a huge covariance": mapping(latent_dim=10**5, prior="FullRankNormal"),
    "a long class": mapping(prior="a" * 200_000),
    "a 13th month": "class: 2024-13-40",
    "a lone mark": "\ufeff\ufeff\ufeff",
}


@pytest.mark.parametrize("kind", ["yaml", pytest.param("json", marks=pytest.mark.slow)])
@pytest.mark.parametrize("case", TEXTS)
def test_small_configurations_of_large_pairs(case, kind, tmp_path):
    file = tmp_path / f"pair.{kind}"
    file.write_text(TEXTS[case])
    refused(lambda: from_config(file), r"\w", ConfigError)


# A file that is too large for the one reader of YAML is so for the command line, too: of those that
# take long to read, the default run has one for each limit.
IN_FULL = ["many lists", "many words", "many lines", "many comments", "many anchors"]


@pytest.mark.parametrize(
    "case", [pytest.param(c, marks=[pytest.mark.slow] * (c in IN_FULL)) for c in TEXTS]
)
def test_the_command_line_refuses_large_pairs_too(case, tmp_path, capsys):
    try:
        inner = yaml.safe_load(TEXTS[case]) if len(TEXTS[case]) < 10**4 else None
    except (ValueError, yaml.YAMLError, RecursionError):
        inner = None
    file = tmp_path / "run.yaml"
    file.write_text(TEXTS[case] if inner is None else yaml.safe_dump({"model": inner}))
    start = time.process_time()
    words = ["fit", str(file), "--out", str(tmp_path / "out"), "--fit.steps", "1", "--quiet"]
    assert cli.main(words) != 0
    assert time.process_time() - start < 5
    assert len(capsys.readouterr().err) < 3000


def test_mappings_have_no_such_limits():
    """A mapping that a program gives is its own affair: only files are bounded."""
    pair = from_config({**SHORTEST, "likelihood": net(hidden=[2] * (CONFIG_ENTRIES + 1))})
    assert len(pair.likelihood.net.hidden) > CONFIG_ENTRIES
    with pytest.raises(ConfigError, match="more than 1000 bytes"):
        from_config({**SHORTEST, "likelihood": net(hidden=[300])}, max_bytes=1000)


def test_max_bytes_raises_the_limit(tmp_path):
    file = tmp_path / "pair.yaml"
    file.write_text(mapping(likelihood=net(hidden=[300])))
    assert from_config(file).likelihood.net.hidden == (300,)
    with pytest.raises(ConfigError, match=r"raise max_bytes="):
        from_config(file, max_bytes=1000)


def test_deeply_nested_parts():
    prior = "StandardNormal"
    for _ in range(10_000):
        prior = {"class": "VampPrior", "posterior": prior}
    refused(lambda: from_config({**SHORTEST, "prior": prior}), "nested too deeply", ConfigError)


def test_a_saved_pair_is_not_much_larger_than_its_weights(tmp_path):
    ppl_vae.save(pairs.vae(), tmp_path)
    text = (tmp_path / "config.yaml").read_text()
    config = yaml.safe_load(text)
    config["model"]["likelihood"]["net"]["hidden"] = [100_000, 100_000]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    refused(lambda: ppl_vae.load(tmp_path), "its parts take more than", ConfigError)


def test_thousands_of_tiny_layers(tmp_path):
    """A file of 10 KB, whose numbers need hardly any memory."""
    ppl_vae.save(pairs.vae(), tmp_path)
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    config["model"]["likelihood"]["net"]["hidden"] = [1] * 3000
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    start = time.process_time()
    with pytest.raises(ConfigError, match="its parts take more than"):
        ppl_vae.load(tmp_path)
    assert time.process_time() - start < 5
    # What one writes oneself may have many.
    deep = {**SHORTEST, "likelihood": {"class": "Bernoulli", "net": {"hidden": [1] * 60}}}
    ppl_vae.save(from_config(deep), tmp_path / "deep")
    assert len(ppl_vae.load(tmp_path / "deep").likelihood.net.hidden) == 60


def test_a_manifest_of_many_missing_files(tmp_path):
    files = {f"file {i}": {"bytes": 0, "sha256": ""} for i in range(12_000)}
    listed = {"format": 1, "ppl_vae": "1", "files": files}
    (tmp_path / "manifest.json").write_text(json.dumps(listed))
    refused(lambda: check(tmp_path), "file 0 is missing", io.DamagedError)


# --- arrays


def header(shape, dtype="<f8", order="False", version=b"\x01\x00"):
    text = f"{{'descr': {dtype!r}, 'fortran_order': {order}, 'shape': {shape}, }}".encode()
    length = len(text).to_bytes(2 if version == b"\x01\x00" else 4, "little")
    return b"\x93NUMPY" + version + length + text


def archive(*entries, compression=zipfile.ZIP_STORED):
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as opened:
        for name, content in entries:
            opened.writestr(name, content)
    return buffer.getvalue()


@functools.cache
def same_names(count):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that are there twice
        return archive(*[("x.npy", b"")] * count)


ARRAYS = {
    "a huge shape": (header((10**12,)) + bytes(8), "promises 8000000000000 bytes, got 8"),
    "a shape that overflows": (header((2**62, 2**62)) + bytes(8), "promises"),
    "a negative shape": (header((-1,)) + bytes(8), "has the shape"),
    "two negative sizes": (header((-2, -4)) + bytes(64), "has the shape"),
    "a shape of words": (header(("a",)) + bytes(8), "cannot be read|shape"),
    "a shape of nothing": (header((0, 10**18)) + bytes(8), "promises 0 bytes, got 8"),
    "too short": (header((3,)) + bytes(8), "promises 24 bytes, got 8"),
    "too long": (header((3,)) + bytes(80), "promises 24 bytes, got 80"),
    "objects": (header((1,), "|O") + bytes(8), "Python objects"),
    "objects in records": (header((1,), [("a", "|O")]) + bytes(8), "Python objects"),
    "a long header": (
        header((1,), version=b"\x02\x00")[:8] + b"\xff\xff\xff\x7f",
        "header is longer",
    ),
    "a header of code": (header("__import__('os').getcwd()") + bytes(8), "cannot be read"),
    "a nested header": (header("(" * 5000 + ")" * 5000) + bytes(8), "cannot be read"),
    "a huge type": (header((10**6,), "|V999999999") + bytes(8), "promises"),
    "another version": (b"\x93NUMPY\x09\x00" + bytes(80), "version"),
    "names without end": (lambda: same_names(20_000), "duplicate|longer than"),
    "two arrays of one name": (same_names(2), "duplicate array"),
    "bzip2": (archive(("x.npy", b""), compression=zipfile.ZIP_BZIP2), "or deflated, .* got bzip2"),
    "lzma": (archive(("x.npy", b""), compression=zipfile.ZIP_LZMA), "or deflated, .* got lzma"),
    "an archive within": (archive(("x.npy", archive(("x.npy", b"")))), "cannot be read"),
    "a lie in an archive": (archive(("x.npy", header((10**12,)) + bytes(8))), "promises"),
    "a pickle": (b"\x80\x04\x95" + bytes(100), "magic|cannot be read"),
}


@pytest.mark.parametrize("case", ARRAYS)
@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_arrays_smaller_than_they_claim(case, suffix, tmp_path):
    content, words = ARRAYS[case]
    file = tmp_path / f"a.{suffix}"
    file.write_bytes(content() if callable(content) else content)
    refused(lambda: from_file(file), words)


def test_zeros_that_compress_to_nearly_nothing(tmp_path, monkeypatch):
    zeros = header((50, 2**20), "|u1") + bytes(50 * 2**20)
    bomb = archive(("x.npy", zeros), compression=zipfile.ZIP_DEFLATED)
    (tmp_path / "a.npz").write_bytes(bomb)
    assert (tmp_path / "a.npz").stat().st_size < 10**5
    assert len(from_file(tmp_path / "a.npz", scale=1)) == 50  # small enough to be read
    monkeypatch.setattr("ppl_vae.data.arrays._BOMB", (2**20, 200))
    refused(lambda: from_file(tmp_path / "a.npz", scale=1), "claims .*; if that is right, write it")


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f4", ">f8", "|u1", "|b1"])
@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4), (5, 1)])
def test_arrays_are_read_as_numpy_reads_them(shape, dtype, order, tmp_path):
    values = np.asarray(np.random.default_rng(0).integers(0, 2, shape), dtype=dtype, order=order)
    native = values.astype(values.dtype.newbyteorder("="))
    np.save(tmp_path / "a.npy", native)
    np.savez(tmp_path / "b.npz", x=native)
    np.savez_compressed(tmp_path / "c.npz", x=native, y=np.arange(shape[0]))
    for name in ("a.npy", "b.npz", "c.npz"):
        assert np.array_equal(from_file(tmp_path / name, scale=1).values.numpy(), values)


# --- images


def chunk(kind, content):
    total = kind + content
    return struct.pack(">I", len(content)) + total + struct.pack(">I", zlib.crc32(total))


def png(width, height, rows):
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + body


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(x) print\n"
IMAGES = {
    "20,000 squared": (
        png(20_000, 20_000, bytes(100)),
        "readable 8-bit image: Image size .400000000 pixels. exceeds",
    ),
    "10,000 squared": (png(10_000, 10_000, bytes(100)), "10000 x 10000 pixels"),
    "2**31 wide": (png(2**31 - 1, 2**31 - 1, b""), "readable 8-bit image"),
    "nothing wide": (png(0, 0, b""), "readable 8-bit image"),
    "cut short": (png(100, 100, bytes(50)), "readable 8-bit image"),
    "PostScript": (POSTSCRIPT, "readable 8-bit image: cannot identify"),
    "an icon": (b"\x00\x00\x01\x00\x01\x00" + bytes(100), "readable 8-bit image"),
    "a PDF": (b"%PDF-1.4\n" + bytes(100), "readable 8-bit image"),
    "a GIF of 65535 squared": (b"GIF89a\xff\xff\xff\xff\x00\x00\x00;", "readable 8-bit image"),
    "a BMP": (
        b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 2**30, 2**30, 1, 24, *[0] * 6),
        "8-bit",
    ),
    "PGM": (b"P5 100000 100000 255\n" + bytes(10), "readable 8-bit image"),
}


@pytest.mark.parametrize("suffix", ["png", "jpg", "tiff", "webp", "gif"])
@pytest.mark.parametrize("case", IMAGES)
def test_images_that_are_too_large_or_something_else(case, suffix, tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: pytest.fail("a program was started"))
    content, words = IMAGES[case]
    (tmp_path / f"a.{suffix}").write_bytes(content)
    refused(lambda: from_folder(tmp_path), words)


def test_an_image_with_another_suffix_is_read(tmp_path):
    Image.fromarray(np.full((4, 5), 7, dtype=np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.jpg")
    assert from_folder(tmp_path).values.eq(7).all()


def test_images_that_together_exceed_the_memory(tmp_path, monkeypatch):
    for name in "ab":
        Image.fromarray(np.zeros((100, 100), dtype=np.uint8)).save(tmp_path / f"{name}.png")
    monkeypatch.setattr("ppl_vae.data.images.memory", lambda: 19_999)
    refused(lambda: from_folder(tmp_path), "2 images .* need 20000 bytes, more")


def test_a_folder_of_too_many_files(tmp_path, monkeypatch):
    for i in range(20):
        (tmp_path / f"{i}.txt").touch()
    monkeypatch.setattr("ppl_vae.data.images.MAX_FILES", 19)
    refused(lambda: from_folder(tmp_path), "at most 19 entries")


# --- MNIST


def idx(values, kind=8):
    head = struct.pack(f">BBBB{values.ndim}I", 0, 0, kind, values.ndim, *values.shape)
    return head + values.tobytes()


@pytest.fixture
def kmnist(tmp_path):
    raw = tmp_path / "KMNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "train-images-idx3-ubyte").write_bytes(idx(np.ones((5, 2, 2), dtype=np.uint8)))
    (raw / "train-labels-idx1-ubyte").write_bytes(idx(np.arange(5, dtype=np.uint8)))
    return raw


IDX = {
    "a huge header": struct.pack(">BBBBIII", 0, 0, 8, 3, 2**32 - 1, 2**32 - 1, 2**32 - 1),
    "doubles": struct.pack(">BBBBIII", 0, 0, 14, 3, 1, 1, 1) + bytes(8),
    "255 dimensions": struct.pack(">BBBB", 0, 0, 8, 255) + bytes(1020),
    "one dimension": idx(np.ones(20, dtype=np.uint8)),
    "a pickle": b"\x80\x02}q\x00." + bytes(20),
    "too long": idx(np.ones((5, 2, 2), dtype=np.uint8)) + b"\0",
    "fewer than labels": idx(np.ones((4, 2, 2), dtype=np.uint8)),
    "nothing": b"",
}


@pytest.mark.parametrize("case", IDX)
def test_invalid_files_of_mnist(case, kmnist, tmp_path):
    (kmnist / "train-images-idx3-ubyte").write_bytes(IDX[case])
    refused(
        lambda: data.load("kmnist", root=tmp_path),
        "the files of 'kmnist' in .* are incomplete or corrupt",
    )


def test_pickles_of_old_versions_of_torchvision_are_ignored(kmnist, tmp_path):
    processed = kmnist.with_name("processed")
    processed.mkdir()
    torch.save((torch.zeros(5, 2, 2), torch.zeros(5)), processed / "training.pt")
    shutil.copy(processed / "training.pt", processed / "test.pt")
    dataset = data.load("kmnist", root=tmp_path)
    assert dataset.values.eq(1).all()
    assert dataset.labels.tolist() == [0, 1, 2, 3, 4]


def test_pickles_alone_are_ignored(kmnist, tmp_path, monkeypatch):
    processed = kmnist.with_name("processed")
    kmnist.rename(processed)
    torch.save((torch.zeros(5, 2, 2), torch.zeros(5)), processed / "training.pt")
    shutil.copy(processed / "training.pt", processed / "test.pt")
    monkeypatch.setattr(torch, "load", lambda *a, **k: pytest.fail("a pickle was read"))
    monkeypatch.setattr("urllib.request.urlopen", lambda *a, **k: (_ for _ in ()).throw(OSError()))
    with pytest.raises(FileNotFoundError, match="dataset 'kmnist' must be in"):
        data.load("kmnist", root=tmp_path)


# --- tensors


def test_headers_of_many_tensors(tmp_path):
    entry = json.dumps({"dtype": "F32", "shape": [], "data_offsets": [0, 0]})
    text = ("{" + ", ".join(f'"t{i}": {entry}' for i in range(140_000)) + "}").encode()
    (tmp_path / "w").write_bytes(len(text).to_bytes(8, "little") + text)
    refused(lambda: read_tensors(tmp_path / "w"), "its header claims .* of at most")
    refused(lambda: io.load_state(tmp_path / "w"), "its header claims .* of at most")


def test_hostile_files_do_not_need_a_gigabyte(tmp_path):
    """In a process that may have no more beside what it has at first."""
    if not Path("/proc/self/statm").exists():
        pytest.skip("no /proc, by which to tell how much memory a process has")
    (tmp_path / "a.npy").write_bytes(ARRAYS["a huge shape"][0])
    (tmp_path / "b.png").write_bytes(IMAGES["20,000 squared"][0])
    (tmp_path / "c.yaml").write_text(TEXTS["too wide a latent"])
    holes(tmp_path / "d.safetensors")

    def read():
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + 2**30
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        for error, call in (
            (ValueError, lambda: data.load(tmp_path / "a.npy")),
            (ValueError, lambda: data.load(tmp_path)),
            (ConfigError, lambda: from_config(tmp_path / "c.yaml")),
            (io.DamagedError, lambda: read_tensors(tmp_path / "d.safetensors")),
        ):
            with pytest.raises(ValueError, match=r"\w") as caught:
                call()
            assert caught.type is error

    assert forked(read) == 0
