"""The conditional VAE, and p(z | y) in the semi-supervised one, against formulas by hand."""

import math
import re

import pytest
import torch
from hand_written import bernoulli, draws, elbo, normal, standard
from pairs import C, D, Z, binary, net, ssvae
from pyro.infer import TraceEnum_ELBO
from torch import nn
from torch.nn import functional as F

from ppl_vae import (
    VAE,
    ConditionalVAE,
    estimators,
    likelihoods,
    nets,
    posteriors,
    priors,
)

LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 2])


def conditional(prior=None, further=C, **kind):
    return ConditionalVAE(
        prior=prior or priors.StandardNormal(Z),
        posterior=posteriors.DiagonalNormal(net(D + further, 2 * Z)),
        likelihood=likelihoods.Bernoulli(net(Z + further, D)),
        **(kind or {"num_classes": C}),
    )


@pytest.mark.parametrize("prior", ["unconditional", "conditional"])
@pytest.mark.parametrize("kind", ["labels", "features"])
def test_conditional_elbo_is_the_hand_written_one(prior, kind, float64):
    p_z = priors.ConditionalNormal(net(C, 2 * Z)) if prior == "conditional" else None
    if kind == "labels":
        pair, c = conditional(p_z), LABELS
        seen = F.one_hot(c, C).double()
    else:
        pair = conditional(p_z, context_features=C)
        c = seen = torch.randn(7, C)
    x = binary()
    z = draws(pair, x, c)["z"]
    log_prior = standard(z) if p_z is None else normal(z, p_z.net(seen))
    log_q = normal(z, pair.posterior.net(torch.cat([x, seen], -1)))
    log_px = bernoulli(x, pair.likelihood.net(torch.cat([z, seen], -1)))
    assert elbo(pair, x, c) == pytest.approx((log_px + log_prior - log_q).sum().item(), rel=1e-12)


def test_conditional_bound_reaches_log_px_given_c(float64):
    pair = ConditionalVAE(
        prior=priors.ConditionalNormal(nets.MLP(C, 2 * Z, hidden=())),
        posterior=posteriors.DiagonalNormal(nets.MLP(D + C, 2 * Z, hidden=())),
        likelihood=likelihoods.Normal(nets.MLP(Z + C, D, hidden=()), 0.8),
        num_classes=C,
    )
    one_hot = F.one_hot(LABELS, C).double()
    p_z, affine = pair.prior(one_hot), pair.likelihood.net.layers[0]
    weight, further = affine.weight[:, :Z], affine.weight[:, Z:]
    mean = p_z.mean @ weight.T + one_hot @ further.T + affine.bias
    cov = (
        weight @ torch.diag_embed(p_z.variance) @ weight.T
        + pair.likelihood(torch.zeros(1, Z), one_hot[:1]).variance[0].diag()
    )
    x = torch.randn(7, D)
    exact = torch.distributions.MultivariateNormal(mean, cov).log_prob(x)
    weights = estimators.ImportanceWeightedELBO(20_000).log_weights(
        pair.model, pair.guide, x, LABELS
    )
    log_w = weights.log_w.reshape(20_000, 7)
    estimate = log_w.logsumexp(0) - math.log(20_000)
    error = (log_w - estimate).exp().std(0) / math.sqrt(20_000)
    assert ((estimate - exact).abs() < 5 * error).all()


def test_conditional_generates_encodes_and_reconstructs():
    pair = conditional(priors.ConditionalNormal(net(C, 2 * Z)))
    x = binary()
    assert pair.generate(LABELS).shape == (7, D)
    mean = pair.generate(LABELS, mean=True)
    assert ((mean > 0) & (mean < 1)).all()
    one_hot = F.one_hot(LABELS, C).float()
    torch.testing.assert_close(pair.encode(x, LABELS), pair.posterior(x, one_hot).mean)
    assert pair.reconstruct(x, LABELS).shape == x.shape
    swapped = pair.replace(prior=priors.GaussianMixture(Z, 3))
    assert swapped.posterior is pair.posterior
    assert swapped.num_classes == C
    assert swapped.generate(LABELS).shape == (7, D)


