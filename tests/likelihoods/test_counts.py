"""Likelihoods of counts, against formulas by hand."""

import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from likelihood_cases import CASES, COUNTS, width_options
from torch import nn

from ppl_vae import VAE, evaluation, likelihoods, posteriors, priors
from ppl_vae.distributions.counts import NegativeBinomial, ZeroInflatedNegativeBinomial


def given(cls, outputs, event_dim=1, **options):
    """Return the likelihood whose network's output is ``outputs``."""
    return cls(nn.Identity(), event_dim=event_dim, **options).to(outputs.dtype)(outputs)


def outputs_for(name, event_shape, leading=(2,), scale=2.0, dtype=None):
    cls, options, _ = CASES[name]
    shape = cls.net_shape(event_shape, **width_options(cls, options))
    return scale * torch.randn(*leading, *shape, dtype=dtype)


def softplus(a):
    return np.logaddexp(0, a) + 1e-4


def test_poisson(float64):
    outputs, x = 3 * torch.randn(50), torch.randint(20, (50,)).double()
    p = given(likelihoods.Poisson, outputs)
    mean = softplus(outputs.numpy())
    torch.testing.assert_close(
        p.log_prob(x), torch.tensor(scipy.stats.poisson.logpmf(x.numpy(), mean).sum())
    )
    torch.testing.assert_close(p.mean, torch.tensor(mean))


@pytest.mark.parametrize("dispersion", [0.5, 19, 21, 500, "learned", "per-pixel"])
def test_negative_binomial_has_variance_mean_plus_square_over_dispersion(dispersion, float64):
    mean_outputs, x = 3 * torch.randn(4, 6), torch.randint(60, (4, 6)).double()
    outputs, r = mean_outputs, dispersion
    part = likelihoods.NegativeBinomial(nn.Identity(), dispersion)
    if dispersion == "learned":
        nn.init.constant_(part.log_dispersion, 2.0)
        r = math.exp(2.0)
    if dispersion == "per-pixel":
        outputs = torch.cat([mean_outputs, 30 * torch.rand(4, 6)], -1)
        r = softplus(outputs[:, 6:].numpy())
    p, mean = part(outputs), softplus(mean_outputs.numpy())
    expected = scipy.stats.nbinom.logpmf(x.numpy(), r, r / (r + mean)).sum(-1)
    close = {"rtol": 1e-10, "atol": 1e-9}
    torch.testing.assert_close(p.log_prob(x).detach(), torch.tensor(expected), **close)
    torch.testing.assert_close(p.mean.detach(), torch.tensor(mean), **close)
    torch.testing.assert_close(p.variance.detach(), torch.tensor(mean + mean**2 / r), **close)


def test_masses_of_counts_sum_to_one(float64):
    x = torch.arange(4000.0)[:, None]
    for name in CASES:
        cls, options, _ = CASES[name]
        if cls in COUNTS:
            outputs = outputs_for(name, (5,), leading=())
            p = given(cls, outputs + 2 * (dispersed := name.endswith("pixel")), **options).base_dist
            tail = 1e-6 if dispersed else 1e-9
            total = p.log_prob(x).exp().sum(0).detach()
            torch.testing.assert_close(total, torch.ones(5), rtol=0, atol=tail)


@pytest.mark.parametrize("r", [1e2, 1e4, 1e6, 1e8])
def test_negative_binomial_with_large_dispersion_keeps_its_precision(r):
    x, mean = torch.tensor([0.0, 1.0, 7.0, 30.0, 90.0]), torch.tensor([[1e-3], [1.0], [40.0], [90]])
    p = NegativeBinomial(torch.tensor(r), logits=mean.log() - math.log(r))
    mean = torch.tensor(r).double() * (p.logits.double()).exp()
    expected = torch.tensor(scipy.stats.poisson.logpmf(x.double().numpy(), mean.numpy()))
    if r < 1e7:  # beyond, scipy's own is no better
        expected = torch.tensor(
            scipy.stats.nbinom.logpmf(x.double().numpy(), r, (r / (r + mean)).numpy())
        )
    torch.testing.assert_close(p.log_prob(x).double(), expected, rtol=3e-6, atol=3e-5)


