"""Every prior × posterior × likelihood × estimator × route trains: each pair, or all (slow)."""

import math

import pairs
import pyro
import pytest
import torch
from pairs import (
    ALIKE,
    CONDITIONAL_PRIORS,
    LIKELIHOODS,
    POSTERIORS,
    PRIORS,
    C,
    D,
    Z,
    net,
    observations,
    ssvae,
    vae,
)
from pairwise import cross
from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO
from torch import nn

from ppl_vae import VAE, likelihoods, priors
from ppl_vae.estimators import ImportanceWeightedELBO

BATCH, LR = 4, 0.01

# A thousand cells: without the run-time type checks, as users see it.
pytestmark = pytest.mark.usefixtures("as_users_see_it")


ELBO = {
    "elbo": Trace_ELBO,
    "importance weighted": lambda: ImportanceWeightedELBO(num_particles=2),
}
LABELLED_ELBO = ELBO | {
    "elbo": lambda: TraceEnum_ELBO(max_plate_nesting=1, strict_enumeration_warning=False),
}


def step_by_svi(pair, estimator, data):
    """Take a step, and return the loss."""
    return SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": LR}), estimator).step(*data)


def step_as_module(pair, estimator, data):
    """Take a step, and return the loss."""
    bound = estimator(pair.model, pair.guide)
    optimizer = torch.optim.Adam(bound.parameters(), lr=LR)
    loss = bound(*data)
    loss.backward()
    optimizer.step()
    return loss.item()


ROUTES = {"svi": step_by_svi, "module": step_as_module}


def assert_trains(pair, estimator, route, *data):
    """Take a step: the loss is finite, and every tensor moves."""
    parameters = dict(pair.named_parameters())  # what model and guide share is there once
    before = {name: p.detach().clone() for name, p in parameters.items()}
    loss = ROUTES[route](pair, estimator, data)
    assert math.isfinite(loss), loss
    still = [name for name, p in parameters.items() if torch.equal(p, before[name])]
    assert not still, f"these did not move: {still}"
    broken = [name for name, p in parameters.items() if not p.isfinite().all()]
    assert not broken, f"these are not finite: {broken}"


@cross(prior=PRIORS, posterior=POSTERIORS, likelihood=LIKELIHOODS, estimator=ELBO, route=ROUTES)
def test_vae(prior, posterior, likelihood, estimator, route):
    x = observations(likelihood, BATCH)
    assert_trains(vae(prior, posterior, likelihood), ELBO[estimator](), route, x)


@cross(
    prior=[*PRIORS, *CONDITIONAL_PRIORS],
    posterior=POSTERIORS,
    likelihood=["bernoulli", "normal, learned scale"],
    estimator=LABELLED_ELBO,
    route=ROUTES,
)
def test_semi_supervised_vae(prior, posterior, likelihood, estimator, route):
    pair = ssvae(prior, posterior, likelihood, alpha=1.0)
    x, y = observations(likelihood, BATCH), torch.tensor([0, -1, 2, -1])
    assert_trains(pair, LABELLED_ELBO[estimator](), route, x, y)


# What does not fit is refused at construction, with the reason.


def parts_with(name, changed, value, monkeypatch):
    """Return the parts of a pair, one of them made for another width of z or of x."""
    q = POSTERIORS["diagonal"]()
    parts = {"prior": PRIORS["standard"](q), "posterior": q, "likelihood": None}
    parts["likelihood"] = LIKELIHOODS["bernoulli"]()
    axis = next(
        a for a, d in zip(parts, (PRIORS, POSTERIORS, LIKELIHOODS), strict=True) if name in d
    )
    with monkeypatch.context() as patch:
        patch.setattr(pairs, changed, value)
        if axis == "prior":
            parts[axis] = PRIORS[name](POSTERIORS["diagonal"]())
        else:
            parts[axis] = (POSTERIORS | LIKELIHOODS)[name]()
    return parts


@pytest.mark.parametrize("name", [*PRIORS, *POSTERIORS, *LIKELIHOODS])
def test_another_latent_dimension_is_refused(name, monkeypatch):
    parts = parts_with(name, "Z", Z + 1, monkeypatch)
    reason = "VAE: .*(is incompatible|the same latent dimensions|a posterior other than)"
    with pytest.raises(ValueError, match=reason):
        VAE(**parts)


@pytest.mark.parametrize("name", [*POSTERIORS, *ALIKE])
def test_another_width_of_x_is_refused(name, monkeypatch):
    parts = parts_with(name, "D", D + 1, monkeypatch)
    with pytest.raises(
        ValueError, match=f"VAE: posterior .* is incompatible.*expected ({D}|{D + 1}) "
    ):
        VAE(**parts)


class Image(nn.Sequential):
    def __init__(self):
        super().__init__(net(Z, D), nn.Unflatten(-1, (1, 2, 3)))


IMPOSSIBLE = {
    "a prior that is given a label where there is none": (
        lambda: vae().replace(prior=CONDITIONAL_PRIORS["normal given y"](None)),
        TypeError,
        "was called with 0 context tensors",
    ),
    "the shape of an image for a posterior of rows": (
        lambda: vae().replace(likelihood=likelihoods.Bernoulli(Image(), event_dim=3)),
        ValueError,
        r"posterior DiagonalNormal is incompatible.*\(1, 1, 2, 3\)",
    ),
    "an event_dim of other data": (
        lambda: vae().replace(likelihood=likelihoods.Bernoulli(Image(), event_dim=1)),
        ValueError,
        "likelihood Bernoulli must .*batch shape.* event_dim=3 for images",
    ),
    "pseudo-inputs of another width": (
        lambda: vae().replace(prior=priors.VampPrior(vae().posterior, 3, event_shape=(D + 1,))),
        ValueError,
        "expected 6 features|a posterior other than the pair",
    ),
    "a VampPrior of another posterior": (
        lambda: vae().replace(prior=priors.VampPrior(vae().posterior, 3, event_shape=(D,))),
        ValueError,
        "built on a posterior other than the pair",
    ),
    "a posterior that takes no label": (
        lambda: ssvae().replace(posterior=POSTERIORS["diagonal"]()),
        ValueError,
        "posterior DiagonalNormal is incompatible.*expected 6 features",
    ),
    "a likelihood that takes no label": (
        lambda: ssvae().replace(likelihood=LIKELIHOODS["bernoulli"]()),
        ValueError,
        "likelihood Bernoulli is incompatible.*expected 2 features",
    ),
    "a prior of another number of classes": (
        lambda: ssvae().replace(prior=priors.ConditionalFlow(Z, C + 1, hidden=(8,))),
        ValueError,
        "prior ConditionalFlow is incompatible",
    ),
    "a classifier of another number of classes": (
        lambda: ssvae().replace(classifier=net(D, C + 1)),
        ValueError,
        "classifier must return logits",
    ),
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_what_does_not_fit_is_refused(case):
    make, error, reason = IMPOSSIBLE[case]
    with pytest.raises(error, match=reason):
        make()
