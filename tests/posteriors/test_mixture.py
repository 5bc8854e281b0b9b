"""The Gaussian-mixture posterior: its density and pathwise gradient."""

import math

import pytest
import torch
from pairs import binary, vae
from torch import nn

from ppl_vae import posteriors
from ppl_vae.distributions.mixture import MixtureOfDiagonalNormals, _Implicit
from ppl_vae.estimators import ImportanceWeightedELBO


class Gives(nn.Module):
    """A network that returns what it is given."""

    def forward(self, x):
        return x


def close(got, expected, tolerance=1e-10):
    torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)


def softplus(s):
    return s.exp().log1p() + 1e-4


def test_mixture_is_location_scale_and_logits(float64):
    k, d = 3, 2
    outputs = torch.randn(5, k * (2 * d + 1))
    q = posteriors.GaussianMixture(Gives(), k)(outputs)
    z = torch.randn(9, 5, d)
    density, mean, second = torch.zeros(9, 5), torch.zeros(5, d), torch.zeros(5, d)
    weights = outputs[:, -k:].softmax(-1)
    for c in range(k):
        loc = outputs[:, c * d : (c + 1) * d]
        scale = softplus(outputs[:, k * d + c * d : k * d + (c + 1) * d])
        each = (-0.5 * ((z - loc) / scale).square()).exp() / (scale * math.sqrt(2 * math.pi))
        density += weights[:, c] * each.prod(-1)
        mean += weights[:, c : c + 1] * loc
        second += weights[:, c : c + 1] * (scale.square() + loc.square())
    close(q.log_prob(z), density.log())
    close(q.mean, mean)
    close(q.variance, second - mean.square())


def parameters(k=3, d=2, separation=1.0):
    return (
        torch.randn(k),
        separation * torch.randn(k, d),
        torch.rand(k, d) + 0.4,
    )


def cdf(z, logits, loc, scale):
    """F_d(z_d | z_1..z_{d-1}) of one z, by the chain of conditional mixtures."""
    weights, values = logits.softmax(0), []
    for d in range(len(z)):
        epsilon = (z[d] - loc[:, d]) / scale[:, d]
        values.append((weights * torch.special.ndtr(epsilon)).sum())
        weights = weights * (-0.5 * epsilon.square()).exp() / scale[:, d]
        weights = weights / weights.sum()
    return torch.stack(values)


def from_uniforms(u, *parameters):
    """The z whose conditional distribution functions are u, one dimension after the other."""
    z = torch.zeros(len(u))
    for d in range(len(u)):
        low, high = torch.tensor(-60.0), torch.tensor(60.0)
        for _ in range(200):
            z[d] = 0.5 * (low + high)
            below = cdf(z, *parameters)[d] < u[d]
            low, high = (z[d].clone(), high) if below else (low, z[d].clone())
    return z


@pytest.mark.parametrize("d", [1, 2, 4])
def test_a_draw_moves_as_its_uniforms_held_fixed_say(d, float64):
    given = parameters(3, d)
    leaves = [t.clone().requires_grad_() for t in given]
    z = MixtureOfDiagonalNormals(*leaves).rsample()
    u = cdf(z.detach(), *given)
    close(from_uniforms(u, *given), z.detach(), 1e-9)
    direction, step = [torch.randn_like(t) for t in given], 1e-4
    there, back = (
        from_uniforms(u, *(t + s * v for t, v in zip(given, direction, strict=True)))
        for s in (step, -step)
    )
    for dimension in range(d):
        slopes = torch.autograd.grad(z[dimension], leaves, retain_graph=True)
        got = sum((s * v).sum() for s, v in zip(slopes, direction, strict=True))
        expected = ((there - back) / (2 * step))[dimension]
        close(got, expected, 1e-6)