def test_negative_binomial_with_a_mean_far_above_dispersion_keeps_its_precision():
    x, r = torch.tensor([0.0, 1.0, 90.0]), torch.tensor([[30.0], [300.0]])
    mean = torch.tensor([[[1e4]], [[1e8]]])
    p = NegativeBinomial(r, logits=(mean / r).log())
    mean = r.double() * p.logits.double().exp()
    expected = scipy.stats.nbinom.logpmf(x.numpy(), r.numpy(), (r / (r + mean)).numpy())
    torch.testing.assert_close(p.log_prob(x).double(), torch.tensor(expected), rtol=2e-6, atol=0)


ZINB = likelihoods.ZeroInflatedNegativeBinomial
LARGE = torch.tensor([-800.0, -40.0, 0.0, 40.0, 800.0])


def test_zero_inflated_masses_are_those_of_the_formula(float64):
    mean, r, logit = 3 * torch.rand(4, 6) + 0.1, 2 * torch.rand(4, 6) + 0.1, 2 * torch.randn(4, 6)
    x = torch.randint(4, (4, 6)).double()
    p = ZeroInflatedNegativeBinomial(r, mean=mean, gate_logits=logit)
    gate = scipy.special.expit(logit.numpy())
    base = scipy.stats.nbinom.pmf(x.numpy(), r.numpy(), (r / (r + mean)).numpy())
    expected = np.log(gate * (x.numpy() == 0) + (1 - gate) * base)
    torch.testing.assert_close(p.log_prob(x), torch.tensor(expected), rtol=1e-12, atol=1e-12)
    k = torch.arange(400.0)[:, None, None]
    mass = p.log_prob(k).exp()
    torch.testing.assert_close(mass.sum(0), torch.ones(4, 6), rtol=0, atol=1e-12)
    first, second = (k * mass).sum(0), (k**2 * mass).sum(0)
    torch.testing.assert_close(p.mean, first, rtol=1e-9, atol=0)
    torch.testing.assert_close(p.variance, second - first**2, rtol=1e-8, atol=0)


def test_zero_inflated_samples_have_the_masses(float64):
    n = 20_000
    p = ZeroInflatedNegativeBinomial(
        torch.tensor(0.7), mean=torch.tensor([0.5, 4.0]), gate_logits=torch.tensor([-1.0, 1.0])
    )
    draws = p.sample((n,))
    for k in range(4):
        mass = p.log_prob(torch.full((2,), float(k))).exp()
        share = (draws == k).double().mean(0)
        assert ((share - mass).abs() <= 5 * (mass * (1 - mass) / n).sqrt()).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gates_that_are_certain_keep_every_digit(dtype):
    logit = LARGE.to(dtype).requires_grad_()
    p = ZeroInflatedNegativeBinomial(
        torch.tensor(2.0, dtype=dtype), mean=torch.tensor(3.0, dtype=dtype), gate_logits=logit
    )
    base = NegativeBinomial(torch.tensor(2.0), mean=torch.tensor(3.0))
    for x in (0.0, 5.0):
        log_p = p.log_prob(torch.tensor(x, dtype=dtype))
        (gradient,) = torch.autograd.grad(log_p.sum(), logit)
        assert gradient.isfinite().all()
        nb = base.log_prob(torch.tensor(x)).item()
        # log(1 - π) is -a for large logits a, and log π is 0.
        if x:
            expected = [nb, nb, nb - math.log(2), nb - 40, nb - 800]
        else:
            expected = [nb, nb, math.log((1 + math.exp(nb)) / 2), 0.0, 0.0]
        expected = torch.tensor(expected, dtype=dtype)
        torch.testing.assert_close(log_p.detach(), expected, rtol=2e-6, atol=1e-7)


def test_large_counts_keep_their_precision_under_zero_inflation():
    x = torch.tensor([1e6, 1e7])
    p = ZeroInflatedNegativeBinomial(torch.tensor(1e6), mean=x, gate_logits=torch.zeros(2))
    base = NegativeBinomial(torch.tensor(1e6).double(), mean=x.double())
    expected = base.log_prob(x.double()) - math.log(2)
    torch.testing.assert_close(p.log_prob(x).double(), expected, rtol=2e-6, atol=0)


def counting(cls, further=0, event_shape=(5,), **options):
    """Return a likelihood of size factors, with a linear network of two latents."""
    shape = cls.net_shape(event_shape, **width_options(cls, options))
    flat = nn.Linear(2 + further, math.prod(shape))
    net = nn.Sequential(flat, nn.Unflatten(-1, shape))
    return cls(net, size_factor="context", event_dim=len(event_shape), **options)


