"""Helpers of tests of loaders that resume."""

import io
from itertools import chain

import torch

EPOCHS = 3


def saved(state: dict) -> dict:
    """The state, written and read as plain data."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def epochs_of(loader, count: int = EPOCHS) -> list[list[tuple]]:
    return [list(loader) for _ in range(count)]


def assert_same(ours: list[list[tuple]], theirs: list[list[tuple]]) -> None:
    assert [len(epoch) for epoch in ours] == [len(epoch) for epoch in theirs]
    for a, b in zip(chain(*ours), chain(*theirs), strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def stopped(loader, epoch: int, position: int) -> dict:
    """The state after so many batches of that epoch."""
    for _ in range(epoch):
        list(loader)
    iterator = iter(loader)
    for _ in range(position):
        next(iterator)
    return saved(loader.state_dict())
