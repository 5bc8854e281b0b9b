"""VAEs of several stochastic layers, against formulas by hand."""

import copy
import math
from itertools import pairwise

import pyro
import pytest
import torch
from hand_written import bernoulli, draws, elbo, normal, standard
from pairs import D, Z, binary, net
from pyro.infer import SVI, Trace_ELBO
from torch.nn import functional as F

from ppl_vae import (
    VAE,
    HierarchicalVAE,
    estimators,
    likelihoods,
    nets,
    posteriors,
    priors,
)

Z1 = 3


def hierarchical(inference="bottom-up", *, skip=False, ladder=False, prior=None, layers=2):
    """Layers of 3, 2, 2... latents."""
    sizes = [Z1] + [Z] * (layers - 1)
    conditionals = [
        priors.ConditionalNormal(net(above, 2 * size)) for size, above in pairwise(sizes)
    ]
    guide = []
    for layer, size in enumerate(sizes):
        above = sizes[layer + 1 : layer + 2]
        if inference == "bottom-up":
            q = posteriors.DiagonalNormal(net(sizes[layer - 1] if layer else D, 2 * size))
        elif ladder and above:
            q = posteriors.PrecisionWeighted(net(D, 2 * size), conditionals[layer])
        else:
            q = posteriors.DiagonalNormal(net(D + sum(above), 2 * size))
        guide.append(q)
    return HierarchicalVAE(
        prior=prior(guide[-1]) if prior else priors.StandardNormal(Z),
        conditionals=conditionals,
        posteriors=guide,
        likelihood=likelihoods.Bernoulli(net(sum(sizes) if skip else Z1, D)),
        inference=inference,
        skip_connections=skip,
    )


HIERARCHIES = {
    "bottom-up": {},
    "bottom-up, skip": {"skip": True},
    "top-down": {"inference": "top-down"},
    "ladder": {"inference": "top-down", "ladder": True},
}


@pytest.mark.parametrize("name", HIERARCHIES)
def test_hierarchical_elbo_is_the_hand_written_one(name, float64):
    pair, x = hierarchical(**HIERARCHIES[name]), binary()
    z1, z2 = (draws(pair, x)[site] for site in ("z1", "z2"))
    q1, q2 = pair.posteriors
    above = pair.conditionals[0].net(z2)
    log_p = standard(z2) + normal(z1, above)
    seen = torch.cat([z1, z2], -1) if "skip" in name else z1
    log_p = log_p + bernoulli(x, pair.likelihood.net(seen))
    if "bottom-up" in name:
        log_q = normal(z1, q1.net(x)) + normal(z2, q2.net(z1))
    elif name == "top-down":
        log_q = normal(z2, q2.net(x)) + normal(z1, q1.net(torch.cat([x, z2], -1)))
    else:
        # precision-weighted mean of what x says and of the prior
        loc, raw = q1.net(x).chunk(2, -1)
        p_loc, p_raw = above.chunk(2, -1)
        precision, p_precision = ((F.softplus(r) + 1e-4) ** -2 for r in (raw, p_raw))
        mean = (precision * loc + p_precision * p_loc) / (precision + p_precision)
        ladder = torch.distributions.Normal(mean, (precision + p_precision) ** -0.5)
        log_q = normal(z2, q2.net(x)) + ladder.log_prob(z1).sum(-1)
    assert elbo(pair, x) == pytest.approx((log_p - log_q).sum().item(), rel=1e-12)


def test_precision_weighted_is_the_normalised_product(float64):
    pair = hierarchical("top-down", ladder=True)
    q, x, z2 = pair.posteriors[0], binary(5), torch.randn(5, Z)
    z1 = torch.randn(40, 5, Z1)
    product = normal(z1, q.net(x)) + normal(z1, pair.conditionals[0].net(z2))
    constant = q(x, z2).log_prob(z1) - product
    torch.testing.assert_close(constant, constant[:1].expand_as(constant))


