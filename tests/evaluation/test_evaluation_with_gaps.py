"""Evaluation and the report see what is observed, and nothing else of the data."""

from functools import partial

import pyro
import pytest
import torch
from gaps import (
    M8,
    NAN,
    SIGMA,
    X8,
    Y8,
    NeedsLabels,
    X,
    XMask,
    conditional,
    log_px,
    made,
    masked,
    programs,
)
from pairs import C, ssvae, vae

from ppl_vae import VAE, evaluation, likelihoods, nets, posteriors, priors
from ppl_vae.data import Dataset
from ppl_vae.report import report


def test_units_and_the_split_of_the_kl_see_what_is_observed():
    x, mask = masked(60)
    pair = made()
    kl = evaluation.elbo_terms(pair, x, mask=mask, num_samples=2000).kl
    units = evaluation.latent_units(pair, x, mask=mask, threshold=0.0)
    q = pair.posterior(torch.where(mask, x, 0.0)).base_dist
    by_hand = (q.loc**2 + q.scale**2 - 1 - 2 * q.scale.log()).sum(-1) / 2
    assert units.kl.sum().item() == pytest.approx(by_hand.mean().item(), rel=1e-5)
    activity = q.loc.detach().double().var(0)
    torch.testing.assert_close(units.activity, activity, rtol=1e-5, atol=1e-8)
    split = evaluation.kl_decomposition(pair, x, mask=mask, num_samples=50)
    assert split.kl.mean == pytest.approx(kl.mean, abs=5 * split.kl.standard_error)
    again = evaluation.kl_decomposition(pair, x.nan_to_num(3.0), mask=mask, num_samples=50)
    assert again.mutual_information == split.mutual_information
    with pytest.raises(ValueError, match="x has 60 data, but mask is"):
        evaluation.kl_decomposition(pair, x, mask=mask[:5])


@pytest.mark.usefixtures("as_users_see_it")
def test_the_gap_of_a_posterior_that_has_seen_less(float64):
    """log p(x_observed) from a linear-Gaussian model; the family holds the posterior of z."""
    pyro.set_rng_seed(0)
    pair = VAE(
        prior=priors.StandardNormal(1),
        posterior=posteriors.DiagonalNormal(nets.MLP(3, 2, hidden=())),
        likelihood=likelihoods.Normal(nets.MLP(1, 3, hidden=()), SIGMA),
    )
    affine = pair.likelihood.net.layers[0]
    x, mask = torch.randn(4, 3), torch.tensor([[1, 0, 1], [1, 1, 1], [0, 0, 1], [0, 1, 1]]).bool()
    exact = log_px(affine.weight[:, 0].detach(), affine.bias.detach(), x, mask)
    x[~mask] = NAN
    gap = evaluation.inference_gap(
        pair, x, mask=mask, steps=300, num_samples=200, importance_samples=200
    )
    torch.testing.assert_close(gap.log_px, exact, rtol=0, atol=2e-3)
    torch.testing.assert_close(gap.best_elbo, exact, rtol=0, atol=2e-3)
    assert (gap.amortisation.mean) > 0.01


PAIRS = {"vae": (vae, ()), "conditional": (conditional, (Y8[:7],)), "labels": (ssvae, ())}


@pytest.mark.parametrize("kind", PAIRS)
def test_what_is_missing_changes_no_encoding(kind):
    build, context = PAIRS[kind]
    pair = made(build).eval()
    x, mask = masked(7)
    found = []
    for filling in (NAN, 0.0, 1e9):
        given = x.masked_fill(~mask, filling)
        pyro.set_rng_seed(1)
        results = [
            pair.encode(given, *context, mask=mask),
            pair.reconstruct(given, *context, mask=mask),
        ]
        if kind == "labels":
            results.append(pair.classify(given, mask=mask))
            results.append(
                evaluation.responsibilities(made(ssvae, "mixture"), given, mask=mask, num_samples=2)
            )
            y = Y8[:7]
            results.append(torch.tensor(evaluation.accuracy(pair, given, y, mask=mask).mean))
        found.append(results)
    for first, *others in zip(*found, strict=True):
        assert all(torch.equal(first, other) for other in others)
    with pytest.raises(ValueError, match="non-finite"):
        pair.encode(x, *context)


