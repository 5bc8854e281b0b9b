"""Pseudo-inputs start at data and keep to their range, wherever the data are known.

The bound does not show where they do not, and so samples are looked at: their mean and spread.
"""

import math

import pyro
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO

import ppl_vae
from ppl_vae import (
    VAE,
    HierarchicalVAE,
    data,
    from_config,
    io,
    likelihoods,
    nets,
    posteriors,
    priors,
)
from ppl_vae.cli import main
from ppl_vae.io.tensors import write_tensors
from ppl_vae.testing._modules import Random

D, K = 16, 5
G = torch.Generator().manual_seed(0)
NORMAL = {"class": "Normal", "scale": "learned"}


def config(kind="VAE", likelihood="Bernoulli", **prior):
    prior = {"class": "VampPrior", "pseudo_inputs": K, **prior}
    return {"class": kind, "latent_dim": 2, "likelihood": likelihood, "prior": prior}


def among(rows, x):
    """Tell whether each of the rows is one of x."""
    return (rows.unsqueeze(1) == x).all(-1).any(1).all()


CASES = {
    "0 and 1": (torch.randint(2, (30, D), generator=G).float(), "Bernoulli", (0, 1)),
    "grey values": (0.1 + 0.8 * torch.rand(30, D, generator=G), "Bernoulli", (0, 1)),
    "grey values under a density": (0.1 + 0.8 * torch.rand(30, D, generator=G), NORMAL, (0, 1)),
    "counts": (torch.randint(90, (30, D), generator=G).float(), "Poisson", "range"),
    "real values": (torch.randn(30, D, generator=G), NORMAL, "range"),
}


@pytest.mark.parametrize("kind", ["VAE", "SemiSupervisedVAE", "ConditionalVAE"])
@pytest.mark.parametrize("name", CASES)
def test_from_config_starts_at_data_and_in_their_range(name, kind):
    values, likelihood, bounds = CASES[name]
    labels = None if kind == "VAE" else torch.arange(30) % 3
    torch.manual_seed(1)
    prior = from_config(config(kind, likelihood), data=data.Dataset(values, labels)).prior
    assert among(prior.inputs(), values)
    assert len(prior.inputs().unique(dim=0)) == K
    assert prior.bounds == ((values.min(), values.max()) if bounds == "range" else bounds)
    torch.manual_seed(1)
    again = from_config(config(kind, likelihood), data=data.Dataset(values, labels)).prior
    assert torch.equal(again.inputs(), prior.inputs())  # they follow from torch's seed
    other = from_config(config(kind, likelihood), data=data.Dataset(values, labels)).prior
    assert not torch.equal(other.inputs(), prior.inputs())


def test_what_is_given_stays():
    values = 0.2 + 0.5 * torch.rand(30, D)
    for bounds in [None, [-1, 2]]:
        prior = from_config(config(likelihood=NORMAL, bounds=bounds), data=values).prior
        assert prior.bounds == (bounds if bounds is None else tuple(bounds))
        assert among(prior.inputs(), values)
    with pytest.raises(ValueError, match=r"must lie in bounds=\(0, 0\.1\)"):
        from_config(config(likelihood=NORMAL, bounds=[0, 0.1]), data=values)


def test_missing_entries_are_as_the_guide_sees_them():
    values, mask = 5 + torch.rand(30, D), torch.rand(30, D) < 0.7
    known = data.Dataset(values.masked_fill(~mask, math.nan), mask=mask)
    prior = from_config(config(likelihood=NORMAL), data=known).prior
    assert among(prior.inputs(), torch.where(mask, values, 0.0))
    assert prior.bounds == (0.0, values[mask].max())


def test_images_and_large_data_that_come_in_parts():
    values = torch.arange(256).to(torch.uint8).repeat(40)[:, None, None, None].expand(-1, 1, 4, 4)
    known = data.Dataset(values, scale=255)
    flat = from_config(config(pseudo_inputs=200), data=known).prior
    assert flat.inputs().shape == (200, D)
    assert flat.bounds == (0, 1)
    assert flat.inputs().std().item() == pytest.approx(12**-0.5, abs=0.03)  # of all parts
    image = from_config({**config(), "event_shape": [1, 4, 6]}, data=torch.ones(30, 1, 4, 6)).prior
    assert image.inputs().shape == (K, 1, 4, 6)


def layered(direction):
    first = [nets.MLP(D, 4), nets.MLP(2, 4)] if direction == "bottom-up" else [None, None]
    q = [posteriors.DiagonalNormal(net) for net in first if net is not None]
    if direction == "top-down":
        q = [
            posteriors.DiagonalNormal(nets.MLP(D + 2, 4)),
            posteriors.DiagonalNormal(nets.MLP(D, 4)),
        ]
    shape = (D,) if direction == "top-down" else (2,)
    return HierarchicalVAE(
        prior=priors.VampPrior(q[-1], K, event_shape=shape),
        conditionals=[priors.ConditionalNormal(nets.MLP(2, 4))],
        posteriors=q,
        likelihood=likelihoods.Bernoulli(nets.MLP(2, D)),
        inference=direction,
    )


