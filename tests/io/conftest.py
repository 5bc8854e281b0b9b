"""Fixtures of the tests of saving."""

import pytest
import torch


@pytest.fixture
def marker(tmp_path):
    path = tmp_path / "marker"
    yield path
    assert not path.exists()


@pytest.fixture
def saved(tmp_path):
    # Here, since jaxtyping before 0.3.7 instruments what is imported after this file.
    import pairs

    import ppl_vae

    torch.manual_seed(1)
    return ppl_vae.save(pairs.vae(), tmp_path / "saved")
