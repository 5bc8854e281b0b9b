"""Weights come back bit for bit; files that are damaged or of another module change nothing."""

import json
import math
import os
import time

import pairs
import pytest
import safetensors.torch
import torch
from saving import ExtraState, names, same, same_tensors
from torch import nn

from ppl_vae.io import (
    DamagedError,
    MismatchError,
    NewerFormatError,
    load_weights,
    save_weights,
)
from ppl_vae.io.tensors import DTYPES, read_tensors, write_tensors


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


def test_every_kind_of_tensor_survives_bit_for_bit(tmp_path):
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


def test_shared_tensors_are_stored_once(tmp_path):
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


def test_a_file_written_by_safetensors_itself_can_be_read(tmp_path):
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
        rf"missing keys '{FIRST}', unexpected keys 'guide\.other'; build the module",
    ),
    "missing": (lambda t: t.pop(FIRST), rf"missing keys '{FIRST}'; build"),
    "nothing": (dict.clear, r"missing keys '.*', '.*', '.*' and 5 more; build"),
    "more": (lambda t: t.update(more=torch.ones(1)), r"unexpected keys 'more'"),
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


def test_weights_of_a_part_or_of_the_whole_are_recognised(tmp_path):
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
    with pytest.raises(MismatchError, match=r"'model\.prior\.posterior.*differ in the file and"):
        load_weights(vae, tmp_path / "w")
    same_tensors(before, vae.state_dict())
    apart = {name: tensor.clone() for name, tensor in before.items()}
    apart[FIRST][0, 0] = apart[f"model.prior.posterior.{FIRST[16:]}"][0, 0] = float("nan")
    write_tensors(apart, tmp_path / "w")  # the same bits, though stored twice
    load_weights(vae, tmp_path / "w")
    assert vae.posterior.net.layers[0].weight[0, 0].isnan()


UNSAVED = {
    "extra state": (lambda: ExtraState(2, 2), r"'_extra_state' is .* not a tensor"),
    "lazy": (lambda: nn.LazyLinear(2), "'weight' is uninitialised"),
    "meta": (lambda: nn.Linear(2, 2, device="meta"), "'weight' is .* on meta, which safetensors"),
    "sparse": (lambda: torch.eye(3).to_sparse(), "layout torch.sparse_coo, on cpu, which"),
    "complex128": (lambda: torch.ones(2, dtype=torch.complex128), "complex128, .* cannot hold"),
}


@pytest.mark.parametrize("case", UNSAVED)
def test_unsupported_entries_are_named_before_anything_is_written(tmp_path, case):
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
    with pytest.raises(DamagedError, match=r"w is not a complete safetensors file \(\d+ bytes\)"):
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
    "2**60 bytes": (safetensors_file({}, length=2**60), DamagedError, "not a complete safetensors"),
    "2**64 - 1 bytes": (safetensors_file({}, length=2**64 - 1), DamagedError, "not a complete"),
    "no JSON": (safetensors_file(b"{]"), DamagedError, "not a complete"),
    "a list": (safetensors_file([]), DamagedError, "not a complete"),
    "nested": (safetensors_file(b"[" * 100_000), DamagedError, "not a complete"),
    "huge": (safetensors_file({"x": entry([2**60], 0, 2**62)}), DamagedError, "not a complete"),
    "overflow": (
        safetensors_file({"x": entry([2**32, 2**32], 0, 4)}, bytes(4)),
        DamagedError,
        "not a complete",
    ),
    "overlapping": (
        safetensors_file({"x": entry([2], 0, 8), "y": entry([2], 4, 12)}, bytes(12)),
        DamagedError,
        "not a complete",
    ),
    "outside": (
        safetensors_file({"x": entry([2], 8, 16)}, bytes(8)),
        DamagedError,
        "not a complete",
    ),
    "an unknown dtype": (
        safetensors_file({"x": entry([1], 0, 8, "OBJ")}, bytes(8)),
        DamagedError,
        "not a complete",
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
        "invalid alias 'a' of 'b'",
    ),
    "names that are no mapping": (
        with_metadata(format=1, aliases=["a"]),
        DamagedError,
        "aliases in the header must be a mapping",
    ),
    "no mapping": (
        safetensors_file({"__metadata__": {"ppl_vae": "[]"}}),
        DamagedError,
        "must hold a mapping under 'ppl_vae'",
    ),
}


@pytest.mark.parametrize("case", HEADERS)
def test_invalid_headers(tmp_path, case):
    data, error, words = HEADERS[case]
    (tmp_path / "w").write_bytes(data)
    start = time.process_time()
    with pytest.raises(error, match=words):
        read_tensors(tmp_path / "w")
    assert time.process_time() - start < 2
