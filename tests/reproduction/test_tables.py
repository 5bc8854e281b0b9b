"""Every table runs at smoke size, and says what it is compared with."""

from functools import partial

import numpy as np
import pytest
import torch
from torch.optim import Adam

from ppl_vae import data
from ppl_vae.reproduction import TABLES, loaded, priors, reproduce
from ppl_vae.reproduction.cs236 import EVALUATED, LABELLED, evaluated_images, of_each_class
from ppl_vae.reproduction.datasets import shifted
from ppl_vae.reproduction.iwae import _falling, initialised, one_layer
from ppl_vae.reproduction.training import Training

smoke = partial(
    reproduce, seeds=1, extent="smoke", compile=False, progress=False, say=lambda text: None
)
ROWS = [(name, row.name) for name, table in TABLES.items() for row in table.rows]
CHEAP = {
    ("cs236", "VAE"),
    ("cs236", "SSVAE, generative weight 1"),
    ("iwae", "two layers, K = 1"),
}


@pytest.mark.parametrize(
    ("name", "row"),
    [pytest.param(*c, marks=() if c in CHEAP else pytest.mark.slow) for c in ROWS],
)
def test_rows_run_at_smoke_size(name, row, tmp_path):
    table = TABLES[name]
    text = smoke(table, tmp_path, parts=[row])
    (record,) = [r for r in loaded((tmp_path / f"{name}.json").read_text()) if r.row == row]
    assert record.seconds.keys() == {
        "training",
        *next(r for r in table.rows if r.name == row).measure,
    }
    assert all(np.isfinite(q["value"]) for q in record.quantities.values())
    assert f"{row.replace('|', chr(92) + '|')} (smoke), 1 seed" in text


def test_the_images_of_the_course():
    digits = data.load("digits", split="test")
    places = of_each_class(digits, EVALUATED)
    assert digits.labels[places].tolist() == [label for label in range(10) for _ in range(10)]
    assert len(of_each_class(data.load("digits"), LABELLED)) == 100
    x = evaluated_images(digits)
    assert x.shape == (100, 64)
    assert x.unique().tolist() == [0, 1]
    grey = digits.tensor(binarise="none")[places]
    assert torch.equal(x[grey == 0], torch.zeros_like(x[grey == 0]))
    np.random.seed(0)
    assert torch.equal(x, torch.from_numpy(np.random.binomial(1, grey.numpy())).to(x))


def test_rates_fall_by_a_tenth_in_seven_stages():
    optimizer = Adam([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    schedule = _falling(optimizer, milestones=list(range(1, 8)))
    rates = []
    for _ in range(8):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    expected = [1e-3 * 10 ** (-i / 7) for i in range(8)]
    np.testing.assert_allclose(rates, expected, rtol=1e-12)


def test_an_initialised_decoder_starts_at_the_mean_image():
    digits = data.load("digits")
    pair = initialised(one_layer(digits), digits)
    mean = digits.tensor(binarise="none").mean(0)
    probs = torch.sigmoid(pair.likelihood.net(torch.zeros(50))).detach()
    torch.testing.assert_close(probs, mean.clamp(0.001, 0.999))
    weight = pair.posterior.net.layers[0].weight.detach()
    assert weight.abs().max().item() == pytest.approx((6 / (64 + 200)) ** 0.5, rel=1e-3)


def test_shifts_move_each_image_by_itself_and_lose_what_leaves():
    x = torch.zeros(400, 1, 6, 5)
    x[:, 0, 2, 2] = 1
    moved = shifted(x)
    assert moved.shape == x.shape
    assert (moved.sum((1, 2, 3)) == 1).all()
    assert (moved.sum((0, 1))[:5] > 0).all()  # each of the 25 places
    assert not moved.sum((0, 1))[5:].any()
    edge = torch.zeros(200, 2, 4, 4)
    edge[:, :, 0, 0] = 1
    moved = shifted(edge, 1)
    assert torch.equal(moved[:, 0], moved[:, 1])
    assert set(moved.sum((1, 2, 3)).tolist()) == {0.0, 2.0}


def test_latent_spaces_in_pictures(tmp_path):
    two = ("beta = 0", "beta = 1", "the KL alone", "beta = 1, squared error")
    parts = [*(f"z of 2, {row}" for row in two), "z of 10, beta = 1"]
    smoke(TABLES["rate-distortion"], tmp_path, parts=parts)
    assert {path.stem for path in tmp_path.glob("*.png")} == {
        *("curves", "planes", "manifolds", "likelihoods", "posteriors", "interpolations")
    }


@pytest.mark.parametrize("start", [None, 0.8])
def test_pseudo_inputs_start_where_a_table_has_them(tmp_path, start):
    data = priors.PRIOR_TABLES[2].data("smoke")
    training = Training(data=data, folder=tmp_path, seed=0, extent="smoke", compile=False)
    pair = priors.train(priors.PRIORS["VampPrior of 500"], start, training)
    # Three steps at 5e-4 move them by 0.0015 at most, and the noise has a deviation of 0.01.
    is_near = (pair.prior.inputs() - 0.8).abs() < 0.06
    assert is_near.all() if start else not is_near.all()
