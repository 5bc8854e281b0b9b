"""Fixtures of the tests of saving."""

import pairs
import pytest
import torch

import ppl_vae


@pytest.fixture
def marker(tmp_path):
    path = tmp_path / "marker"
    yield path
    assert not path.exists()


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(1)
    return ppl_vae.save(pairs.vae(), tmp_path / "saved")
