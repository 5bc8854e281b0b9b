"""What several files of tests of saving need."""

from pathlib import Path

import torch
from torch import nn


def names(folder):
    return sorted(path.name for path in Path(folder).iterdir())


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


class ExtraState(nn.Linear):
    def get_extra_state(self):
        return {"count": 3}

    def set_extra_state(self, state):
        raise AssertionError