CONDITION_ERRORS = {
    "no c": (lambda: conditional().model(binary()), TypeError, "a label for each datum, got None"),
    "no features": (
        lambda: conditional(context_features=C).model(binary()),
        TypeError,
        r"expected c of shape \(7, 3\), floating, got None",
    ),
    "an unobserved label": (
        lambda: conditional().guide(binary(), torch.full((7,), -1)),
        ValueError,
        "c must hold a label for each datum",
    ),
    "features of another width": (
        lambda: conditional(context_features=C).guide(binary(), torch.randn(7, 2)),
        ValueError,
        r"expected c of shape \(7, 3\)",
    ),
    "both kinds": (
        lambda: conditional(num_classes=C, context_features=C),
        TypeError,
        "either num_classes .labels c. or context_features",
    ),
    "no width": (
        lambda: conditional(num_classes=None),
        TypeError,
        "either num_classes .labels c. or context_features",
    ),
    "a prior of another context": (
        lambda: conditional(priors.ConditionalNormal(net(C + 1, 2 * Z))),
        ValueError,
        r"ConditionalVAE: prior ConditionalNormal is incompatible",
    ),
    "a conditional prior without a condition": (
        lambda: VAE(
            prior=priors.ConditionalNormal(net(C, 2 * Z)),
            posterior=posteriors.DiagonalNormal(net(D, 2 * Z)),
            likelihood=likelihoods.Bernoulli(net(Z, D)),
        ),
        TypeError,
        "was called with 0 context tensors.*as its context",
    ),
}


@pytest.mark.parametrize("case", CONDITION_ERRORS)
def test_conditional_errors(case, as_users_see_it):
    make, error, message = CONDITION_ERRORS[case]
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("kind", ["MLP", "Sequential"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_inputs_of_another_dtype_are_named(kind, dtype, as_users_see_it):
    other = torch.float64 if dtype == torch.float32 else torch.float32

    def net(width_in, width_out):
        if kind == "MLP":
            return nets.MLP(width_in, width_out, hidden=(5,))
        return nn.Sequential(nn.Linear(width_in, 5), nn.ELU(), nn.Linear(5, width_out))

    pair = ConditionalVAE(
        prior=priors.StandardNormal(Z),
        posterior=posteriors.DiagonalNormal(net(D + C, 2 * Z)),
        likelihood=likelihoods.Bernoulli(net(Z + C, D)),
        context_features=C,
    ).to(dtype)
    elbo = estimators.ImportanceWeightedELBO(1)
    x, c, z = binary().to(dtype), torch.randn(len(binary()), C, dtype=dtype), torch.zeros(1, Z)
    message = f"expected c of {dtype}, .* got {other}; give c.to"
    for call in (
        lambda: elbo.loss(pair.model, pair.guide, x, c.to(other)),
        lambda: pair.encode(x, c.to(other)),
        lambda: pair.generate(c.to(other)),
        lambda: pair.decode(z.to(dtype), c[:1].to(other)),
    ):
        with pytest.raises(TypeError, match=message):
            call()
    shape = re.escape(str((len(x), D)))
    with pytest.raises(ValueError, match=f"has {dtype}, but its input .of shape {shape}. {other}"):
        elbo.loss(pair.model, pair.guide, x.to(other), c)
    with pytest.raises(ValueError, match=f"has {dtype}, but its input .* {other}"):
        pair.decode(z.to(other), c[:1])
    assert elbo.loss(pair.model, pair.guide, x, c) > 0
    if dtype == torch.float32:
        with torch.autocast("cpu"):
            assert elbo.loss(pair.model, pair.guide, x, c.bfloat16()) > 0


def test_conditional_prior_of_the_semi_supervised_pair(float64):
    pair, x = ssvae("normal given y"), binary()
    z = draws(pair, x, LABELS)["z"]
    one_hot = F.one_hot(LABELS, C).double()
    log_q = normal(z, pair.posterior.net(torch.cat([x, one_hot], -1)))
    log_px = bernoulli(x, pair.likelihood.net(torch.cat([z, one_hot], -1)))
    log_prior = normal(z, pair.prior.net(one_hot)) - math.log(C)
    expected = (log_px + log_prior - log_q).sum().item()
    assert elbo(pair, x, LABELS) == pytest.approx(expected, rel=1e-12)


def test_conditional_prior_is_enumerated_with_y(float64):
    # The unlabelled bound is the expectation over q(y|x) of the labelled one, minus log q(y|x).
    pair, x = ssvae("normal given y"), binary(2)
    enum = TraceEnum_ELBO(max_plate_nesting=1, strict_enumeration_warning=False)
    with torch.no_grad():
        many = x.repeat(100, 1)
        unlabelled = torch.tensor([enum.loss(pair.model, pair.guide, many) for _ in range(30)])
        log_q = pair.classifier(x).logits
        labelled = []
        for c in range(C):
            y = torch.full((2,), c)
            values = estimators.ImportanceWeightedELBO(3000).log_weights(
                pair.model, pair.guide, x, y
            )
            labelled.append(values.log_w.reshape(3000, 2))
        labelled = torch.stack(labelled, -1)
        q = log_q.exp()
        exact = (q * (labelled - log_q)).sum(-1)
    difference = -unlabelled.mean() / 100 - exact.mean(0).sum()
    error = (unlabelled.var() / 100**2 / 30 + exact.var(0).sum() / 3000).sqrt()
    assert abs(difference) < 5 * error