@pytest.mark.usefixtures("as_users_see_it")
@pytest.mark.filterwarnings("ignore")
def test_the_report_is_of_what_is_observed(unrendered, tmp_path):
    mask = masked(30)[1].reshape(30, 1, 2, 3)
    x = torch.rand(30, 1, 2, 3).masked_fill(~mask, NAN)
    labels = torch.arange(30) % C
    dataset = Dataset(x, labels, mask=mask)
    pair = made(ssvae, "mixture").eval()
    results = report(
        pair,
        dataset,
        tmp_path,
        train=dataset,
        num_samples=50,
        num_particles=(5,),
        gap_data=2,
        gap_steps=5,
        annealed_data=2,
        annealed_chains=2,
        annealed_temperatures=1,
    ).results
    (prepared,), (table,) = results["data"]["prepared"].values(), results["pairs"].values()
    assert prepared.endswith(f"{100 * (~mask).double().mean():.3g} % are missing")
    found = {label: quantity["value"] for label, quantity in table["quantities"].items()}
    assert "IS-50, bits per dimension" not in found
    assert "bits per dimension" in table["missing"]
    values = dataset.binarised(0).draw(torch.arange(30), binarise="none").nan_to_num()
    seen = mask.flatten(1)
    direct = evaluation.log_likelihood(pair, values, mask=seen, num_samples=50)
    assert found["IS-50"] == pytest.approx(direct.nll.mean, rel=1e-6)
    assert found["active units"] == evaluation.latent_units(pair, values, mask=seen).num_active
    split = evaluation.kl_decomposition(pair, values, mask=seen)
    assert found["mutual information"] == pytest.approx(split.mutual_information.mean, rel=1e-5)
    likeliest = pair.classify(x.nan_to_num().flatten(1), mask=seen).argmax(-1)
    right = (likeliest == labels).float().mean().item()
    assert found["accuracy of q(y|x)"] == pytest.approx(right)
    assert {"clustering NMI", "approximation gap on the first 2 data"} <= found.keys()


@pytest.mark.parametrize(
    ("given", "mask", "message"),
    [
        (X8, M8.float(), "mask must be boolean"),
        (X8, M8[:4], "mask must be boolean and of the shape of data"),
        (Dataset(X8), M8, "give a Dataset its mask"),
    ],
)
def test_a_report_refuses_incompatible_masks(tmp_path, given, mask, message):
    with pytest.raises(ValueError, match=message):
        report(made(), given, tmp_path, mask=mask)


def test_accuracy_refuses_values_that_are_not_there():
    x, mask = masked()
    for given in ({}, {"mask": torch.ones_like(mask)}):
        with pytest.raises(ValueError, match="x has values that are not finite"):
            evaluation.accuracy(made(ssvae), x, torch.arange(40) % C, **given)


EVALUATED = {
    "elbo_terms": {},
    "importance_bounds": {},
    "log_likelihood": {"num_samples": 2},
    "annealed_importance_sampling": {},
    "kl_decomposition": {},
    "latent_units": {},
    "inference_gap": {},
    "responsibilities": {},
}


@pytest.mark.usefixtures("as_users_see_it")
@pytest.mark.parametrize("name", EVALUATED)
def test_an_evaluation_gives_programs_what_they_take(name):
    """Nothing is cut off, and the message says who would not take what."""
    evaluate = partial(getattr(evaluation, name), **EVALUATED[name])
    with pytest.raises(ValueError, match=f"{name}: the data have 'mask', which the model does not"):
        evaluate(programs(X), X8, mask=M8)
    with pytest.raises(ValueError, match=f"{name}: .* the guide takes 1 by position"):
        evaluate(programs(XMask, X), X8, M8)
    with pytest.raises(ValueError, match=f"{name}: the model needs 'y'"):
        evaluate(programs(NeedsLabels), X8)
    with pytest.raises(TypeError, match=f"{name}: x must be a Dataset, .*, got None"):
        evaluate(made(), None)


def test_a_report_on_programs_that_take_no_mask_is_refused(tmp_path):
    with pytest.raises(ValueError, match="report: the data have 'mask', which the model does not"):
        report(programs(X), Dataset(X8, mask=M8), tmp_path)