@pytest.mark.parametrize("layers", [2, 3])
@pytest.mark.parametrize("inference", ["bottom-up", "top-down"])
def test_two_and_three_layers_reach_log_px(inference, layers, float64):
    # p(x) = Σ_grid p(x | z) over a fine grid is out of reach; a linear model is exact.
    pair = hierarchical(inference, layers=layers)
    sizes = [Z1] + [Z] * (layers - 1)

    def affine(width_in, width_out):
        layer = nets.MLP(width_in, width_out, hidden=())
        with torch.no_grad():
            layer.layers[0].weight.mul_(0.5)
        return layer

    class Linear(torch.nn.Module):
        """N(W z + b, 0.7²): the scale does not depend on z, so that everything is normal."""

        def __init__(self, width_in, width_out):
            super().__init__()
            self.affine = affine(width_in, width_out)

        def forward(self, z):
            raw = torch.full_like(loc := self.affine(z), math.log(math.expm1(0.7 - 1e-4)))
            return torch.cat([loc, raw], -1)

    pair = pair.replace(
        conditionals=[
            priors.ConditionalNormal(Linear(a, b)) for a, b in zip(sizes[1:], sizes, strict=False)
        ],
        likelihood=likelihoods.Normal(affine(Z1, D), 0.7),
    )
    mean, cov = torch.zeros(Z), torch.eye(Z)
    for layer in [*(c.net.affine.layers[0] for c in reversed(pair.conditionals)), None]:
        layer = layer or pair.likelihood.net.layers[0]
        mean = layer.weight @ mean + layer.bias
        cov = layer.weight @ cov @ layer.weight.T + 0.49 * torch.eye(len(mean))
    x = torch.distributions.MultivariateNormal(mean, cov).sample((3,))
    exact = torch.distributions.MultivariateNormal(mean, cov).log_prob(x)
    k = 50_000
    with torch.no_grad():
        weights = estimators.ImportanceWeightedELBO(k).log_weights(pair.model, pair.guide, x)
    log_w = weights.log_w.reshape(k, 3)
    estimate = log_w.logsumexp(0) - math.log(k)
    error = (log_w - estimate).exp().std(0) / math.sqrt(k)
    assert ((estimate - exact).abs() < 5 * error).all()


@pytest.mark.usefixtures("as_users_see_it")
@pytest.mark.parametrize(
    "gradient",
    ["iwae", "dreg", *(pytest.param(g, marks=pytest.mark.slow) for g in ("stl", "wake"))],
)
@pytest.mark.parametrize("name", HIERARCHIES)
def test_hierarchies_train_with_every_gradient(name, gradient):
    pair, x = hierarchical(**HIERARCHIES[name], layers=3), binary()
    before = copy.deepcopy(dict(pair.named_parameters()))
    estimator = estimators.ImportanceWeightedELBO(4, gradient)
    svi = SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 0.01}), estimator)
    assert all(math.isfinite(svi.step(x)) for _ in range(3))
    assert not [n for n, p in pair.named_parameters() if torch.equal(p, before[n])]


@pytest.mark.usefixtures("as_users_see_it")
@pytest.mark.parametrize("name", ["ladder", "vamp"])
def test_dreg_is_unbiased_where_model_and_guide_share_parameters(name, float64):
    # The same expectation as of the plain gradient, by many draws of both.
    if name == "ladder":
        pair = hierarchical("top-down", ladder=True)
    else:
        q = posteriors.DiagonalNormal(net(D, 2 * Z))
        pair = VAE(
            prior=priors.VampPrior(q, 3, event_shape=(D,)),
            posterior=q,
            likelihood=likelihoods.Bernoulli(net(Z, D)),
        )
    x = binary(1).expand(500, D)  # 500 independent gradients, and blocks of them
    parameters = list(pair.parameters())
    blocks = {}
    for gradient in ("iwae", "dreg"):
        rows = []
        for _ in range(20):
            loss = estimators.ImportanceWeightedELBO(3, gradient)(pair.model, pair.guide)(x)
            found = torch.autograd.grad(loss / len(x), parameters)
            rows.append(torch.cat([g.flatten() for g in found]))
        blocks[gradient] = torch.stack(rows)
    a, b = blocks["iwae"], blocks["dreg"]
    error = ((a.var(0) + b.var(0)) / 20).sqrt()
    difference = a.mean(0) - b.mean(0)
    assert (difference.abs() < 5.5 * error + 1e-12).all()
    assert error.norm() < 0.05 * a.mean(0).norm()  # or the test could not fail


