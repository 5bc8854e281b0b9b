"""Files are whole or not there, come back bit for bit, and run nothing."""

import collections
import json
import math
import os
import pickle
import shutil
import subprocess
import sys
import textwrap
import time
import types
import warnings
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pairs
import pyro
import pytest
import safetensors.torch
import torch
import yaml
from pairs import CONDITIONAL_PRIORS, LIKELIHOODS, POSTERIORS, PRIORS, C, D, Z, net
from torch import nn

import ppl_vae
from ppl_vae import (
    VAE,
    ConditionalVAE,
    HierarchicalVAE,
    SemiSupervisedVAE,
    StackedVAE,
    io,
    likelihoods,
    nets,
    posteriors,
    priors,
)
from ppl_vae.io import (
    DamagedError,
    MismatchError,
    NewerFormatError,
    UnsafeError,
    check,
    clear_leftovers,
    load,
    load_state,
    load_weights,
    new_folder,
    read_tensors,
    replaced_file,
    save,
    save_state,
    save_weights,
    seal,
    write_tensors,
)
from ppl_vae.io.atomic import PREFIX, write_bytes
from ppl_vae.io.config import ConfigError
from ppl_vae.io.tensors import DTYPES


def names(folder):
    return sorted(path.name for path in Path(folder).iterdir())


# --- whole or not at all


def test_a_file_is_replaced(tmp_path):
    file = tmp_path / "numbers.csv"
    file.write_text("old")
    with replaced_file(file) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".csv"
        temporary.write_text("new")
        assert file.read_text() == "old"
    assert file.read_text() == "new"
    assert names(tmp_path) == ["numbers.csv"]


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt, SystemExit, OSError])
@pytest.mark.parametrize("there", [False, True])
def test_a_failure_changes_nothing(tmp_path, failure, there):
    file = tmp_path / "file"
    if there:
        file.write_text("old")

    def write():
        with replaced_file(file) as temporary:
            temporary.write_text("half of")
            raise failure

    with pytest.raises(failure):
        write()
    assert names(tmp_path) == ["file"] * there
    assert not there or file.read_text() == "old"


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failure_of_the_disk_changes_nothing(tmp_path, monkeypatch, step):
    file = tmp_path / "file"
    file.write_text("old")

    def fail(*_):
        raise OSError(5, "input/output error")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="input/output"):
        write_bytes(file, b"new")
    monkeypatch.undo()
    assert file.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_what_is_written_reaches_the_disk_before_it_is_renamed(tmp_path, monkeypatch):
    done = []

    def record(name):
        real = getattr(os, name)

        def call(*given):
            what = given[0] if name != "fsync" else os.readlink(f"/proc/self/fd/{given[0]}")
            done.append((name, Path(what).name.startswith(PREFIX)))
            return real(*given)

        monkeypatch.setattr(os, name, call)

    if not Path("/proc/self/fd").exists():
        pytest.skip("no /proc, by which to tell what was synchronised")
    for name in ("fsync", "replace", "rename"):
        record(name)
    write_bytes(tmp_path / "file", b"new")
    assert done == [("fsync", True), ("replace", True), ("fsync", False)]
    done.clear()
    with new_folder(tmp_path / "folder") as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "file").write_text("new")
    *before, rename, last = done
    assert (rename, last) == (("rename", True), ("fsync", False))
    assert [name for name, _ in before] == ["fsync"] * 3  # the file, its folder, the folder


def test_the_temporary_is_written_or_the_failure_is_told(tmp_path):
    with pytest.raises(FileNotFoundError), replaced_file(tmp_path / "file"):
        pass
    with pytest.raises(FileNotFoundError), replaced_file(tmp_path / "no folder" / "file") as file:
        file.write_text("new")
    with pytest.raises(IsADirectoryError, match="a folder of that name"):
        write_bytes(tmp_path, b"new")
    assert names(tmp_path) == []


def test_a_folder_appears_at_once(tmp_path):
    with new_folder(tmp_path / "one") as folder:
        (folder / "file").write_text("new")
        assert not (tmp_path / "one").exists()
    assert names(tmp_path) == ["one"]
    assert (tmp_path / "one" / "file").read_text() == "new"


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt])
def test_a_folder_that_fails_leaves_nothing(tmp_path, failure):
    def fill():
        with new_folder(tmp_path / "one") as folder:
            (folder / "file").write_text("half of")
            raise failure

    with pytest.raises(failure):
        fill()
    assert names(tmp_path) == []


@pytest.mark.parametrize("late", [False, True])
def test_a_folder_that_is_there_stays(tmp_path, late):
    def fill():
        if not late:
            (tmp_path / "one").mkdir()
        with new_folder(tmp_path / "one"):
            if late:  # somebody else's, meanwhile
                (tmp_path / "one").mkdir()

    with pytest.raises(FileExistsError, match="remove it or choose another"):
        fill()
    assert names(tmp_path) == ["one"]


def test_leftovers_are_cleared_and_nothing_else(tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / f"{PREFIX}0123.pt").write_text("half of")
    (tmp_path / f"{PREFIX}4567").mkdir()
    (tmp_path / f"{PREFIX}4567" / "file").write_text("half of")
    (tmp_path / f"{PREFIX}link").symlink_to(tmp_path)
    assert len(clear_leftovers(tmp_path)) == 3
    assert names(tmp_path) == ["file"]
    assert clear_leftovers(tmp_path / "nowhere") == []


# Each scenario runs in a process of its own, which is killed, or whose disk is full.
SCENARIOS = """
import os, resource, signal, sys
from pathlib import Path
import torch
import ppl_vae
from ppl_vae import io
from ppl_vae.io.atomic import write_bytes
import pairs

root = Path(sys.argv[1])


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def die_at(step, call, how=die):
    real, count = getattr(os, step), iter(range(100))
    def patched(*given):
        if next(count) == call:
            how()
        return real(*given)
    setattr(os, step, patched)


def full_disk(size):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def file_half_written(folder):
    with io.replaced_file(folder / "file") as temporary, open(temporary, "wb") as file:
        file.write(b"half of")
        file.flush()
        die()


def file_before_the_rename(folder):
    die_at("replace", 0)
    write_bytes(folder / "file", b"new")


def file_exit_before_the_rename(folder):
    die_at("replace", 0, lambda: os._exit(3))
    write_bytes(folder / "file", b"new")


def folder_before_the_rename(folder):
    die_at("rename", 0)
    with io.new_folder(folder / "new") as new:
        (new / "file").write_text("new")


def pair_before_the_renames(folder):
    die_at("replace", 0)
    ppl_vae.save(other, folder)


def pair_between_the_renames(folder):
    die_at("replace", 1)
    ppl_vae.save(other, folder)


def file_full(folder):
    full_disk(1000)
    write_bytes(folder / "file", bytes(5000))


def weights_full(folder):
    full_disk(1000)
    io.save_weights(other, folder / "model.safetensors")


def state_full(folder):
    full_disk(1000)
    io.save_state({"numbers": torch.zeros(5000)}, folder / "file")


def folder_full(folder):
    full_disk(1000)
    with io.new_folder(folder / "new") as new:
        (new / "small").write_text("new")
        (new / "file").write_bytes(bytes(5000))


def pair_full(folder):
    full_disk(1000)
    ppl_vae.save(other, folder)


torch.manual_seed(1)
pair = pairs.vae()
other = pairs.vae(prior="mixture")
for name in sys.argv[2:]:
    folder = root / name
    folder.mkdir()
    (folder / "file").write_text("old")
    ppl_vae.save(pair, folder)
    child = os.fork()
    if not child:
        try:
            globals()[name](folder)
            os._exit(0)
        except OSError as error:
            os._exit(100 + error.errno)
        finally:
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    (root / f"{name}.status").write_text(str(status))

# Killed at random: two contents alternate, and one of them must be there.
file = root / "alternating"
contents = [b"a" * 300_000, b"b" * 500_000]
write_bytes(file, contents[0])
seen = set()
for i in range(12):
    child = os.fork()
    if not child:
        while True:
            for content in contents:
                write_bytes(file, content)
    import time
    time.sleep(0.002 + 0.0037 * i)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    seen.add(contents.index(file.read_bytes()))
(root / "random.status").write_text(str(sorted(seen)))
"""
KILLED, EXITED, FULL = -9, 3, 100 + 27
STATUS = {
    "file_half_written": KILLED,
    "file_before_the_rename": KILLED,
    "file_exit_before_the_rename": EXITED,
    "folder_before_the_rename": KILLED,
    "pair_before_the_renames": KILLED,
    "pair_between_the_renames": KILLED,
    "file_full": FULL,
    "weights_full": FULL,
    "state_full": FULL,
    "folder_full": FULL,
    "pair_full": FULL,
}


