"""Distributions of codes against sums over all of them, and gradients of draws by hand."""

import math

import pyro.distributions as dist
import pytest
import torch
from torch.distributions import kl_divergence

from ppl_vae.distributions.autoregressive import AutoregressiveCodes, masked_network
from ppl_vae.distributions.codebook import CodebookVectors, nearest
from ppl_vae.distributions.one_hot import OneHotCodes, one_hot_rows
from ppl_vae.distributions.straight_through import (
    StraightThroughBernoulli,
    StraightThroughOneHotCodes,
)

pytestmark = pytest.mark.usefixtures("float64")
D, C = 3, 4


def bernoulli(logits):
    return dist.Bernoulli(logits=logits[..., 0]).to_event(1)


def relaxed_bernoulli(logits):
    return StraightThroughBernoulli(0.3, logits[..., 0]).to_event(1)


def relaxed_codes(logits):
    return StraightThroughOneHotCodes(0.3, logits)


FAMILIES = {
    "bernoulli": (bernoulli, bernoulli),
    "bernoulli, relaxed": (relaxed_bernoulli, bernoulli),
    "one-hot": (OneHotCodes, OneHotCodes),
    "one-hot, relaxed": (relaxed_codes, OneHotCodes),
}


def values(p):
    """Return all values of a distribution of codes."""
    if p.event_shape == (D,):
        return torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * D).double()
    return torch.eye(C)[torch.cartesian_prod(*[torch.arange(C)] * D)].flatten(1)


@pytest.mark.parametrize("name", FAMILIES)
def test_kl_and_entropy_are_sums_over_all_values(name):
    q, p = (make(3 * torch.randn(5, D, C)) for make in FAMILIES[name])
    z = values(q).unsqueeze(1)
    log_q, log_p = q.log_prob(z), p.log_prob(z)
    mass = log_q.exp()
    torch.testing.assert_close(kl_divergence(q, p), (mass * (log_q - log_p)).sum(0))
    torch.testing.assert_close(q.entropy(), -(mass * log_q).sum(0))
    torch.testing.assert_close(q.mean, torch.einsum("nb,nd->bd", mass, z.squeeze(1)))


def test_kl_of_other_codes_is_refused():
    with pytest.raises(ValueError, match=r"q \(2, 6\), p \(3, 4\)"):
        kl_divergence(OneHotCodes(torch.zeros(2, 6)), OneHotCodes(torch.zeros(3, 4)))


def test_kl_is_finite_for_certain_codes_in_float32():
    q = OneHotCodes(torch.tensor([[200.0, -200.0]], dtype=torch.float32, requires_grad=True))
    p = OneHotCodes(torch.zeros(1, 2, dtype=torch.float32))
    assert kl_divergence(q, p).item() == pytest.approx(math.log(2))
    assert math.isfinite(torch.autograd.grad(kl_divergence(q, p), q.logits)[0].sum())


def test_what_is_not_one_hot_lies_outside_the_support():
    support = one_hot_rows(2)
    rows = torch.tensor([[1, 0, 0, 1], [1, 1, 0, 1], [0, 0, 0, 1], [0.5, 0.5, 1, 0], [2, -1, 1, 0]])
    assert support.check(rows).tolist() == [True, False, False, False, False]
    assert support is one_hot_rows(2)
    assert support is not one_hot_rows(4)
    p = OneHotCodes(torch.zeros(2, 2), validate_args=True)
    assert p.log_prob(rows[0]).item() == pytest.approx(-2 * math.log(2))
    for row in rows[1:]:
        with pytest.raises(ValueError, match="within the support"):
            p.log_prob(row)


# Draws with gradients.


def noise(kind, shape):
    """Return the noise of a draw: uniform numbers, as Gumbel or logistic ones."""
    u = torch.rand(shape)
    return torch.logit(u) if kind == "bernoulli" else -torch.log(-torch.log(u))


RELAXED = {
    "bernoulli": (
        lambda tau, logits: StraightThroughBernoulli(tau, logits),
        lambda tau, logits, g: torch.sigmoid((logits + g) / tau),
        lambda logits, g: (logits + g > 0).double(),
    ),
    "one-hot": (
        lambda tau, logits: StraightThroughOneHotCodes(tau, logits),
        lambda tau, logits, g: torch.softmax((logits.log_softmax(-1) + g) / tau, -1).flatten(-2),
        lambda logits, g: torch.nn.functional.one_hot((logits + g).argmax(-1), C).flatten(-2),
    ),
}


@pytest.mark.parametrize("tau", [0.2, 1.0, torch.tensor(0.5)])
@pytest.mark.parametrize("kind", RELAXED)
def test_draws_are_discrete_with_the_gradient_of_the_relaxation(kind, tau):
    make, relaxation, discrete = RELAXED[kind]
    logits, h = torch.randn(D, C, requires_grad=True), 1e-5
    torch.manual_seed(3)
    g = noise(kind, (6, D, C))
    torch.manual_seed(3)
    z = make(tau, logits).rsample((6,))
    assert torch.equal(z.detach(), discrete(logits.detach(), g).double())
    slope, direction = torch.randn_like(z), torch.randn(D, C)
    (gradient,) = torch.autograd.grad((slope * z).sum(), logits)
    with torch.no_grad():
        after, before = (
            (slope * relaxation(tau, logits + s * direction, g)).sum() for s in (h, -h)
        )
    torch.testing.assert_close((gradient * direction).sum(), (after - before) / (2 * h))