def test_hierarchical_generates_encodes_and_reconstructs():
    for options in HIERARCHIES.values():
        pair, x = hierarchical(**options), binary()
        assert pair.generate(5).shape == (5, D)
        assert [z.shape for z in pair.encode(x)] == [(7, Z1), (7, Z)]
        assert pair.reconstruct(x).shape == x.shape
        assert pair.prior().event_shape == (Z,)
        assert pair.posterior(x).event_shape == ((Z1,) if pair.inference == "bottom-up" else (Z,))


def test_a_vamp_prior_follows_the_top_posterior():
    pair = hierarchical("top-down", prior=lambda q: priors.VampPrior(q, 3, event_shape=(D,)))
    assert pair.prior.posterior is pair.posteriors[-1]
    q1, _ = pair.posteriors
    top = posteriors.FullRankNormal(net(D, posteriors.FullRankNormal.net_features(Z)))
    swapped = pair.replace(posteriors=[q1, top])
    assert swapped.prior.posterior is top
    assert {id(p) for p in swapped.prior.parameters()} > {id(p) for p in top.parameters()}
    before = copy.deepcopy(dict(swapped.named_parameters()))
    svi = SVI(swapped.model, swapped.guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
    assert math.isfinite(svi.step(binary()))
    assert not [n for n, p in swapped.named_parameters() if torch.equal(p, before[n])]


def test_replacing_the_posterior_takes_the_vamp_prior_along():
    q = posteriors.DiagonalNormal(net(D, 2 * Z))
    prior = priors.VampPrior(q, torch.rand(3, D))
    pair = VAE(prior=prior, posterior=q, likelihood=likelihoods.Bernoulli(net(Z, D)))
    other = posteriors.DiagonalNormal(net(D, 2 * Z))
    swapped = pair.replace(posterior=other)
    assert swapped.prior.posterior is other
    assert pair.prior.posterior is q
    assert pair.replace(likelihood=pair.likelihood).prior is prior
    with pytest.raises(ValueError, match="VampPrior is built on a posterior other than"):
        pair.replace(prior=prior, posterior=other)


HIERARCHICAL_ERRORS = {
    "one layer": (
        lambda p: p | {"conditionals": [], "posteriors": p["posteriors"][:1]},
        ValueError,
        "for one layer use VAE",
    ),
    "a posterior too few": (
        lambda p: p | {"posteriors": p["posteriors"][:1]},
        ValueError,
        "got 1 posteriors and 1 conditionals",
    ),
    "another direction": (
        lambda p: p | {"inference": "sideways"},
        ValueError,
        "inference must be 'bottom-up' or 'top-down'",
    ),
    "posteriors in the wrong order": (
        lambda p: p | {"posteriors": p["posteriors"][::-1]},
        ValueError,
        r"posteriors\[0\] DiagonalNormal is incompatible",
    ),
    "a conditional of another width": (
        lambda p: p | {"conditionals": [priors.ConditionalNormal(net(Z, 2 * Z))]},
        ValueError,
        "likelihood Bernoulli is incompatible",
    ),
    "another latent size": (
        lambda p: (
            p | {"posteriors": [p["posteriors"][0], posteriors.DiagonalNormal(net(Z1, 2 * Z + 2))]}
        ),
        ValueError,
        r"prior and posteriors\[1\] must have the same latent dimensions",
    ),
    "a ladder on another conditional": (
        lambda p: (
            p
            | {
                "inference": "top-down",
                "posteriors": [
                    posteriors.PrecisionWeighted(
                        net(D, 2 * Z1), priors.ConditionalNormal(net(Z, 2 * Z1))
                    ),
                    posteriors.DiagonalNormal(net(D, 2 * Z)),
                ],
            }
        ),
        ValueError,
        "has a conditional other than",
    ),
}


@pytest.mark.parametrize("case", HIERARCHICAL_ERRORS)
def test_hierarchical_errors(case, as_users_see_it):
    change, error, message = HIERARCHICAL_ERRORS[case]
    with pytest.raises(error, match=message):
        HierarchicalVAE(**change(hierarchical().parts()))