def test_what_was_there_stays_when_a_process_is_killed_or_the_disk_is_full(tmp_path):
    """One test, as importing the package in another process takes seconds."""
    here = str(Path(__file__).parent)
    subprocess.run(
        [sys.executable, "-c", SCENARIOS, str(tmp_path), *STATUS],
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in (here, *sys.path) if p)},
    )
    torch.manual_seed(1)
    old = pairs.vae()
    for scenario, status in STATUS.items():
        folder = tmp_path / scenario
        assert int((tmp_path / f"{scenario}.status").read_text()) == status, scenario
        assert (folder / "file").read_text() == "old", scenario
        left = [name for name in names(folder) if name.startswith(PREFIX)]
        assert names(folder) == sorted([*left, "config.yaml", "file", "model.safetensors"])
        assert bool(left) == (status != FULL), scenario  # only a killed process cannot tidy up
        assert [path.name for path in clear_leftovers(folder)] == left
        if scenario == "pair_between_the_renames":
            with pytest.raises(DamagedError, match=r"not the file that config\.yaml was .*interr"):
                load(folder)
        else:
            same(load(folder), old)
    assert set((tmp_path / "alternating").read_bytes()) in ({ord("a")}, {ord("b")})
    assert json.loads((tmp_path / "random.status").read_text()) in ([0], [1], [0, 1])


# --- the manifest


@pytest.fixture
def sealed(tmp_path):
    folder = tmp_path / "sealed"
    (folder / "inner").mkdir(parents=True)
    (folder / "a.bin").write_bytes(bytes(range(100)))
    (folder / "inner" / "b.bin").write_bytes(b"abc")
    (folder / "empty").write_bytes(b"")
    seal(folder)
    return folder


def test_a_sealed_folder_is_whole(sealed):
    assert check(sealed) == ["a.bin", "empty", "inner/b.bin"]
    listed = json.loads((sealed / "manifest.json").read_text())
    assert (listed["format"], listed["ppl_vae"]) == (1, ppl_vae.__version__)
    (sealed / "another").write_text("not looked at")
    assert len(check(sealed)) == 3
    seal(sealed)
    assert len(check(sealed)) == 4
    moved = sealed.rename(sealed.with_name("moved"))
    assert len(check(moved)) == 4


@pytest.mark.parametrize("at", [0, 1, 50, 99])
def test_a_changed_byte_is_found(sealed, at):
    data = bytearray((sealed / "a.bin").read_bytes())
    data[at] ^= 1
    (sealed / "a.bin").write_bytes(data)
    with pytest.raises(DamagedError, match=r"sealed: a\.bin is damaged: its SHA-256"):
        check(sealed)


@pytest.mark.parametrize("length", [0, 1, 99])
def test_a_truncated_file_is_found(sealed, length):
    os.truncate(sealed / "a.bin", length)
    with pytest.raises(DamagedError, match=rf"sealed: a\.bin is truncated: {length} of 100 bytes"):
        check(sealed)


def test_missing_and_longer_files_are_found(sealed):
    (sealed / "empty").write_text("more")
    with pytest.raises(DamagedError, match="empty is too long: 4 instead of 0 bytes"):
        check(sealed)
    (sealed / "empty").unlink()
    with pytest.raises(DamagedError, match="sealed: empty is missing"):
        check(sealed)
    (sealed / "manifest.json").unlink()
    with pytest.raises(DamagedError, match=r"sealed: manifest\.json is missing"):
        check(sealed)
    with pytest.raises(FileNotFoundError, match="no folder"):
        check(sealed / "nowhere")


def manifest(**changes):
    return json.dumps({"format": 1, "ppl_vae": "0.1.0", "files": {}, **changes})


MANIFESTS = {
    "no JSON": ('{"format": 1,', DamagedError, "cannot be read"),
    "empty": ("", DamagedError, "cannot be read"),
    "no text": (b"\xff\xfe\x00", DamagedError, "cannot be read"),
    "nested": ("[" * 100_000, DamagedError, "cannot be read"),
    "a number of many digits": ("9" * 10_000, DamagedError, r"cannot be read|no mapping"),
    "a list": ("[]", DamagedError, "holds no mapping"),
    "no format": ("{}", DamagedError, "the format must be an integer"),
    "format true": (manifest(format=True), DamagedError, "the format must be an integer"),
    "format 0": (manifest(format=0), DamagedError, "the format must be an integer"),
    "newer": (
        manifest(format=3, ppl_vae="0.9"),
        NewerFormatError,
        r"written by ppl_vae 0\.9 in format 3, this is .* reads up to format 1; update",
    ),
    "files are a list": (manifest(files=[]), DamagedError, "lists no files"),
    "no size": (manifest(files={"a.bin": {"sha256": ""}}), DamagedError, "how long a.bin is"),
    "no entry": (manifest(files={"a.bin": None}), DamagedError, "how long a.bin is"),
    "no sum": (manifest(files={"a.bin": {"bytes": 100}}), DamagedError, "a.bin is damaged"),
    "a folder": (manifest(files={"inner": {"bytes": 1}}), DamagedError, "inner is missing"),
    "very long": (" " * (2**24 + 1), DamagedError, "longer than"),
}