@pytest.mark.parametrize("kind", RELAXED)
def test_the_temperature_is_that_of_the_gradient_alone(kind):
    make, relaxation, _ = RELAXED[kind]
    logits, drawn = torch.randn(D, C, requires_grad=True), []
    p = make(1.0, logits)
    for q in (p, p.at_temperature(0.1), p.at_temperature(0.1).expand(p.batch_shape)):
        torch.manual_seed(5)
        drawn.append(q.rsample())
        torch.testing.assert_close(q.log_prob(drawn[-1]), p.log_prob(drawn[-1]))
    assert torch.equal(drawn[0], drawn[1])
    gradients = [torch.autograd.grad(z.square().sum(), logits, retain_graph=True)[0] for z in drawn]
    assert torch.equal(gradients[1], gradients[2])
    assert not torch.allclose(gradients[0], gradients[1])
    # For a small temperature the relaxation is the draw.
    g = noise(kind, (100, D, C))
    small = relaxation(1e-6, logits.detach(), g)
    assert ((small < 1e-9) | (small > 1 - 1e-9)).all()


def test_the_bias_of_the_gradient_is_that_of_its_temperature():
    # d/dl E[sigmoid((l + g) / τ)] at l = 0 is ∫ σ'(τ t) σ'(t) dt: 1/6 at τ = 1; d/dl σ(l) is 1/4.
    for tau, exact, within in ((1.0, 1 / 6, 0.0), (0.02, 1 / 4, 1e-3)):
        logits = torch.zeros(200_000, requires_grad=True)
        z = StraightThroughBernoulli(tau, logits).rsample()
        (gradient,) = torch.autograd.grad(z.sum(), logits)
        error = 4 * gradient.std() / math.sqrt(len(gradient))
        assert abs(gradient.mean() - exact) < error + within


def test_the_score_of_a_draw_has_the_derivative_of_the_linear_extension():
    logits = torch.randn(D, C)
    z = OneHotCodes(logits).sample().requires_grad_()
    (gradient,) = torch.autograd.grad(OneHotCodes(logits).log_prob(z), z)
    torch.testing.assert_close(gradient, logits.log_softmax(-1).flatten())


# Codes one after the other.


@pytest.mark.parametrize("categories", [None, C])
def test_an_autoregressive_mass_is_the_product_of_its_conditionals(categories):
    width = categories or 1
    net = masked_network(D, width, (7, 5))
    p = AutoregressiveCodes(net, D, categories, torch.zeros(()))
    z = values(p)
    by_hand = torch.zeros(len(z))
    for d in range(D):
        seen = z.clone()
        seen[:, d * width :] = torch.rand(len(z), (D - d) * width)  # anything
        logits, code = net(seen)[:, d * width : (d + 1) * width], z[:, d * width : (d + 1) * width]
        if categories is None:
            by_hand += torch.where(code == 1, logits.sigmoid(), (-logits).sigmoid()).log()[:, 0]
        else:
            by_hand += (logits.softmax(-1) * code).sum(-1).log()
    torch.testing.assert_close(p.log_prob(z), by_hand)
    torch.testing.assert_close(by_hand.exp().sum(), torch.ones(()))
    with pytest.raises(NotImplementedError):
        _ = p.mean


# Codebooks.


def test_vectors_of_a_codebook_are_their_own_nearest_however_close():
    codebook = torch.randn(50, 3, dtype=torch.float32)
    codebook[1::2] = codebook[::2] + 3e-7 * codebook[::2].norm(dim=-1, keepdim=True)
    assert torch.equal(nearest(codebook, codebook), torch.arange(50))
    assert torch.equal(nearest(codebook.reshape(5, 10, 3), codebook), torch.arange(50).view(5, 10))
    far = 1e4 * torch.randn(20, 3, dtype=torch.float32)
    exact = (far.double().unsqueeze(1) - codebook.double()).square().sum(-1).argmin(-1)
    chosen = nearest(far, codebook)
    distance = (far.double() - codebook[chosen].double()).square().sum(-1)
    right = (far.double() - codebook[exact].double()).square().sum(-1)
    torch.testing.assert_close(distance, right, rtol=1e-6, atol=0)


def test_the_mass_of_vectors_is_that_of_their_codes():
    codes, codebook = OneHotCodes(torch.randn(2, C)), torch.randn(C, 3, requires_grad=True)
    p = CodebookVectors(codes, codebook)
    k = codes.sample((9,))
    z = (k.unflatten(-1, (2, C)) @ codebook).flatten(-2).detach().requires_grad_()
    torch.testing.assert_close(p.log_prob(z), codes.log_prob(k))
    assert torch.equal(p.codes_of(z), k)
    assert not p.log_prob(z).requires_grad
    assert p.support.check(z).all()
    assert not p.support.check(z + 1e-3).any()
    with pytest.raises(ValueError, match="within the support"):
        CodebookVectors(codes, codebook, validate_args=True).log_prob(z + 1e-3)