def test_reparameterised_gradient_is_that_of_the_expectation(float64):
    # d/dφ E_q[f], by draws and by quadrature; 5 standard errors.
    n, given = 100_000, parameters(separation=0.7)
    axis = torch.linspace(-9, 9, 361)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1)
    volume = (axis[1] - axis[0]) ** 2

    def f(z):
        return torch.sin(z[..., 0] + 0.3) * torch.cos(0.7 * z[..., 1]) + torch.tanh(z[..., 1])

    leaves = [t.clone().requires_grad_() for t in given]
    density = MixtureOfDiagonalNormals(*leaves).log_prob(grid).exp()
    exact = torch.autograd.grad((f(grid) * density).sum() * volume, leaves)
    each = [t.expand(n, *t.shape).clone().requires_grad_() for t in given]
    z = MixtureOfDiagonalNormals(*each).rsample()
    for got, expected in zip(torch.autograd.grad(f(z).sum(), each), exact, strict=True):
        error = got.std(0) / math.sqrt(n)
        assert ((got.mean(0) - expected).abs() < 5 * error).all()
        assert (expected.abs() > 5 * error).any()  # the comparison says something


@pytest.mark.parametrize("sample", [(), (6,), (6, 2)])
@pytest.mark.parametrize("batch", [(), (5,), (4, 5)])
def test_draws_of_any_shape_are_differentiated_as_one_by_one(batch, sample, float64):
    k, d = 3, 2
    leaves = [
        torch.randn(*batch, k).requires_grad_(),
        torch.randn(*batch, k, d).requires_grad_(),
        (torch.rand(*batch, k, d) + 0.4).requires_grad_(),
    ]
    q = MixtureOfDiagonalNormals(*leaves)
    z = q.rsample(sample)
    assert z.shape == q.expand((*sample, *batch)).rsample().shape == (*sample, *batch, d)
    gradient = torch.randn_like(z)
    got = torch.autograd.grad(z, leaves, gradient)
    # One by one, the whole Jacobian of the distribution functions inverted.
    flat = [
        leaf.expand(*sample, *leaf.shape).detach().reshape(-1, *leaf.shape[len(batch) :])
        for leaf in leaves
    ]
    expected = [torch.zeros(len(flat[0]), *leaf.shape[len(batch) :]) for leaf in leaves]
    for i, (value, g) in enumerate(zip(z.reshape(-1, d), gradient.reshape(-1, d), strict=True)):
        own = [t[i].clone().requires_grad_() for t in flat]
        value = value.detach().requires_grad_()
        u = cdf(value, *own)
        jacobian = torch.stack([torch.autograd.grad(e, value, retain_graph=True)[0] for e in u])
        v = torch.linalg.solve(jacobian.T, g)
        for total, slope in zip(expected, torch.autograd.grad(u, own, -v), strict=True):
            total[i] = slope
    for a, b, leaf in zip(got, expected, leaves, strict=True):
        close(a, b.reshape(*sample, *leaf.shape).sum_to_size(leaf.shape), 1e-8)


def test_one_component_is_location_and_scale_to_the_second_derivative(float64):
    loc, scale = (
        torch.randn(1, 3).requires_grad_(),
        torch.tensor([[0.5, 1.0, 2.0]]).requires_grad_(),
    )
    z = MixtureOfDiagonalNormals(torch.zeros(1), loc, scale).rsample()
    epsilon = ((z - loc) / scale).detach()[0]
    first = torch.autograd.grad(z.pow(3).sum(), (loc, scale), create_graph=True)
    close(first[0][0], 3 * z.square())
    close(first[1][0], 3 * z.square() * epsilon)
    close(torch.autograd.grad(first[1].sum(), scale)[0][0], 6 * z * epsilon.square())


def test_draws_follow_the_weights(float64):
    n, weights = 20_000, torch.tensor([[0.1, 0.2, 0.7], [0.5, 0.3, 0.2]])
    loc = torch.tensor([[-10.0], [0.0], [10.0]])
    q = MixtureOfDiagonalNormals(weights.log(), loc, torch.full((3, 1), 0.01))
    draws = q.rsample((n,))[..., 0] / 10
    assert ((draws - draws.round()).abs() < 0.01).all()
    for k in range(3):
        share = (draws.round() == k - 1).double().mean(0)
        w = weights[:, k]
        assert ((share - w).abs() < 5 * (w * (1 - w) / n).sqrt()).all()


