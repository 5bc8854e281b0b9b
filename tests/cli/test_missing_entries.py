"""Missing entries at the command line."""

import json

import numpy as np
import pytest
import torch
from gaps import NAN
from pairs import D

from ppl_vae.cli.datasets import loaded
from ppl_vae.cli.main import main
from ppl_vae.spec import DataSpec


@pytest.fixture
def file(tmp_path):
    x = torch.rand(60, D, generator=torch.Generator().manual_seed(0)).numpy()
    x[::2, 0] = NAN
    path = tmp_path / "x.npy"
    np.save(path, x)
    return path


SMALL = ("--model.latent_dim", "2", "--fit.steps", "3", "--fit.batch_size", "20", "--quiet")


@pytest.mark.usefixtures("as_users_see_it", "numbers_only")
@pytest.mark.filterwarnings("ignore")
def test_the_command_line_passes_it_on(file, tmp_path, capsys):
    run = tmp_path / "run"
    given = ("fit", "vae", "--data", str(file), "--out", str(run), *SMALL)
    assert main(given) != 0
    assert "--data.missing nan" in capsys.readouterr().err
    assert not run.exists()
    assert main((*given, "--data.missing", "nan")) == 0
    assert "missing: nan" in (run / "config.yaml").read_text()
    assert main(("evaluate", str(run), "--num-samples", "20", "--quiet")) == 0
    results = json.loads((run / "evaluation.json").read_text())
    (prepared,) = results["data"]["prepared"].values()
    assert "are missing" in prepared
    assert main(("report", str(run), "--num-samples", "20", "--quiet")) == 0
    out = tmp_path / "r.npy"
    assert main(("reconstruct", str(run), "-n", "6", "--file", str(out))) == 0
    before, after = np.load(out)
    assert np.isnan(before).any()
    assert not np.isnan(after).any()
    capsys.readouterr()
    assert main(("fit", str(run), "--resume", "--data.missing", "null", "--quiet")) != 0


@pytest.mark.parametrize("binarise", ["static", "threshold"])
def test_data_drawn_once_keep_their_gaps(file, tmp_path, binarise):
    settings = DataSpec(name=str(file), missing="nan", binarise=binarise)
    dataset = loaded(settings, "train")
    assert torch.equal(dataset.mask[:, 1:], torch.ones(54, D - 1, dtype=torch.bool))
    assert 0 < (~dataset.mask).sum() <= 30
