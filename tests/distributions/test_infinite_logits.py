"""Logits of ±∞: probabilities of exactly 0 and 1, against masses written out, in float64."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.distributions import kl_divergence

from ppl_vae import columns, likelihoods, posteriors, priors
from ppl_vae.distributions.bernoulli import CertainBernoulli, bernoulli
from ppl_vae.distributions.counts import NegativeBinomial, ZeroInflatedNegativeBinomial
from ppl_vae.distributions.hurdle import HurdleLogNormal
from ppl_vae.distributions.mixture import Mixture
from ppl_vae.distributions.one_hot import OneHotCodes
from ppl_vae.distributions.straight_through import (
    StraightThroughBernoulli,
    StraightThroughOneHotCodes,
)

pytestmark = pytest.mark.usefixtures("float64", "as_users_see_it")
INF = math.inf
LOGITS = [INF, -INF, INF, -INF, 0.3, -0.7]
VALUES = [1.0, 0.0, 0.0, 1.0, 1.0, 0.0]


class Fixed(nn.Module):
    """A network whose outputs are given numbers."""

    def __init__(self, outputs):
        super().__init__()
        self.outputs = outputs

    def forward(self, x):
        return self.outputs.expand(*x.shape[:-1], *self.outputs.shape)


def in_prior(make):
    def build(logits):
        prior = make(len(logits))
        del prior.logits
        prior.logits = logits
        return prior()

    return build


def of_columns(logits):
    families = [columns.Bernoulli() for _ in logits]
    return likelihoods.Columns(Fixed(logits), families)(torch.zeros(1))


BERNOULLIS = {
    "likelihood": lambda logits: likelihoods.Bernoulli(Fixed(logits))(torch.zeros(1)),
    "posterior": lambda logits: posteriors.Bernoulli(Fixed(logits))(torch.zeros(1)),
    "relaxed": lambda logits: posteriors.RelaxedBernoulli(Fixed(logits))(torch.zeros(1)),
    "prior": in_prior(priors.Bernoulli),
    "columns": of_columns,
    "expanded": lambda logits: bernoulli(logits).expand((1, *logits.shape)).to_event(1),
}


@pytest.mark.parametrize("name", BERNOULLIS)
def test_a_certain_bernoulli_has_mass_zero_or_one(name):
    for logit, value in zip(LOGITS, VALUES, strict=True):
        logits = torch.tensor([logit, 0.3], requires_grad=True)
        p = BERNOULLIS[name](logits)
        log_p = p.log_prob(torch.tensor([value, 1.0])).squeeze()
        probability = torch.tensor(logit).sigmoid()
        mass = probability if value else 1 - probability
        other = torch.tensor(0.3).sigmoid()
        torch.testing.assert_close(log_p.detach(), mass.log() + other.log())
        (slope,) = torch.autograd.grad(log_p, logits)
        if log_p > -INF:
            expected = torch.tensor([value, 1.0]) - logits.detach().sigmoid()
            torch.testing.assert_close(slope, expected)


@pytest.mark.parametrize("make", [bernoulli, lambda logits: StraightThroughBernoulli(0.5, logits)])
def test_entropy_and_kl_of_certain_bernoullis(make):
    logits = torch.tensor([INF, -INF, 0.3], requires_grad=True)
    own, other = torch.tensor([1.0, 0.0, 0.3]), torch.tensor([0.2, -0.4, 1.1])
    own[2] = own[2].sigmoid()

    def expected_kl(q, p):
        return sum(torch.xlogy(a, a) - torch.xlogy(a, b) for a, b in ((q, p), (1 - q, 1 - p)))

    q = make(logits)
    entropy = -(torch.xlogy(own, own) + torch.xlogy(1 - own, 1 - own))
    torch.testing.assert_close(q.entropy().detach(), entropy)
    kl = kl_divergence(q, dist.Bernoulli(logits=other))
    torch.testing.assert_close(kl.detach(), expected_kl(own, other.sigmoid()))
    assert torch.autograd.grad(kl.sum(), logits)[0].isfinite().all()
    kl = kl_divergence(q, make(torch.tensor([INF, INF, -INF])))
    assert kl.tolist() == [0.0, INF, INF]


def test_a_finite_logit_whose_probability_underflows_has_a_finite_kl():
    q, p = dist.Bernoulli(logits=torch.tensor(0.0)), dist.Bernoulli(logits=torch.tensor(-2000.0))
    torch.testing.assert_close(kl_divergence(q, p), torch.tensor(1000.0 - math.log(2)))


def test_what_is_finite_is_torch_s_own_bernoulli():
    logits = torch.randn(3)
    p = bernoulli(logits)
    assert type(p) is dist.Bernoulli
    assert isinstance(bernoulli(torch.tensor([0.0, INF])), CertainBernoulli)
    with pytest.raises(ValueError, match="support"):
        p.log_prob(torch.tensor(0.4))
    with pytest.raises(ValueError, match="support"):
        bernoulli(torch.tensor([INF])).log_prob(torch.tensor(0.4))
    with pytest.raises(ValueError, match="Expected parameter logits"):
        bernoulli(torch.tensor([INF, math.nan]))
    with pyro.validation_enabled(False):
        assert type(bernoulli(torch.tensor([INF]))) is dist.Bernoulli  # no check, no cost


CODES = {
    "codes": OneHotCodes,
    "relaxed": lambda logits: StraightThroughOneHotCodes(0.5, logits),
    "prior": lambda logits: in_prior(lambda d: priors.Categorical(d, 3))(logits),
}


@pytest.mark.parametrize("name", CODES)
def test_impossible_categories(name):
    logits = torch.tensor([[0.2, -INF, 1.0], [0.0, 0.5, -0.5]], requires_grad=True)
    log_p = logits.detach().log_softmax(-1)
    value = torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0, 1.0], requires_grad=True)
    found = CODES[name](logits).log_prob(value)
    torch.testing.assert_close(found.detach(), log_p[0, 0] + log_p[1, 2])
    slopes = torch.autograd.grad(found, [logits, value])
    assert all(slope.isfinite().all() for slope in slopes)
    expected = value.detach() - log_p.exp().flatten()
    torch.testing.assert_close(slopes[0].flatten(), expected)
    impossible = torch.tensor([0.0, 1.0, 0.0, 0.0, 0.0, 1.0])
    assert CODES[name](logits).log_prob(impossible) == -INF

    entropy = CODES[name](logits).entropy()
    probs = log_p.exp()
    torch.testing.assert_close(entropy.detach(), -torch.xlogy(probs, probs).sum())
    assert torch.autograd.grad(entropy, logits)[0].isfinite().all()
    uniform = OneHotCodes(torch.zeros(2, 3))
    kl = kl_divergence(CODES[name](logits), uniform)
    torch.testing.assert_close(kl.detach(), 2 * math.log(3) - entropy.detach())
    assert torch.autograd.grad(kl, logits)[0].isfinite().all()
    assert kl_divergence(uniform, CODES[name](logits)) == INF
    kl = kl_divergence(CODES[name](logits), CODES[name](logits.detach()))
    assert kl == 0
    assert torch.autograd.grad(kl, logits)[0].isfinite().all()
    draws = CODES[name](logits).sample((50,))
    assert (draws[:, 1] == 0).all()


def test_columns_and_grey_levels_of_impossible_categories():
    logits = torch.tensor([0.2, -INF, 1.0], requires_grad=True)
    p = likelihoods.Columns(Fixed(logits), [columns.Categorical(3)])(torch.zeros(1))
    found = p.log_prob(torch.tensor([2.0]))
    torch.testing.assert_close(found.detach(), logits.detach().log_softmax(-1)[2])
    assert torch.autograd.grad(found, logits)[0].isfinite().all()
    assert p.log_prob(torch.tensor([1.0])) == -INF


def test_components_of_weight_zero():
    logits = torch.tensor([0.0, -INF, 0.4], requires_grad=True)
    loc = torch.tensor([[-1.0], [0.0], [2.0]], requires_grad=True)

    def normal(loc):
        return dist.Normal(loc, 1.0).to_event(1)

    p = Mixture(logits, normal(loc), lambda k: normal(loc[k]))
    found = p.log_prob(torch.tensor([0.3]))
    density = normal(loc.detach()).log_prob(torch.tensor([0.3]))
    weights = logits.detach().softmax(0)
    torch.testing.assert_close(found.detach(), (weights * density.exp()).sum().log())
    assert all(slope.isfinite().all() for slope in torch.autograd.grad(found, [logits, loc]))
    assert (p.sample((50,)) != 0).all()
    codes = Mixture(
        logits, bernoulli(torch.tensor([[INF], [0.0], [-INF]])).to_event(1), lambda k: None
    )
    torch.testing.assert_close(codes.log_prob(torch.ones(1)).detach(), weights[0].log())


@pytest.mark.parametrize("logit", [INF, -INF])
def test_gates_that_are_open_or_shut(logit):
    open_, logits = logit > 0, torch.full((2,), logit, requires_grad=True)
    base = NegativeBinomial(torch.tensor(2.0), mean=torch.tensor(3.0))
    p = ZeroInflatedNegativeBinomial(torch.tensor(2.0), mean=torch.tensor(3.0), gate_logits=logits)
    value = torch.tensor([0.0, 2.0])
    found = p.log_prob(value)
    expected = torch.tensor([0.0, -INF]) if open_ else base.log_prob(value)
    torch.testing.assert_close(found.detach(), expected)
    assert torch.autograd.grad(found[0], logits)[0].isfinite().all()
    hurdle = HurdleLogNormal(logits, torch.tensor(0.0), torch.tensor(1.0))
    found = hurdle.log_prob(value)
    positive = dist.LogNormal(0.0, 1.0).log_prob(value[1]) if open_ else torch.tensor(-INF)
    expected = torch.stack([torch.tensor(-INF if open_ else 0.0), positive])
    torch.testing.assert_close(found.detach(), expected)


def test_an_infinite_logit_of_a_density_is_refused():
    p = likelihoods.ContinuousBernoulli(Fixed(torch.tensor([INF, 0.0])))
    with pytest.raises(ValueError, match=r"ContinuousBernoulli: the network's output is invalid"):
        p(torch.zeros(1))