@pytest.mark.parametrize("cls", COUNTS)
def test_a_size_factor_times_shares_is_the_mean(cls, float64):
    options = {} if cls is likelihoods.Poisson else {"dispersion": "per-element", "elements": 5}
    part = counting(cls, 3, **options)
    z, c, size = torch.randn(7, 1, 2), torch.randn(4, 3), torch.tensor([1.0, 50, 1e3, 2e5])
    p = part(z, torch.cat([c, size.log()[:, None]], -1))
    outputs = part.net(torch.cat([z.expand(7, 4, 2), c.expand(7, 4, 3)], -1))[..., :5]
    share = outputs.exp() / outputs.exp().sum(-1, keepdim=True)
    assert p.batch_shape == (7, 4)
    elements = getattr(p.base_dist, "base", p.base_dist)
    torch.testing.assert_close(elements.mean, size[:, None] * share + 1e-8)


def test_a_latent_size_factor_is_log_normal_under_a_standard_normal(float64):
    n, net = 4000, nn.Linear(2 + 3, 5)
    part = likelihoods.Poisson(net, size_factor="latent", log_size=(3, 0.5))
    z, c = torch.randn(n, 3), torch.randn(n, 3)
    mean = part(z, c).mean
    log_size = mean.sum(-1).log()
    torch.testing.assert_close(log_size, 3 + 0.5 * z[:, 0])
    share = net(torch.cat([z[:, 1:], c], -1)).softmax(-1)
    torch.testing.assert_close(mean / mean.sum(-1, keepdim=True), share)


def test_the_evidence_of_a_latent_size_factor_is_the_integral_over_it(float64):
    """Without other latents in the network's use, log p(x) is a sum over a grid of log l."""
    part = likelihoods.NegativeBinomial(
        nn.Sequential(nn.Linear(1, 3)), 2.0, size_factor="latent", log_size=(2, 0.7)
    )
    nn.init.zeros_(part.net[0].weight)
    vae = VAE(
        prior=priors.StandardNormal(2),
        posterior=posteriors.DiagonalNormal(nn.Linear(3, 4)),
        likelihood=part,
    )
    nn.init.zeros_(vae.posterior.net.weight)  # q(z) is wider than any posterior
    with torch.no_grad():
        vae.posterior.net.bias.copy_(torch.tensor([0.0, 0.0, 1.0, 0.6]))
    x = torch.tensor([[3.0, 0.0, 7.0], [0.0, 1.0, 0.0]])
    z = torch.linspace(-9, 9, 20_001)
    mean = torch.exp(2 + 0.7 * z)[:, None] * part.net[0].bias.softmax(-1)
    p_x = NegativeBinomial(torch.tensor(2.0), mean=mean[:, None]).log_prob(x).sum(-1)
    log_p = (p_x + torch.distributions.Normal(0, 1).log_prob(z)[:, None]).logsumexp(0)
    expected = log_p + math.log(18 / 20_000)
    found = evaluation.log_likelihood(vae, x, num_samples=20_000)
    assert ((found.log_px - expected).abs() <= 5 * found.standard_error).all()


def test_shares_are_over_all_elements_of_images(float64):
    part = counting(likelihoods.Poisson, event_shape=(2, 3, 4))
    p = part(torch.randn(7, 2), torch.full((7, 1), math.log(100.0)))
    torch.testing.assert_close(p.mean.sum((1, 2, 3)), torch.full((7,), 100.0))


@pytest.mark.parametrize("cls", COUNTS)
def test_shares_of_nearly_nothing_have_finite_masses_and_gradients(cls):
    outputs = torch.tensor([[0.0, -1e4, -80.0, 1e4, 50.0], [0.0, -200.0, 3.0, -90.0, 1.0]])
    count = 2 if cls is ZINB else 1
    outputs = outputs.repeat(1, count).requires_grad_()
    x, size = torch.tensor([[0.0, 7, 1e6, 3, 0], [1, 1, 1, 1, 1e5]]), torch.tensor([[0.0], [12.0]])

    class Given(nn.Module):
        def forward(self, z):
            return outputs

    log_prob = cls(Given(), size_factor="context")(outputs, size).log_prob(x)
    (gradient,) = torch.autograd.grad(log_prob.sum(), outputs)
    assert log_prob.isfinite().all()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("cls", [likelihoods.NegativeBinomial, ZINB])
