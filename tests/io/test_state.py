"""Training states come back bit for bit; what could not be read back is refused."""

import collections
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from saving import bits, names
from torch import nn

from ppl_vae.io import (
    DamagedError,
    load_state,
    save_state,
)
from ppl_vae.io.tensors import DTYPES


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


def test_only_the_visible_part_of_a_view_is_written(tmp_path):
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
        r"state\['scheduler'\]\['lr_lambdas'\]\[0\] is <function .*the numbers it is made from",
    ),
    "an array": ({"a": (np.ones(2),)}, r"state\['a'\]\[0\] is array\(.*torch\.from_numpy"),
    "numpy's number": (
        {"a": np.float64(2)},
        r"state\['a'\] is .*2\.0.*float64|np\.float64\(2\.0\).*\.item\(\)",
    ),
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
    "itself": (endless(), r"state\['a'\]\[0\] is a circular reference"),
    "deep": (deep(), "nested more than 100 deep"),
    "a path": ({"a": Path("a")}, r"state\['a'\] is 'a' \(PosixPath\)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_unsupported_values_are_refused_before_anything_is_written(tmp_path, case):
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
    with pytest.raises(
        DamagedError, match=r"state\.pt is not a complete file of save_state \(\d+ bytes"
    ):
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
    with pytest.raises(DamagedError, match=r"state\.pt is corrupt: its SHA-256"):
        load_state(file)