@pytest.mark.parametrize("separation", [0.0, 1.0, 30.0])
def test_mixture_is_safe_in_float32(separation):
    # Equal components, overlapping ones, and modes so far apart that densities underflow.
    k, d = 10, 20
    given = torch.randn(k), separation * torch.randn(k, d), torch.full((k, d), 0.1)
    results = []
    for dtype in (torch.float32, torch.float64):
        leaves = [t.to(dtype).expand(200, *t.shape).clone().requires_grad_() for t in given]
        q = MixtureOfDiagonalNormals(*leaves)
        z = at(results[0][0].double(), q) if results else q.rsample()
        (z.square().sum() - 0.1 * q.log_prob(z).sum()).backward()
        results.append((z.detach(), [leaf.grad for leaf in leaves]))
        assert all(g.isfinite().all() for g in results[-1][1])
    for got, expected in zip(results[0][1], results[1][1], strict=True):
        size = 1 + expected.flatten(1).abs().amax(1)
        error = (got.double() - expected).flatten(1).abs().amax(1) / size
        assert error.max() < 1e-2
        assert error.median() < 1e-5


@pytest.mark.parametrize("z", [-6.0, 6.0])
def test_mixture_gradient_keeps_its_digits_in_both_tails(z):
    found = []
    for dtype in (torch.float32, torch.float64):
        leaves = [
            torch.tensor(t, dtype=dtype).requires_grad_()
            for t in ([0.2, -0.3], [[-0.3], [0.4]], [[1.0], [1.2]])
        ]
        value = torch.tensor([z], dtype=dtype)
        found.append(torch.autograd.grad(at(value, MixtureOfDiagonalNormals(*leaves)), leaves))
    for got, expected in zip(*found, strict=True):
        torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=0.0)


def at(z, q):
    """Give a value the derivative that it had as a draw of q."""
    return _Implicit.apply(z, q.logits, q.loc, q.scale)


@pytest.mark.parametrize("gradient", ["iwae", "dreg", "stl"])
def test_mixture_goes_with_every_gradient(gradient, float64):
    # DReG's mean gradient is that of IWAE: compare over repeats, 6 standard errors.
    pair, k, repeats = vae(posterior="mixture posterior"), 4, 25
    x = binary(3).repeat(40, 1)
    guide = list(pair.guide.parameters())

    def gradients(name):
        estimator, found = ImportanceWeightedELBO(k, name), []
        for _ in range(repeats if gradient == "dreg" else 1):
            loss = estimator.differentiable_loss(pair.model, pair.guide, x)
            found.append(torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, guide)]))
        return torch.stack(found)

    got = gradients(gradient)
    assert got.isfinite().all()
    biases = len(guide[-1])  # of the last layer: locations, scales and logits
    assert (got[:, -biases:] != 0).all()
    if gradient == "dreg":
        other = gradients("iwae")
        error = ((got.var(0) + other.var(0)) / repeats).sqrt()
        assert ((got.mean(0) - other.mean(0)).abs() < 6 * error + 1e-12).all()


ERRORS = {
    "an even width each": (
        lambda: posteriors.GaussianMixture(Gives(), 3)(torch.zeros(4, 12)),
        ValueError,
        "GaussianMixture: net must return",
    ),
    "weights alone": (
        lambda: posteriors.GaussianMixture(Gives(), 3)(torch.zeros(4, 3)),
        ValueError,
        "GaussianMixture: net must return",
    ),
    "no components": (
        lambda: posteriors.GaussianMixture(Gives(), 0),
        ValueError,
        "components must be 1 or more, got 0; one component is DiagonalNormal",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_bad_input(name, as_users_see_it):
    call, error, message = ERRORS[name]
    with pytest.raises(error, match=message):
        call()