def test_of_several_layers_only_a_posterior_that_sees_data():
    x = torch.randint(2, (30, D)).float()
    pair = layered("top-down")
    pair.initialise_from(x)
    assert among(pair.prior.inputs(), x)
    pair = layered("bottom-up")
    before = pair.prior.inputs().clone()
    pair.initialise_from(x)
    assert torch.equal(pair.prior.inputs(), before)
    assert pair.prior.bounds == "data"


def test_other_priors_stay_as_they_are():
    for prior in ["StandardNormal", {"class": "GaussianMixture", "components": 3}]:
        torch.manual_seed(0)
        known = from_config({**config(), "prior": prior}, data=torch.ones(30, D))
        torch.manual_seed(0)
        unknown = from_config({**config(), "prior": prior, "event_shape": D})
        for (name, a), b in zip(known.named_parameters(), unknown.parameters(), strict=True):
            assert torch.equal(a, b), name


def test_saved_and_loaded_without_the_data(tmp_path):
    x = torch.rand(30, D)
    pair = from_config(config(likelihood=NORMAL), data=4 * x - 1)
    optimizer = pyro.optim.Adam({"lr": 0.3})
    svi = SVI(pair.model, pair.guide, optimizer, Trace_ELBO())
    for _ in range(5):
        svi.step(4 * x - 1)
    inputs = pair.prior.inputs()
    assert -1 <= inputs.min() < inputs.max() <= 3
    assert not torch.equal(inputs, pair.prior.unfolded_inputs)  # a reflection is among them
    loaded = ppl_vae.load(ppl_vae.save(pair, tmp_path / "pair"))
    assert torch.equal(loaded.prior.inputs(), inputs)
    assert loaded.prior.bounds == pair.prior.bounds
    assert pair.replace(posterior=pair.posterior).prior is pair.prior


def without_data(**prior):
    return from_config({**config(likelihood=NORMAL, **prior), "event_shape": D})


BOUNDS = {"data": "data", "none": None, "given": (-1, 2)}


@pytest.mark.parametrize("bounds", BOUNDS.values(), ids=BOUNDS)
@pytest.mark.parametrize("route", ["state_dict", "file"])
def test_bounds_are_in_the_state(route, bounds, tmp_path):
    pair, again = (without_data() for _ in range(2))
    pair.initialise_from(torch.rand(30, D))
    with torch.no_grad():
        pair.prior.unfolded_inputs[0] = 1.3
    unknown = without_data(bounds=bounds)
    for source, target in [(pair, again), (unknown, pair)]:
        if route == "file":
            io.save_weights(source, tmp_path / "w.safetensors")
            io.load_weights(target, tmp_path / "w.safetensors")
        else:
            target.load_state_dict(source.state_dict())
        assert target.prior.bounds == source.prior.bounds
        assert torch.equal(target.prior.inputs(), source.prior.inputs())
    assert again.prior.bounds == (0, 1)


def test_states_of_earlier_versions_have_no_bounds(tmp_path):
    pair = without_data()
    pair.initialise_from(torch.rand(30, D))
    state = pair.state_dict()
    del state["model.prior._extra_state"]
    pair.load_state_dict(state)
    write_tensors(state, tmp_path / "w.safetensors")
    io.load_weights(pair, tmp_path / "w.safetensors")
    assert pair.prior.bounds == (0, 1)


@pytest.mark.slow
@pytest.mark.usefixtures("as_users_see_it")
def test_samples_of_a_short_training_are_like_the_data(tmp_path, monkeypatch):
    """By command line; where pseudo-inputs start from N(0, 1), samples are noise."""
    monkeypatch.chdir(tmp_path)
    words = ["--prior", "VampPrior", "--model.prior.pseudo_inputs", "50", "--out", "run", "--quiet"]
    words += ["--model.latent_dim", "16", "--fit.steps", "100", "--fit.beta", "0.05"]
    assert main(["fit", *words]) == 0
    pair = ppl_vae.load("run/model")
    assert pair.prior.bounds == (0, 1)
    assert 0 <= pair.prior.inputs().min() <= pair.prior.inputs().max() <= 1
    torch.manual_seed(0)
    x = data.load("digits").draw(torch.arange(1000), binarise="none")
    drawn = pair.generate(1000, mean=True)
    # The mean image, how far others are from it, and how far from the nearest of other data.
    assert (drawn.mean(0) - x.mean(0)).square().mean().sqrt() < 0.06
    spread = [(v - v.mean(0)).square().mean().sqrt().item() for v in (x, drawn)]
    assert 0.7 * spread[0] < spread[1] < spread[0]
    nearest = [torch.cdist(v, x[500:]).min(1).values.mean().item() for v in (x[:500], drawn)]
    assert nearest[1] < 1.2 * nearest[0]


def test_torchs_default_device_makes_no_difference():
    x = torch.rand(20, 6).round()
    found = []
    for device in ("cpu", "meta"):
        torch.manual_seed(0)
        posterior = posteriors.DiagonalNormal(nets.MLP(6, 4, hidden=(5,)))
        pair = VAE(
            prior=priors.VampPrior(posterior, 25, event_shape=(6,)),
            posterior=posterior,
            likelihood=likelihoods.Bernoulli(nets.MLP(2, 6, hidden=(5,))),
        )
        with torch.device(device):
            pair.initialise_from(x)
            drawn = Random(1, torch.float64).normal(3, scale=2.0)
        found.append((pair.prior.unfolded_inputs, drawn))
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)