@pytest.mark.parametrize("case", MANIFESTS)
def test_manifests_that_cannot_be_read(sealed, case):
    text, error, words = MANIFESTS[case]
    (sealed / "manifest.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(error, match=words):
        check(sealed)


@pytest.mark.parametrize(
    "name", ["../secret", "inner/../../secret", "/etc/passwd", "", ".", "..", "in\\..\\x", "a\0b"]
)
def test_a_manifest_that_leaves_its_folder_is_refused(sealed, name, monkeypatch):
    (sealed.parent / "secret").write_text("s")
    files = {"a.bin": {"bytes": 100, "sha256": ""}, name: {"bytes": 1, "sha256": ""}}
    (sealed / "manifest.json").write_text(manifest(files=files))
    monkeypatch.setattr("ppl_vae.io.manifest.sha256", lambda _: pytest.fail("was read"))
    with pytest.raises(UnsafeError, match=r"names .*, which is no file of this folder"):
        check(sealed)


def test_links_are_refused(sealed):
    (sealed.parent / "secret").write_text("abc")
    (sealed / "inner").rename(sealed.parent / "elsewhere")
    (sealed / "inner").symlink_to(sealed.parent / "elsewhere")
    with pytest.raises(UnsafeError, match=r"'inner/b\.bin', which a link leads out"):
        check(sealed)
    with pytest.raises(ValueError, match="inner is a link"):
        seal(sealed)
    (sealed / "empty").unlink()
    (sealed / "empty").symlink_to(sealed.parent / "secret")
    with pytest.raises(UnsafeError, match="'empty', which is no file of this folder"):
        check(sealed)


# --- weights


class Everything(nn.Module):
    """Tensors of every kind that a module may hold."""

    def __init__(self):
        super().__init__()
        self.plain = nn.Parameter(torch.randn(3, 4))
        self.transposed = nn.Parameter(torch.randn(4, 3).t())
        self.images = nn.Parameter(torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last))
        self.scalar = nn.Parameter(torch.tensor(float("nan")))
        self.tied = self.plain
        for dtype in DTYPES:
            bits = torch.randint(256, (7, dtype.itemsize), dtype=torch.uint8)
            values = (bits % 2).bool()[:, 0] if dtype == torch.bool else bits.view(dtype)[:, 0]
            self.register_buffer(str(dtype).replace(".", "_"), values)
        self.register_buffer("steps", torch.tensor(5))
        self.register_buffer("nothing", torch.empty(0, 3))
        self.register_buffer("nothing_else", torch.empty(0, 3))
        self.register_buffer("slice", torch.arange(10.0)[3:5])
        whole = torch.randn(6)
        self.register_buffer("left", whole[:4])
        self.register_buffer("right", whole[2:])
        self.register_buffer("signed", torch.tensor([0.0, -0.0, math.inf]))


def bits(tensor):
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).tolist()


def same_tensors(ones, others):
    assert list(ones) == list(others)
    for name, one in ones.items():
        other = others[name]
        assert (one.shape, one.dtype) == (other.shape, other.dtype), name
        assert bits(one) == bits(other), name


def same(one, other):
    same_tensors(one.state_dict(), other.state_dict())


def test_every_bit_of_every_kind_survives(tmp_path):
    module, other = Everything(), Everything()
    save_weights(module, tmp_path / "w.safetensors")
    same_tensors(module.state_dict(), Everything.state_dict(module))
    load_weights(other, tmp_path / "w.safetensors")
    same(module, other)
    assert other.tied is other.plain
    assert other.images.is_contiguous(memory_format=torch.channels_last)
    assert names(tmp_path) == ["w.safetensors"]


def test_mappings_of_tensors_survive(tmp_path):
    file = tmp_path / "t.safetensors"
    shared = torch.randn(3)
    tensors = {"a": shared, "b": shared, "conjugate": torch.randn(3, dtype=torch.complex64).conj()}
    tensors["empty name"] = tensors["conjugate"].imag  # has its sign in a flag
    tensors[""] = torch.ones(2, requires_grad=True)
    tensors["square"] = torch.randn(3, 3)
    tensors["turned"] = tensors["square"].t()  # at the same place in memory
    write_tensors(tensors, file)
    back = read_tensors(file)
    assert back["a"] is back["b"]
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(back[name], tensor.resolve_neg())
    back["a"] += 1  # ours alone, and can be written to
    assert torch.equal(read_tensors(file)["a"], shared)
    write_tensors({}, file)
    assert read_tensors(file) == {}


def test_what_is_shared_is_stored_once(tmp_path):
    vae = pairs.vae("vamp")
    file = tmp_path / "w.safetensors"
    save_weights(vae, file)
    stored = safetensors.torch.load_file(file)
    assert len(stored) == len({tensor.data_ptr() for tensor in vae.state_dict().values()})
    assert len(stored) < len(vae.state_dict())
    other = pairs.vae("vamp")
    load_weights(other, file)
    same(vae, other)
    assert other.prior.posterior is other.posterior