@pytest.mark.parametrize("event_shape", [(6,), (1, 2, 3)])
def test_what_is_per_element_is_learned_for_each(cls, event_shape, float64):
    elements = 6 if event_shape == (6,) else event_shape
    options = {"gate": "per-element"} if cls is ZINB else {}
    part = cls(
        nn.Identity(),
        "per-element",
        elements=elements,
        event_dim=len(event_shape),
        **options,
    )
    found = {name: tuple(p.shape) for name, p in part.named_parameters()}
    assert found == dict.fromkeys(
        ["log_dispersion", *(["gate_logits"] if options else [])], event_shape
    )
    nn.init.normal_(part.log_dispersion)
    outputs = torch.randn(2, *event_shape)
    p = part(outputs).base_dist
    elements = getattr(p, "base", p)
    r = part.log_dispersion.detach().exp().numpy()
    mean = softplus(outputs.numpy())
    expected = torch.tensor(mean + mean**2 / r)
    torch.testing.assert_close(elements.variance.detach(), expected)
    if options:
        expected = torch.full(event_shape, 0.1).expand_as(outputs)
        torch.testing.assert_close(torch.sigmoid(p.gate_logits).expand_as(outputs), expected)


def test_outputs_per_pixel_are_mean_dispersion_gate(float64):
    outputs = torch.randn(2, 3 * 4)
    p = ZINB(nn.Identity(), "per-pixel")(outputs).base_dist
    mean, dispersion, gate = outputs.split(4, -1)
    torch.testing.assert_close(p.base.mean, torch.tensor(softplus(mean.numpy())))
    torch.testing.assert_close(p.base.total_count, torch.tensor(softplus(dispersion.numpy())))
    torch.testing.assert_close(p.gate_logits, gate)


NET = nn.Identity()
ERRORS = {
    "no elements": (
        lambda: likelihoods.NegativeBinomial(NET, "per-element"),
        "dispersion='per-element' needs elements.*got None; give elements=20670",
    ),
    "no elements of a gate": (
        lambda: ZINB(NET, 1.0, "per-element"),
        "gate='per-element' needs elements",
    ),
    "elements of nothing": (
        lambda: likelihoods.NegativeBinomial(NET, elements=6),
        "elements must be left out unless dispersion is 'per-element', got 6",
    ),
    "elements of another rank": (
        lambda: likelihoods.NegativeBinomial(NET, "per-element", elements=6, event_dim=3),
        r"elements must have event_dim=3 sizes, got \(6,\)",
    ),
    "elements of another number": (
        lambda: likelihoods.NegativeBinomial(NET, "per-element", elements=1)(torch.zeros(2, 6)),
        r"net must return elements=\(1,\) for a datum, got.*\(2, 6\)",
    ),
    "another gate": (lambda: ZINB(NET, gate=0.5), "gate must be 'learned'.*got 0.5"),
    "another size factor": (
        lambda: likelihoods.Poisson(NET, size_factor="learned"),
        "size_factor must be None, 'context'.*or 'latent', got 'learned'",
    ),
    "a latent size factor of any size": (
        lambda: likelihoods.Poisson(NET, size_factor="latent"),
        "log_size, the mean and standard deviation of log l, goes with.*got None",
    ),
    "the size of no size factor": (
        lambda: likelihoods.Poisson(NET, log_size=(7, 1)),
        "goes with size_factor='latent', got",
    ),
    "one number": (
        lambda: likelihoods.Poisson(NET, size_factor="latent", log_size=7),
        r"log_size must be \(mean, deviation\), got 7",
    ),
    "a deviation of 0": (
        lambda: likelihoods.Poisson(NET, size_factor="latent", log_size=(7, 0)),
        "log_size must be finite and above 0, got 0",
    ),
    "no size factor": (
        lambda: likelihoods.Poisson(NET, size_factor="context")(torch.zeros(2, 6)),
        "needs a context whose last number is the log size factor.*ConditionalVAE",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_of_counts(case, as_users_see_it):
    call, message = ERRORS[case]
    with pytest.raises((ValueError, TypeError), match=message):
        call()