def test_the_same_tensors_are_the_same_bytes(tmp_path):
    vae = pairs.vae("vamp", "iaf")
    for name in ("a", "b"):
        save_weights(vae, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_file_of_the_library_itself_can_be_read(tmp_path):
    vae, other = pairs.vae(), pairs.vae()
    safetensors.torch.save_file(dict(vae.state_dict()), tmp_path / "w", metadata={"format": "pt"})
    load_weights(other, tmp_path / "w")
    same(vae, other)


def renamed(name, new):
    def change(tensors):
        tensors[new] = tensors.pop(name)

    return change


def reshaped(tensors):
    for name in [n for n in tensors if n.endswith("weight")]:
        tensors[name] = torch.zeros(1, 99)


def transposed(tensors):  # as many numbers, in another shape
    name = "model.likelihood.net.layers.0.weight"
    tensors[name] = tensors[name].t()


FIRST = "guide.posterior.net.layers.0.weight"
MISMATCHES = {
    "a name": (
        renamed(FIRST, "guide.other"),
        rf"it lacks '{FIRST}' of the module, and it holds 'guide\.other', which.*build the module",
    ),
    "missing": (lambda t: t.pop(FIRST), rf"it lacks '{FIRST}' of the module; build"),
    "nothing": (dict.clear, r"it lacks '.*', '.*', '.*' and 5 more of the module; build"),
    "more": (lambda t: t.update(more=torch.ones(1)), r"it holds 'more', which the module has not"),
    "shapes": (
        reshaped,
        r"is \(1, 99\) in the file and \(5, 2\) in the module, .* and 1 more; build",
    ),
    "transposed": (transposed, r"is \(2, 5\) in the file and \(5, 2\) in the module; build"),
    "dtypes": (
        lambda t: t.update({n: v.double() for n, v in t.items()}),
        r"and 7 more is torch\.float64 in the file and torch\.float32.*module\.to\(torch\.float64",
    ),
    "integers": (
        lambda t: t.update({FIRST: t[FIRST].int()}),
        r"is torch\.int32 in the file and torch\.float32 in the module; build",
    ),
}


@pytest.mark.parametrize("case", MISMATCHES)
def test_weights_of_another_module_change_nothing(tmp_path, case):
    change, words = MISMATCHES[case]
    vae = pairs.vae()
    before = {name: tensor.clone() for name, tensor in vae.state_dict().items()}
    tensors = {name: torch.zeros_like(tensor) for name, tensor in before.items()}
    change(tensors)
    write_tensors(tensors, tmp_path / "w")
    with pytest.raises(MismatchError, match=words):
        load_weights(vae, tmp_path / "w")
    same_tensors(before, vae.state_dict())


def test_a_part_for_the_whole_is_told(tmp_path):
    vae = pairs.vae()
    save_weights(vae, tmp_path / "whole")
    save_weights(vae.model, tmp_path / "model")
    save_weights(vae.likelihood.net, tmp_path / "net")
    with pytest.raises(MismatchError, match=r"file start with 'likelihood\.net\.': load it into"):
        load_weights(vae.likelihood.net, tmp_path / "model")
    with pytest.raises(MismatchError, match=r"module's names start with 'likelihood\.net\.'"):
        load_weights(vae.model, tmp_path / "net")
    with pytest.raises(MismatchError, match=r"the names in the file start with 'model\.'"):
        load_weights(vae.model, tmp_path / "whole")


def test_different_values_for_one_tensor_are_refused(tmp_path):
    vae = pairs.vae("vamp")
    before = {name: tensor.clone() for name, tensor in vae.state_dict().items()}
    write_tensors({name: torch.randn_like(t) for name, t in before.items()}, tmp_path / "w")
    with pytest.raises(MismatchError, match=r"'model\.prior\.posterior.*differ in the file, and"):
        load_weights(vae, tmp_path / "w")
    same_tensors(before, vae.state_dict())
    apart = {name: tensor.clone() for name, tensor in before.items()}
    apart[FIRST][0, 0] = apart[f"model.prior.posterior.{FIRST[16:]}"][0, 0] = float("nan")
    write_tensors(apart, tmp_path / "w")  # the same bits, though stored twice
    load_weights(vae, tmp_path / "w")
    assert vae.posterior.net.layers[0].weight[0, 0].isnan()


class ExtraState(nn.Linear):
    def get_extra_state(self):
        return {"count": 3}

    def set_extra_state(self, state):
        raise AssertionError


UNSAVED = {
    "extra state": (lambda: ExtraState(2, 2), r"'_extra_state' is .* holds tensors only"),
    "lazy": (lambda: nn.LazyLinear(2), "'weight' has no shape yet"),
    "meta": (lambda: nn.Linear(2, 2, device="meta"), "'weight' is .* on meta, which safetensors"),
    "sparse": (lambda: torch.eye(3).to_sparse(), "layout torch.sparse_coo, on cpu, which"),
    "complex128": (lambda: torch.ones(2, dtype=torch.complex128), "complex128, .* cannot hold"),
}


@pytest.mark.parametrize("case", UNSAVED)
def test_what_weights_cannot_hold_is_named_before_anything_is_written(tmp_path, case):
    make, words = UNSAVED[case]
    made = make()
    if isinstance(made, torch.Tensor):
        module = nn.Module()
        module.register_buffer("weight", made)
        made = module
    (tmp_path / "w").write_text("old")
    with pytest.raises(TypeError, match=words):
        save_weights(made, tmp_path / "w")
    assert (tmp_path / "w").read_text() == "old"
    assert names(tmp_path) == ["w"]


@pytest.mark.parametrize("length", [0, 1, 7, 8, 20, 500, -1])
def test_truncated_weights(tmp_path, length):
    file = tmp_path / "w"
    vae = pairs.vae()
    save_weights(vae, file)
    before = {name: tensor.clone() for name, tensor in vae.state_dict().items()}
    os.truncate(file, length % file.stat().st_size)
    with pytest.raises(DamagedError, match=r"w is no whole safetensors file \(\d+ bytes\)"):
        load_weights(vae, file)
    same_tensors(before, vae.state_dict())


def safetensors_file(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(shape, start, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def with_metadata(**header):
    return safetensors_file({"__metadata__": {"ppl_vae": json.dumps(header)}})


HEADERS = {
    "2**60 bytes": (safetensors_file({}, length=2**60), DamagedError, "no whole safetensors"),
    "2**64 - 1 bytes": (safetensors_file({}, length=2**64 - 1), DamagedError, "no whole"),
    "no JSON": (safetensors_file(b"{]"), DamagedError, "no whole"),
    "a list": (safetensors_file([]), DamagedError, "no whole"),
    "nested": (safetensors_file(b"[" * 100_000), DamagedError, "no whole"),
    "huge": (safetensors_file({"x": entry([2**60], 0, 2**62)}), DamagedError, "no whole"),
    "overflow": (
        safetensors_file({"x": entry([2**32, 2**32], 0, 4)}, bytes(4)),
        DamagedError,
        "no whole",
    ),
    "overlapping": (
        safetensors_file({"x": entry([2], 0, 8), "y": entry([2], 4, 12)}, bytes(12)),
        DamagedError,
        "no whole",
    ),
    "outside": (safetensors_file({"x": entry([2], 8, 16)}, bytes(8)), DamagedError, "no whole"),
    "an unknown dtype": (
        safetensors_file({"x": entry([1], 0, 8, "OBJ")}, bytes(8)),
        DamagedError,
        "no whole",
    ),
    "no number of the format": (with_metadata(), DamagedError, "format must be an integer"),
    "newer": (
        with_metadata(format=2, version="1.0"),
        NewerFormatError,
        r"written by ppl_vae 1\.0 in format 2",
    ),
    "a name of nothing": (
        with_metadata(format=1, aliases={"a": "b"}),
        DamagedError,
        "gives 'a' as a name of 'b'",
    ),
    "names that are no mapping": (
        with_metadata(format=1, aliases=["a"]),
        DamagedError,
        "no mapping of further names",
    ),
    "no mapping": (
        safetensors_file({"__metadata__": {"ppl_vae": "[]"}}),
        DamagedError,
        "no mapping under 'ppl_vae'",
    ),
}


@pytest.mark.parametrize("case", HEADERS)
def test_headers_that_lie(tmp_path, case):
    data, error, words = HEADERS[case]
    (tmp_path / "w").write_bytes(data)
    start = time.process_time()
    with pytest.raises(error, match=words):
        read_tensors(tmp_path / "w")
    assert time.process_time() - start < 2


# --- state


def trained():
    net = nn.Linear(2, 1)
    adam = torch.optim.Adam(net.parameters(), amsgrad=True)
    schedules = {
        "cycle": torch.optim.lr_scheduler.OneCycleLR(adam, 0.1, total_steps=9),
        "steps": torch.optim.lr_scheduler.MultiStepLR(adam, [3, 3, 5]),
        "plateau": torch.optim.lr_scheduler.ReduceLROnPlateau(adam),
        "lambda": torch.optim.lr_scheduler.LambdaLR(adam, [lambda step: 0.9**step]),
    }
    net(torch.ones(5, 2)).sum().backward()
    adam.step()
    return {
        "net": net.state_dict(),
        "optimizer": adam.state_dict(),
        "schedules": {name: s.state_dict() for name, s in schedules.items()},
    }


def test_the_state_of_a_training_comes_back(tmp_path):
    state = trained()
    save_state(state, tmp_path / "state.pt")
    back = load_state(tmp_path / "state.pt")
    assert plain(back) == plain(state)
    steps = back["schedules"]["steps"]["milestones"]
    assert steps == collections.Counter([3, 3, 5])
    assert type(steps) is collections.Counter


def plain(value):
    """Return what can be compared: tensors as their dtypes, shapes and bits."""
    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), bits(value)
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(plain(v) for v in value)
    return (type(value), repr(value))


def test_data_of_every_kind_come_back(tmp_path):
    state = {
        "numbers": [0, -1, 2**128 + 1, -(2**999), True, 1e-310, -0.0, math.inf, math.nan],
        "words": ("", "ß", "\ud800", "a" * 100_000, None),
        3: {(1, "a"): [], -1.5: (), None: {}},
        "tensors": [torch.tensor([0, 1]).to(dtype) for dtype in DTYPES],
        "unsigned": torch.tensor([0, 2**16 - 1], dtype=torch.uint16),
        "scalar": torch.tensor(3),
        "empty": torch.empty(0, 2),
        "transposed": torch.randn(2, 3).t(),
        "parameter": nn.Parameter(torch.randn(2)),
        "random": torch.get_rng_state(),
    }
    save_state(state, tmp_path / "state.pt")
    back = load_state(tmp_path / "state.pt")
    assert plain(back) == plain(state)
    assert type(back["parameter"]) is torch.Tensor
    save_state({}, tmp_path / "state.pt")
    assert load_state(tmp_path / "state.pt") == {}


def test_of_a_view_only_what_is_seen_is_written(tmp_path):
    save_state({"x": torch.randn(1000, 1000)[3]}, tmp_path / "state.pt")
    assert (tmp_path / "state.pt").stat().st_size < 10_000


def endless():
    state = {"a": []}
    state["a"].append(state)
    return state


def deep():
    state = {}
    inner = state
    for _ in range(200):
        inner["a"] = {}
        inner = inner["a"]
    return state


class Named(tuple):
    pass


REFUSED = {
    "a function": (
        {"scheduler": {"lr_lambdas": [lambda: 0]}},
        r"state\['scheduler'\]\['lr_lambdas'\]\[0\] is <function .*made anew from numbers",
    ),
    "an array": ({"a": (np.ones(2),)}, r"state\['a'\]\[0\] is array\(.*torch\.from_numpy"),
    "numpy's number": ({"a": np.float64(2)}, r"state\['a'\] is np\.float64\(2\.0\).*\.item\(\)"),
    "a set": ({"a": {1}}, r"state\['a'\] is \{1\} \(set\)"),
    "bytes": ({"a": b"a"}, r"state\['a'\] is b'a' \(bytes\)"),
    "an object": ({"a": [{"b": object()}]}, r"state\['a'\]\[0\]\['b'\] is <object"),
    "a class": ({"a": nn.Linear}, r"state\['a'\] is <class"),
    "a module": ({"a": nn.Linear(1, 1)}, r"state\['a'\] is Linear"),
    "a subclass": ({"a": Named((1,))}, r"state\['a'\] is \(1,\) \(Named\)"),
    "a default": ({"a": collections.defaultdict(list)}, r"state\['a'\] is defaultdict"),
    "a key": ({"a": {b"b": 1}}, r"state\['a'\] has the key b'b'"),
    "a key of keys": ({"a": {(1, object()): 1}}, r"state\['a'\] has the key <object"),
    "sparse": ({"a": torch.eye(2).to_sparse()}, r"state\['a'\] is a tensor of .*sparse_coo"),
    "meta": ({"a": torch.ones(2, device="meta")}, r"state\['a'\] is a tensor of .*on meta"),
    "a long integer": ({"a": 2**1001}, r"state\['a'\] is an integer of more than 1000 bits"),
    "itself": (endless(), r"state\['a'\]\[0\] contains itself"),
    "deep": (deep(), "nested more than 100 deep"),
    "a path": ({"a": Path("a")}, r"state\['a'\] is 'a' \(PosixPath\)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_not_be_read_back_is_refused_before_anything_is_written(tmp_path, case):
    state, words = REFUSED[case]
    file = tmp_path / "state.pt"
    file.write_text("old")
    with pytest.raises(TypeError, match=words):
        save_state(state, file)
    assert file.read_text() == "old"
    assert names(tmp_path) == ["state.pt"]


@pytest.mark.parametrize("length", [0, 1, 3, 100, 1000, -100, -1])
def test_truncated_states(tmp_path, length):
    file = tmp_path / "state.pt"
    save_state(trained(), file)
    os.truncate(file, length % file.stat().st_size)
    with pytest.raises(DamagedError, match=r"state\.pt is no whole file of save_state \(\d+ bytes"):
        load_state(file)


def test_a_changed_byte_of_a_state_is_found_or_changes_nothing(tmp_path):
    file = tmp_path / "state.pt"
    state = {"x": torch.arange(50.0), "n": [1, 2], "s": "word"}
    save_state(state, file)
    whole, found = file.read_bytes(), 0
    for at in range(0, len(whole), 11):
        data = bytearray(whole)
        data[at] ^= 4
        file.write_bytes(data)
        try:
            assert plain(load_state(file)) == plain(state), at
        except DamagedError:
            found += 1
    assert found > 40
    at = whole.index(torch.arange(50.0).numpy().tobytes())
    data = bytearray(whole)
    data[at + 9] ^= 1
    file.write_bytes(data)
    with pytest.raises(DamagedError, match=r"state\.pt is damaged: its SHA-256"):
        load_state(file)


# --- files of strangers


class Evil:
    """What a pickle runs when it is read: it makes a file."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


class ByTorch(Evil):
    """The same by a function of torch that reads a pickle in a string."""

    def __reduce__(self):
        inner = BytesIO()
        torch.save(Evil(self.marker), inner)
        return torch.storage._load_from_bytes, (inner.getvalue(),)


class ByName(Evil):
    """The same by a function of Python's."""

    def __reduce__(self):
        return exec, (f"open({self.marker!r}, 'w').close()",)


@pytest.fixture
def marker(tmp_path):
    path = tmp_path / "marker"
    yield path
    assert not path.exists()


def zipped(obj, **options):
    buffer = BytesIO()
    torch.save(obj, buffer, **options)
    return buffer.getvalue()


def compressed(data):
    out = BytesIO()
    with (
        zipfile.ZipFile(BytesIO(data)) as old,
        zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
    return out.getvalue()


def _upper(name):
    return name.replace("data.pkl", "DATA.PKL")


def with_two_pickles(data, evil, change=str):
    """Return an archive of which one program may read the first entry and another the second."""
    out = BytesIO(data)
    with zipfile.ZipFile(out, "a") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # duplicate name
        name = next(n for n in archive.namelist() if n.endswith("/data.pkl"))
        archive.writestr(change(name), pickle.dumps(evil, protocol=2))
    return out.getvalue()


PICKLES = {
    "a pickle": pickle.dumps,
    "an old pickle": lambda evil: pickle.dumps(evil, protocol=0),
    "a pickled state": lambda evil: pickle.dumps({"optimizer": evil}, protocol=2),
    "of torch": lambda evil: zipped({"optimizer": {"state": [evil]}}),
    "of torch, a new protocol": lambda evil: zipped({"a": evil}, pickle_protocol=4),
    "of torch, as before": lambda evil: zipped({"a": evil}, _use_new_zipfile_serialization=False),
    "of torch, compressed": lambda evil: compressed(zipped({"a": evil})),
    "of torch, two pickles": lambda evil: with_two_pickles(zipped({"a": 1}), evil),
    "of torch, two cases": lambda evil: with_two_pickles(zipped({"a": 1}), evil, _upper),
}


@pytest.mark.parametrize("kind", [Evil, ByTorch, ByName])
@pytest.mark.parametrize("case", PICKLES)
def test_pickles_are_not_run(tmp_path, marker, case, kind):
    file = tmp_path / "state.pt"
    file.write_bytes(PICKLES[case](kind(marker)))
    with pytest.raises(DamagedError, match=r"state\.pt is (a file of torch\.save|no whole)"):
        load_state(file)
    with pytest.raises(DamagedError, match="no whole safetensors file"):
        read_tensors(file)


def test_these_pickles_would_run_elsewhere(tmp_path):
    """So that the test above is one."""
    marker = tmp_path / "marker"
    for kind in (Evil, ByTorch, ByName):
        for read in (
            lambda evil: pickle.loads(pickle.dumps(evil)),
            lambda evil: torch.load(BytesIO(zipped({"a": evil})), weights_only=False),
        ):
            read(kind(marker))
            assert marker.exists()
            marker.unlink()


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(1)
    return ppl_vae.save(pairs.vae(), tmp_path / "saved")


def rewrite(folder, change):
    file = folder / "config.yaml"
    config = yaml.safe_load(file.read_text())
    change(config)
    file.write_text(yaml.safe_dump(config))


def set_to(*path):
    *path, last, value = path

    def change(config):
        for name in path:
            config = config[name]
        config[last] = value

    return change


CLASSES = {
    "os.system": (set_to("model", "class", "os.system"), r"model: 'os\.system' is outside ppl_vae"),
    "builtins.eval": (
        set_to("model", "prior", "class", "builtins.eval"),
        r"builtins\.eval' is out",
    ),
    "as a part": (set_to("model", "prior", "os.system"), r"model\.prior: 'os\.system' is outside"),
    "with arguments": (
        set_to("model", "prior", {"class": "subprocess.run", "args": "touch marker"}),
        r"'subprocess\.run' is outside",
    ),
    "exec as an activation": (
        set_to("model", "likelihood", "net", "activation", "builtins.exec"),
        r"model\.likelihood\.net\.activation: 'builtins\.exec' is outside",
    ),
    "a room's own imports": (
        set_to("model", "prior", "class", "priors.torch.load"),
        "is no public part of ppl_vae",
    ),
    "a module of the package": (
        set_to("model", "prior", "class", "ppl_vae.io.state.io.open"),
        "is no public part of ppl_vae",
    ),
    "strange names": (set_to("model", "prior", "class", "__import__('os')"), "the name of a class"),
    "a reference": (set_to("model", "prior", "${__class__.__init__}"), "is no part of the pair"),
    "a network": (set_to("model", {"class": "nets.MLP", "in_features": 1}), "is no pair"),
    "a tuple": (set_to("model", "prior", 3), "model.prior must be"),
}


@pytest.mark.parametrize("case", CLASSES)
def test_classes_that_are_no_parts_are_not_loaded(saved, marker, case):
    change, words = CLASSES[case]
    rewrite(saved, change)
    with pytest.raises(ConfigError, match=words):
        load(saved)
    with pytest.raises(ConfigError):
        load(saved, allow=("os", "builtins", "subprocess", "torch"))


LAUGHS = "a0: &a0 [lol]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 30)
)
MERGES = "a0: &a0 {x: 1}\n" + "".join(
    f"a{i}: &a{i}\n  <<: [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 30)
)
TEXTS = {
    "a call": "model: !!python/object/apply:os.system ['touch {marker}']",
    "a call, deep": "format: 1\nmodel: {a: [!!python/object/apply:os.system ['touch {marker}']]}",
    "an object": "model: !!python/object/new:os.system ['touch {marker}']",
    "a name": "model: !!python/name:os.system",
    "a module": "model: !!python/module:os",
    "an unknown tag": "model: !mine {a: 1}",
    "a billion laughs": LAUGHS,
    "a billion merges": MERGES,
    "an endless list": "model: &a [*a]",
    "nested": "[" * 100_000,
    "nested mappings": "{a: " * 50_000,
    "very many": "model: [" + "a, " * 100_000 + "]",
    "many digits": "format: " + "9" * 100_000,
    "a 13th month": "format: 2024-13-40",
    "two documents": "a: 1\n---\nb: 2",
    "no text": b"\xff\xfe\x00",
    "no YAML": "model: {",
    "empty": "",
    "a list": "[1, 2]",
    "a list as a key": "? [1, 2]\n: 3",
}


@pytest.mark.parametrize("case", TEXTS)
def test_configurations_that_are_no_plain_data_are_refused_at_once(saved, marker, case):
    text = TEXTS[case]
    if isinstance(text, str):
        text = text.replace("{marker}", str(marker)).encode()
    (saved / "config.yaml").write_bytes(text)
    start = time.process_time()
    with pytest.raises(
        DamagedError,
        match=r"config\.yaml'?:? (cannot|holds no|is longer|.*more than|.*alias|.*deeply|.*long)",
    ):
        load(saved)
    assert time.process_time() - start < 3


def test_a_configuration_of_megabytes_is_not_read(saved):
    with open(saved / "config.yaml", "a") as file:
        file.write("#" * 2**20)
    with pytest.raises(DamagedError, match=r"config\.yaml' is longer than 262144 bytes"):
        load(saved)


def test_the_call_would_run_elsewhere(tmp_path):
    marker = tmp_path / "marker"
    yaml.unsafe_load(TEXTS["a call"].replace("{marker}", str(marker)))
    assert marker.exists()


HEADS = {
    "no format": (lambda c: c.pop("format"), DamagedError, "format must be an integer"),
    "newer": (
        lambda c: c.update(format=2, ppl_vae="0.9"),
        NewerFormatError,
        r"config\.yaml: written by ppl_vae 0\.9 in format 2, this is .* up to format 1; update",
    ),
    "no sum": (lambda c: c.pop("weights"), DamagedError, "weights is missing"),
    "another sum": (set_to("weights", "0" * 64), DamagedError, "not the file that"),
    "no model": (lambda c: c.pop("model"), DamagedError, "model is missing"),
    "no dtype": (lambda c: c.pop("dtype"), DamagedError, "dtype is missing"),
    "another dtype": (set_to("dtype", "int64"), DamagedError, "must be float32 or float64, got"),
    "another pair": (
        set_to("model", "prior", {"class": "DiagonalNormal", "latent_dim": 2}),
        MismatchError,
        r"saved: the weights do not suit the configuration: .*it lacks 'model\.prior\.loc'",
    ),
    "other widths": (
        set_to("model", "likelihood", "net", "hidden", [7]),
        MismatchError,
        r"do not suit .* is \(5, 2\) in the file and \(7, 2\) in the module",
    ),
    "an argument": (set_to("model", "prior", "more", 1), ConfigError, "has no 'more'"),
}


@pytest.mark.parametrize("case", HEADS)
def test_configurations_of_something_else(saved, case):
    change, error, words = HEADS[case]
    rewrite(saved, change)
    before = torch.get_rng_state()
    with pytest.raises(error, match=words):
        load(saved)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_default_dtype() == torch.float32


def test_folders_without_a_pair(saved, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*nowhere"):
        load(tmp_path / "nowhere")
    (tmp_path / "other").mkdir()
    with pytest.raises(FileNotFoundError, match=r"other holds no pair: config\.yaml and model"):
        load(tmp_path / "other")
    for name in ("config.yaml", "model.safetensors"):
        folder = shutil.copytree(saved, tmp_path / name)
        (folder / name).unlink()
        with pytest.raises(DamagedError, match=f"{name} is missing; writing was interrupted"):
            load(folder)


def test_damage_to_the_weights_of_a_pair_is_found(saved):
    file = saved / "model.safetensors"
    whole = file.read_bytes()
    for at in (0, 8, 20, len(whole) // 2, len(whole) - 1):
        data = bytearray(whole)
        data[at] ^= 1
        file.write_bytes(data)
        with pytest.raises(DamagedError, match=r"model\.safetensors is not the file that"):
            load(saved)
    for length in (0, 1, 100, len(whole) - 1):
        file.write_bytes(whole[:length])
        with pytest.raises(DamagedError, match=r"model\.safetensors is not the file that"):
            load(saved)
    file.write_bytes(whole)
    load(saved)


# --- pairs


def hierarchical():
    conditional = priors.ConditionalNormal(net(Z, 2 * 4))
    return HierarchicalVAE(
        prior=priors.StandardNormal(Z),
        conditionals=[conditional],
        posteriors=[
            posteriors.PrecisionWeighted(net(D, 2 * 4), conditional),
            posteriors.DiagonalNormal(net(D, 2 * Z)),
        ],
        likelihood=likelihoods.Bernoulli(net(4, D)),
        inference="top-down",
    )


def stacked():
    second = SemiSupervisedVAE(
        prior=priors.StandardNormal(Z),
        classifier=net(4, C),
        posterior=posteriors.DiagonalNormal(net(4 + C, 2 * Z)),
        likelihood=likelihoods.Normal(net(Z + C, 4)),
        num_classes=C,
    )
    first = VAE(
        prior=priors.StandardNormal(4),
        posterior=posteriors.DiagonalNormal(net(D, 2 * 4)),
        likelihood=likelihoods.Bernoulli(net(4, D)),
    )
    return StackedVAE(first=first, second=second)


def images():
    return VAE(
        prior=priors.StandardNormal(Z),
        posterior=posteriors.DiagonalNormal(nets.ConvEncoder((1, 8, 8), 2 * Z, channels=(4,))),
        likelihood=likelihoods.Bernoulli(
            nets.ConvDecoder(Z, (1, 8, 8), channels=(4,)), event_dim=3
        ),
    )


def conditional():
    return ConditionalVAE(
        prior=priors.StandardNormal(Z),
        posterior=posteriors.DiagonalNormal(net(D + C, 2 * Z)),
        likelihood=likelihoods.Bernoulli(net(Z + C, D)),
        num_classes=C,
    )


ALL = {
    **{f"prior: {name}": lambda name=name: pairs.vae(prior=name) for name in PRIORS},
    **{f"posterior: {name}": lambda name=name: pairs.vae(posterior=name) for name in POSTERIORS},
    **{f"likelihood: {n}": lambda n=n: pairs.vae(likelihood=n) for n in LIKELIHOODS},
    **{f"ssvae: {n}": lambda n=n: pairs.ssvae(n) for n in (*CONDITIONAL_PRIORS, "vamp")},
    "conditional": conditional,
    "hierarchical, ladder": hierarchical,
    "stacked": stacked,
    "images": images,
}


@torch.no_grad()
def values(pair, x, *further):
    """Return the log-densities of every site, at what the guide draws from one seed."""
    torch.manual_seed(5)
    if isinstance(pair, StackedVAE):
        z = pair.first.posterior(x).sample()
        return values(pair.first, x) | {
            ("second", *k): v for k, v in values(pair.second, z).items()
        }
    guide = pyro.poutine.trace(pair.guide).get_trace(x, *further)
    model = pyro.poutine.trace(pyro.poutine.replay(pair.model, trace=guide)).get_trace(x, *further)
    found = {}
    for label, trace in (("guide", guide), ("model", model)):
        for name, site in trace.nodes.items():
            if site["type"] == "sample" and not type(site["fn"]).__name__.startswith("_"):
                found[label, name] = site["fn"].log_prob(site["value"])
    return found


def given_to(pair, name):
    kind = name.partition(": ")[2] if name.startswith("likelihood") else "bernoulli"
    x = pairs.observations(kind) if name != "images" else torch.rand(7, 1, 8, 8).round()
    labels = isinstance(pair, (SemiSupervisedVAE, ConditionalVAE))
    return (x, torch.arange(7) % C) if labels else (x,)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", ALL)
def test_a_pair_comes_back(tmp_path, case, dtype):
    torch.set_default_dtype(getattr(torch, dtype))
    pair = ALL[case]()
    x, *further = given_to(pair, case)
    torch.set_default_dtype(torch.float32)  # whatever it is when it is loaded
    assert save(pair, tmp_path / "runs" / "pair") == tmp_path / "runs" / "pair"
    assert names(tmp_path / "runs" / "pair") == ["config.yaml", "model.safetensors"]
    again = ppl_vae.load(tmp_path / "runs" / "pair")
    assert type(again) is type(pair)
    assert repr(again) == repr(pair)
    assert again.training
    same(pair, again)
    ours, theirs = values(pair, x, *further), values(again, x, *further)
    assert len(ours) >= 3
    assert ours.keys() == theirs.keys()
    for site in ours:
        assert torch.equal(ours[site], theirs[site]), site
        assert ours[site].dtype == getattr(torch, dtype)
    shared = {id(p) for p in pair.parameters()}
    assert len({id(p) for p in again.parameters()}) == len(shared)


def test_the_files_are_what_they_are_said_to_be(saved):
    text = (saved / "config.yaml").read_text()
    config = yaml.safe_load(text)
    assert list(config) == ["format", "ppl_vae", "weights", "dtype", "model"]
    assert (config["format"], config["ppl_vae"]) == (1, ppl_vae.__version__)
    torch.manual_seed(1)
    vae = pairs.vae()
    assert config["model"] == ppl_vae.to_config(vae)
    stored = safetensors.torch.load_file(saved / "model.safetensors")
    vae.load_state_dict(stored)


@pytest.mark.parametrize("default", [torch.float32, torch.float64])
@pytest.mark.parametrize("made", ["float32", "float64", "converted", "bfloat16", "float16"])
def test_constants_come_back_too(tmp_path, made, default):
    """A scale of 0.7 is another number in each dtype, and is not in the state_dict."""
    torch.set_default_dtype(torch.float64 if made == "float64" else torch.float32)
    pair = pairs.vae(likelihood="normal")
    if made not in ("float32", "float64"):
        pair.to({"converted": torch.float64}.get(made) or getattr(torch, made))
    torch.set_default_dtype(default)
    again = load(ppl_vae.save(pair, tmp_path))
    scale, back = pair.likelihood._fixed_scale, again.likelihood._fixed_scale
    assert (scale.dtype, bits(scale)) == (back.dtype, bits(back))
    assert again.prior().mean.dtype == pair.prior().mean.dtype == scale.dtype
    same(pair, again)
    assert torch.get_default_dtype() == default


def test_parts_of_several_dtypes_come_back(tmp_path):
    pair = pairs.vae("vamp")
    pair.likelihood.net.to(torch.bfloat16)
    pair.posterior.net.layers[0].to(torch.float64)
    again = load(ppl_vae.save(pair, tmp_path))
    same(pair, again)
    assert again.prior.posterior is again.posterior
    assert len(list(again.parameters())) == len(list(pair.parameters()))
    again.likelihood.net.layers[0].weight.grad = torch.zeros(5, 2, dtype=torch.bfloat16)


def test_loading_leaves_the_random_state(saved):
    before = torch.get_rng_state()
    load(saved)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_device_is_chosen(saved):
    assert load(saved, device="cpu").prior.loc.device == torch.device("cpu")
    for tensor in load(saved, device=torch.device("cpu")).state_dict().values():
        assert tensor.device == torch.device("cpu")
    with torch.device("meta"), pytest.raises(MismatchError, match="on meta"):  # the default
        load(saved)
    with torch.device("meta"):
        assert load(saved, device="cpu").prior.loc.device == torch.device("cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_pairs_go_to_a_gpu_and_back(tmp_path):
    pair = pairs.vae("vamp").to("cuda")
    again = load(ppl_vae.save(pair, tmp_path), device="cuda")
    assert all(t.device.type == "cuda" for t in again.state_dict().values())
    assert again.prior.posterior is again.posterior
    home = load(tmp_path)
    same_tensors({n: t.cpu() for n, t in pair.state_dict().items()}, home.state_dict())
    save_state({"x": torch.ones(3, device="cuda")}, tmp_path / "state.pt")
    assert load_state(tmp_path / "state.pt")["x"].device.type == "cpu"


def test_an_older_pair_is_replaced_and_other_files_stay(saved):
    (saved / "notes.txt").write_text("mine")
    pair = pairs.vae("mixture")
    save(pair, saved)
    same(pair, load(saved))
    assert names(saved) == ["config.yaml", "model.safetensors", "notes.txt"]


@pytest.mark.usefixtures("as_users_see_it")
def test_a_pair_that_cannot_be_written_changes_nothing(saved, tmp_path):
    before = {name: (saved / name).read_bytes() for name in names(saved)}
    strange = pairs.vae().replace(likelihood=likelihoods.Bernoulli(nn.Linear(Z, D)))
    extra = pairs.vae()
    extra.model.add_module("extra", ExtraState(1, 1))
    for pair, error, words in (
        (net(1, 1), TypeError, "save: pair must be a pair, such as a ppl_vae.VAE, got"),
        (strange, ConfigError, r"model\.likelihood\.net is a torch\.nn\.Linear"),
        (extra, TypeError, r"'model\.extra\._extra_state' is"),
    ):
        for folder in (saved, tmp_path / "new"):
            with pytest.raises(error, match=words):
                save(pair, folder)
        assert {name: (saved / name).read_bytes() for name in names(saved)} == before
        assert not (tmp_path / "new").exists()


OWN = """
import pyro.distributions as dist, torch
from pathlib import Path
from torch import nn

Path(__file__).with_name("imported").touch()


class Wide(nn.Module):
    def __init__(self, latent_dim: int):
        super().__init__()
        self.latent_dim = latent_dim
        self.log_scale = nn.Parameter(torch.randn(latent_dim))

    def forward(self):
        return dist.Normal(torch.zeros_like(self.log_scale), self.log_scale.exp()).to_event(1)
"""


def test_parts_of_ones_own_need_leave(tmp_path, monkeypatch):
    (tmp_path / "ppl_vae_own_parts.py").write_text(textwrap.dedent(OWN))
    monkeypatch.syspath_prepend(str(tmp_path))
    module = __import__("ppl_vae_own_parts")
    pair = pairs.vae().replace(prior=module.Wide(Z))
    folder = ppl_vae.save(pair, tmp_path / "saved")
    monkeypatch.delitem(sys.modules, "ppl_vae_own_parts")
    (tmp_path / "imported").unlink()
    with pytest.raises(ConfigError, match=r"'ppl_vae_own_parts\.Wide' is outside ppl_vae"):
        load(folder)
    assert not (tmp_path / "imported").exists()
    again = load(folder, allow=("ppl_vae_own_parts",))
    same(pair, again)
    assert (tmp_path / "imported").exists()
    monkeypatch.delitem(sys.modules, "ppl_vae_own_parts")


# --- the Hub


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Put folders in the place of the Hub's repositories."""
    calls = []
    root = tmp_path / "hub"

    def create_repo(repo_id, *, private, token, exist_ok):
        assert exist_ok
        calls.append(("create_repo", private, token))
        (root / repo_id).mkdir(parents=True, exist_ok=True)
        return f"https://huggingface.co/{repo_id}"

    def file_exists(repo_id, filename, *, token):
        return (root / repo_id / filename).exists()

    def upload_folder(*, repo_id, folder_path, token, commit_message):
        calls.append(("upload_folder", commit_message, token))
        shutil.copytree(folder_path, root / repo_id, dirs_exist_ok=True)

    def snapshot_download(repo_id, *, revision, token, allow_patterns):
        calls.append(("snapshot_download", revision, token))
        cache = tmp_path / "cache" / "snapshots"
        cache.mkdir(parents=True, exist_ok=True)
        for name in allow_patterns:  # links, as in the cache of the Hub
            if (root / repo_id / name).exists():
                (cache / name).symlink_to(root / repo_id / name)
        return str(cache)

    functions = (create_repo, file_exists, upload_folder, snapshot_download)
    fake = types.SimpleNamespace(root=root, calls=calls, **{f.__name__: f for f in functions})
    monkeypatch.setitem(sys.modules, "huggingface_hub", fake)
    return fake


def test_a_pair_goes_to_the_hub_and_back(hub):
    pair = pairs.vae("mixture")
    address = io.push(pair, "me/digits", private=True, token="secret", message="first")
    assert address == "https://huggingface.co/me/digits"
    folder = hub.root / "me" / "digits"
    assert names(folder) == ["README.md", "config.yaml", "model.safetensors"]
    card = (folder / "README.md").read_text()
    head = yaml.safe_load(card.split("---\n")[1])
    assert head["library_name"] == "ppl_vae"
    assert "io.pull('me/digits')" in card
    assert repr(pair) in card
    assert "secret" not in card
    same(pair, io.pull("me/digits", revision="main", token="secret"))
    assert hub.calls == [
        ("create_repo", True, "secret"),
        ("upload_folder", "first", "secret"),
        ("snapshot_download", "main", "secret"),
    ]


def test_a_card_that_is_there_stays(hub):
    io.push(pairs.vae(), "me/digits")
    card = hub.root / "me" / "digits" / "README.md"
    card.write_text("mine")
    pair = pairs.vae()
    io.push(pair, "me/digits")
    assert card.read_text() == "mine"
    same(pair, load(card.parent))


def test_a_pair_that_cannot_be_written_is_not_sent(hub):
    strange = pairs.vae().replace(likelihood=likelihoods.Bernoulli(nn.Linear(Z, D)))
    with pytest.raises(ConfigError):
        io.push(strange, "me/digits")
    assert hub.calls == []


def test_pulling_runs_nothing(hub, marker):
    io.push(pairs.vae(), "me/digits")
    folder = hub.root / "me" / "digits"
    (folder / "config.yaml").write_text(TEXTS["a call"].replace("{marker}", str(marker)))
    with pytest.raises(DamagedError, match=r"cannot be read: .*is plain YAML"):
        io.pull("me/digits")


def test_without_the_package_the_command_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"push needs .*pip install 'ppl-vae\[hub\]'"):
        io.push(pairs.vae(), "me/digits")
    with pytest.raises(ImportError, match=r"pull needs .*pip install 'ppl-vae\[hub\]'"):
        io.pull("me/digits")


def test_the_hub_s_functions_take_what_they_are_given():
    import inspect

    hub = pytest.importorskip("huggingface_hub", reason="the extra 'hub' is not installed")
    inspect.signature(hub.create_repo).bind("a/b", private=True, token=None, exist_ok=True)
    inspect.signature(hub.file_exists).bind("a/b", "README.md", token=None)
    inspect.signature(hub.upload_folder).bind(
        repo_id="a/b", folder_path=".", token=None, commit_message="a"
    )
    inspect.signature(hub.snapshot_download).bind(
        "a/b", revision=None, token=None, allow_patterns=["a"]
    )
