"""The VampPrior: its density, bounds, pseudo-inputs and shared posterior."""

import copy
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import POSTERIORS, C, D, Z, binary, net
from pyro.infer import SVI, Trace_ELBO
from torch import nn

from ppl_vae import VAE, likelihoods, nets, posteriors, priors
from ppl_vae.constructor import arguments

K = 5


def randomise(module, size=0.5):
    with torch.no_grad():
        for p in module.parameters():
            p.add_(size * torch.randn_like(p))
    return module


def close(got, expected, tolerance=1e-10):
    torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)


def posterior_of_label():
    return posteriors.DiagonalNormal(net(D + C, 2 * Z))


@pytest.mark.parametrize(
    "name", ["diagonal", "full rank", "low rank", "mixture posterior", "iaf", "spline flow"]
)
def test_vamp_is_the_average_of_the_posterior_at_the_pseudo_inputs(name, float64):
    if name in ("iaf", "spline flow"):
        q = posteriors.Flow(
            net(D, posteriors.Flow.net_features(Z, context_features=3)),
            Z,
            name.split()[0],
            context_features=3,
            transforms=2,
            hidden=(8,),
        )
    else:
        q = POSTERIORS[name]()
    prior = priors.VampPrior(randomise(q), torch.randn(K, D), learn_weights=True)
    with torch.no_grad():
        prior.logits.copy_(torch.randn(K))
    z, weights = torch.randn(9, Z), prior.logits.softmax(0)
    densities = torch.stack([q(u).log_prob(z).exp() for u in prior.inputs()], -1)
    close(prior().log_prob(z), (weights * densities).sum(-1).log())
    close(prior().expand((3, 9)).log_prob(z), (weights * densities).sum(-1).log().expand(3, 9))
    total = (weights * densities).sum(-1, keepdim=True)
    close(prior.responsibilities(z), weights * densities / total)
    if "mixture" not in name and "iaf" not in name and "spline" not in name:
        each = [q(u) for u in prior.inputs()]
        mean = sum(w * e.mean for w, e in zip(weights, each, strict=True))
        close(prior().mean, mean)
        second = sum(w * (e.variance + e.mean.square()) for w, e in zip(weights, each, strict=True))
        close(prior().variance, second - mean.square())


@pytest.mark.parametrize("leading", [(), (4,), (3, 1, 4)])
def test_vamp_given_a_label(leading, float64):
    q = posterior_of_label()
    prior = priors.VampPrior(q, K, event_shape=(D,))
    y = torch.randn(*leading, C)
    p = prior(y)
    assert (p.batch_shape, p.event_shape) == (leading, (Z,))
    z = torch.randn(*leading, Z)
    expected = [
        torch.stack([q(u, label).log_prob(value) for u in prior.inputs()]).logsumexp(0)
        for label, value in zip(y.reshape(-1, C), z.reshape(-1, Z), strict=True)
    ]
    close(p.log_prob(z).reshape(-1), torch.stack(expected) - math.log(K))
    assert prior.responsibilities(z, y).shape == (*leading, K)
    particles = torch.randn(2, *leading, Z)
    assert p.log_prob(particles).shape == (2, *leading)
    assert p.sample((6,)).shape == (6, *leading, Z)
    assert p.expand((2, *leading)).sample().shape == (2, *leading, Z)


class Passes(nn.Module):
    """A posterior N(x + 100 y, 0.01²) that says where it was asked."""

    def forward(self, x, y=None):
        loc = x if y is None else x + 100 * y
        return dist.Normal(loc, 0.01).to_event(1)


def test_vamp_draws_are_of_the_components_of_their_context(float64):
    n, weights = 20_000, torch.tensor([0.1, 0.2, 0.7])
    prior = priors.VampPrior(Passes(), torch.tensor([[-10.0], [0.0], [10.0]]), learn=False)
    prior.logits = weights.log()
    for p, shift in [(prior(), torch.zeros(1)), (prior(torch.tensor([[0.0], [1.0]])), None)]:
        if shift is None:
            shift = torch.tensor([0.0, 100.0])
        draws = p.sample((n,)).reshape(n, -1) - shift
        component = (draws / 10).round()
        assert ((draws - 10 * component).abs() < 0.1).all()
        for k, weight in zip((-1, 0, 1), weights, strict=True):
            share = (component == k).double().mean(0)
            assert ((share - weight).abs() < 5 * (weight * (1 - weight) / n).sqrt()).all()


def test_vamp_trains_pseudo_inputs_weights_and_the_shared_posterior(float64):
    q = POSTERIORS["diagonal"]()
    prior = priors.VampPrior(q, K, event_shape=(D,), learn_weights=True)
    prior().log_prob(torch.randn(7, Z)).sum().backward()
    for p in (prior.unfolded_inputs, prior.logits, *q.parameters()):
        assert p.grad.abs().max() > 0
    # the gradient at the pseudo-inputs is that of the explicit average
    z = torch.randn(7, Z)
    u = prior.inputs().detach().requires_grad_()
    explicit = torch.stack([q(each).log_prob(z) for each in u]).logsumexp(0).sum()
    got = torch.autograd.grad(prior().log_prob(z).sum(), prior.unfolded_inputs)[0]
    close(got, torch.autograd.grad(explicit, u)[0])


def test_vamp_under_svi_registers_each_tensor_once():
    q = POSTERIORS["diagonal"]()
    pair = VAE(
        prior=priors.VampPrior(q, K, event_shape=(D,)),
        posterior=q,
        likelihood=likelihoods.Bernoulli(net(Z, D)),
    )
    before = [p.detach().clone() for p in pair.parameters()]
    SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO()).step(binary())
    names = list(pyro.get_param_store().keys())
    values = [pyro.param(name) for name in names]
    assert len({id(v) for v in values}) == len(values) == len(before)
    for p, b in zip(pair.parameters(), before, strict=True):
        # Adam's first step is its rate: a tensor that is stepped twice moves by more.
        step = (p - b).abs().max()
        assert 0.009 < step < 0.0101


def test_bounds_hold_whatever_the_step(float64):
    low, high = -1.0, 2.0
    data = low + (high - low) * torch.rand(K, D).round()  # all of it at the ends
    prior = priors.VampPrior(POSTERIORS["diagonal"](), data, bounds=(low, high))
    start = prior.inputs()
    assert torch.equal(start, data)
    (slope,) = torch.autograd.grad(start.sum(), prior.unfolded_inputs)
    assert (slope == 1).all()  # none is stuck at an end
    with torch.no_grad():
        prior.unfolded_inputs.add_(torch.where(data == low, -0.25, 0.5))
    close(prior.inputs(), torch.where(data == low, low + 0.25, high - 0.5))
    (slope,) = torch.autograd.grad(prior.inputs().sum(), prior.unfolded_inputs)
    assert (slope == -1).all()
    with torch.no_grad():
        prior.unfolded_inputs.add_(1000 * torch.randn(K, D))
    assert ((prior.inputs() >= low) & (prior.inputs() <= high)).all()


@pytest.mark.parametrize("bounds", [None, (0, 1)])
def test_fixed_inputs_stay_exactly_as_given(bounds):
    q, data = POSTERIORS["diagonal"](), binary(K)
    prior = priors.VampPrior(q, data, learn=False, bounds=bounds)
    given = data.clone()
    data.fill_(7.0)  # they are a copy
    assert "unfolded_inputs" not in dict(prior.named_parameters())
    assert set(prior.state_dict()) >= {"unfolded_inputs", "logits"}
    pair = VAE(prior=prior, posterior=q, likelihood=likelihoods.Bernoulli(net(Z, D)))
    SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO()).step(binary())
    assert torch.equal(prior.inputs(), given)


@pytest.mark.parametrize(
    ("bounds", "centre", "spread"),
    [("data", 0, 0.01), (None, 0, 0.01), ((-1, 9), 0, 0.1), ((2, 4), 3, 0.02)],
    ids=str,
)
def test_without_data_inputs_start_near_zero_or_the_middle(bounds, centre, spread):
    q = POSTERIORS["diagonal"]()
    prior = priors.VampPrior(q, 500, event_shape=(D,), bounds=bounds)
    inputs = prior.inputs()
    assert prior.bounds == bounds
    assert inputs.mean().item() == pytest.approx(centre, abs=spread / 5)
    assert inputs.std().item() == pytest.approx(spread, rel=0.1)
    at_an_end = priors.VampPrior(q, 500, event_shape=(D,), bounds=(0, 1)).inputs()
    assert 0 <= at_an_end.min() < at_an_end.max() < 0.1


@pytest.mark.parametrize(
    ("low", "high", "bounds"),
    [(0.2, 0.9, (0, 1)), (0.0, 1.0, (0, 1)), (0.0, 30.0, (0.0, 30.0)), (-2.0, 3.0, (-2.0, 3.0))],
)
def test_bounds_are_the_datas_unless_given(low, high, bounds):
    q, data = POSTERIORS["diagonal"](), torch.full((K, D), low)
    data[0, 0] = high
    assert priors.VampPrior(q, data).bounds == bounds
    assert priors.VampPrior(q, data, bounds=None).bounds is None
    prior = priors.VampPrior(q, K, event_shape=(D,))
    prior.initialise_from(data)
    assert prior.bounds == bounds
    assert torch.equal(prior.inputs().sort(0).values, data.sort(0).values)
    assert priors.VampPrior(q, torch.full((K, D), 7.0)).bounds == "data"  # no interval


def test_inputs_are_data_drawn_at_random_and_again_with_noise_where_there_are_few():
    q = POSTERIORS["diagonal"]()
    data, state = torch.arange(40.0).unsqueeze(-1).expand(40, D), torch.get_rng_state()
    few, many, same = (priors.VampPrior(q, k, event_shape=(D,)) for k in (5, 100, 5))
    torch.set_rng_state(state)
    few.initialise_from(data[:30], values=(0, 39), seed=3)
    same.initialise_from(data[:30], values=(0, 39), seed=3)
    many.initialise_from(data, seed=3)
    assert torch.equal(state, torch.get_rng_state())
    assert few.bounds == many.bounds == (0.0, 39.0)
    assert torch.equal(few.inputs(), same.inputs())
    drawn = few.inputs()[:, 0].tolist()
    assert len(set(drawn)) == 5
    assert set(drawn) <= set(range(30))
    assert drawn != sorted(drawn)
    inputs = many.inputs()
    assert torch.equal(inputs[:40].sort(0).values, data)
    nearest = (inputs[40:] - inputs[40:].mean(1, keepdim=True).round()).abs()
    assert 0.1 < nearest.std() < 0.6  # 1 % of 39
    assert len(inputs.unique(dim=0)) == 100
    assert 0 <= inputs.min() <= inputs.max() <= 39
    for wrong, match in [
        (data[:, :2], "x must have shape"),
        (data.numpy()[:, :2], "x must have shape"),
        (data * math.nan, "initialise_from: x must be finite"),
    ]:
        before = many.inputs()
        with pytest.raises(ValueError, match=match):
            many.initialise_from(wrong)
        assert torch.equal(many.inputs(), before)
    many.initialise_from(data.numpy() - 5, seed=3)  # bounds of the data follow other data
    assert many.bounds == (-5.0, 34.0)
    given = priors.VampPrior(q, 5, event_shape=(D,), bounds=(0, 39))
    with pytest.raises(ValueError, match="x must lie in bounds="):
        given.initialise_from(data + 1)


@pytest.mark.parametrize("values", [(0.0, 0.1), (5, 1), (0, math.inf), (math.nan, 1)])
def test_values_that_are_not_those_of_all_data_are_refused(values):
    prior = priors.VampPrior(POSTERIORS["diagonal"](), 5, event_shape=(D,))
    x = torch.linspace(0.0, 1.0, 7 * D).reshape(7, D)
    with pytest.raises(ValueError, match="values must be the least and the greatest value of all"):
        prior.initialise_from(x, values=values)
    assert prior.bounds == "data"


def test_data_of_one_value_have_no_range():
    prior = priors.VampPrior(POSTERIORS["diagonal"](), 4, event_shape=(D,))
    prior.initialise_from(torch.rand(9, D))
    prior.initialise_from(torch.full((9, D), 5.0))
    assert prior.bounds == "data"
    assert (prior.inputs() == 5).all()


def test_bounds_of_given_data_follow_those_of_the_pair():
    q = POSTERIORS["diagonal"]()
    prior = priors.VampPrior(q, (torch.rand(4, D) + 0.5).numpy())
    low, high = prior.bounds
    assert 0.5 <= low < high <= 1.5
    prior.initialise_from(torch.rand(9, D) * 4 - 2)
    assert prior.bounds[0] < 0


@pytest.mark.parametrize("learn", [True, False])
def test_with_posterior_shares_inputs_and_weights(learn):
    q, other = POSTERIORS["diagonal"](), POSTERIORS["full rank"]()
    prior = priors.VampPrior(q, binary(K), learn=learn, learn_weights=learn, bounds=(0, 1)).eval()
    state = torch.get_rng_state()
    new = prior.with_posterior(other)
    assert torch.equal(state, torch.get_rng_state())
    assert new.unfolded_inputs is prior.unfolded_inputs
    assert new.logits is prior.logits
    assert (new.posterior, prior.posterior, new.training) == (other, q, False)
    assert {**arguments(new), "posterior": q} == arguments(prior)
    z = torch.randn(3, Z)
    expected = torch.stack([other(u).log_prob(z) for u in prior.inputs()]).logsumexp(0)
    close(new().log_prob(z), expected - math.log(K), 1e-5)


def test_replacing_the_posterior_of_a_pair_takes_the_vamp_along():
    q, other = POSTERIORS["diagonal"](), POSTERIORS["diagonal"]()
    prior = priors.VampPrior(q, K, event_shape=(D,))
    pair = VAE(prior=prior, posterior=q, likelihood=likelihoods.Bernoulli(net(Z, D)))
    new = pair.replace(posterior=other)
    assert new.prior.posterior is new.posterior is other
    assert new.prior.unfolded_inputs is prior.unfolded_inputs
    assert pair.prior.posterior is q


def test_the_arguments_that_are_read_back_make_the_same_structure():
    q = POSTERIORS["diagonal"]()
    for options in [{}, {"learn": False}, {"learn_weights": True, "bounds": (0, 1)}]:
        data = binary(K).T.contiguous().T  # an order in memory that Pyro's store refuses
        prior = priors.VampPrior(q, data, **options)
        assert prior.unfolded_inputs.is_contiguous()
        read = arguments(prior)
        assert (read["pseudo_inputs"], read["event_shape"]) == (K, (D,))
        again = priors.VampPrior(**read)
        again.load_state_dict(prior.state_dict())
        assert torch.equal(again.inputs(), prior.inputs())
        assert [n for n, _ in again.named_parameters()] == [n for n, _ in prior.named_parameters()]


def test_vamp_of_images():
    class Encoder(nn.Module):
        def forward(self, x):
            return x.flatten(-3)[..., : 2 * Z]

    q = posteriors.DiagonalNormal(Encoder())
    prior = priors.VampPrior(q, 3, event_shape=(1, 4, 4), bounds=(0, 1))
    assert prior.inputs().shape == (3, 1, 4, 4)
    assert prior().log_prob(torch.zeros(5, Z)).shape == (5,)
    assert prior().sample((5,)).shape == (5, Z)


def test_vamp_is_safe_in_float32_with_500_inputs_far_apart():
    prior = priors.VampPrior(
        posteriors.DiagonalNormal(nets.MLP(D, 20, hidden=())), 500, event_shape=(D,)
    )
    with torch.no_grad():
        prior.posterior.net.layers[0].weight[:10].mul_(50)
        prior.posterior.net.layers[0].bias[10:].fill_(-3.0)
    z = torch.cat([prior().component_distribution.mean[:20].detach(), 100 * torch.randn(20, 10)])
    z.requires_grad_()
    log_prob = prior().log_prob(z)
    log_prob.sum().backward()
    exact = copy.deepcopy(prior).double()().log_prob(z.double())
    assert log_prob.isfinite().all()
    assert all(t.grad.isfinite().all() for t in (z, *prior.parameters()))
    torch.testing.assert_close(log_prob.double(), exact, rtol=1e-4, atol=1e-3)


def vamp(*args, **options):
    return lambda: priors.VampPrior(POSTERIORS["diagonal"](), *args, **options)


ERRORS = {
    "no pseudo-inputs": (vamp(0, event_shape=(D,)), ValueError, "pseudo_inputs must be 1 or more"),
    "a share of a pseudo-input": (
        vamp(0.5, event_shape=(D,)),
        TypeError,
        r"pseudo_inputs must be an integer of 1 or more, got 0\.5 \(float\)",
    ),
    "no event shape": (
        vamp(5),
        ValueError,
        r"pseudo_inputs=5 is a number, so event_shape is required.*event_shape=\(784,\)",
    ),
    "an event shape with a zero": (vamp(5, event_shape=(0,)), ValueError, "event_shape must be 1"),
    "integers": (
        vamp(torch.ones(3, D, dtype=torch.uint8)),
        TypeError,
        r"must be a floating-point tensor.*torch\.uint8; convert them with \.float\(\)",
    ),
    "one datum": (
        vamp(torch.ones(D)),
        ValueError,
        r"tensor of shape \(K, \*event\), K of 1 or more, got a tensor",
    ),
    "no data": (
        vamp(torch.ones(0, D)),
        ValueError,
        r"tensor of shape \(K, \*event\), K of 1 or more, got a tensor",
    ),
    "shapes that disagree": (
        vamp(torch.ones(3, D), event_shape=(D + 1,)),
        ValueError,
        r"event_shape=\(7,\), got a tensor of shape \(3, 6\).*leave event_shape out",
    ),
    "NaN": (vamp(torch.full((3, D), math.nan)), ValueError, "must be finite"),
    "values outside the bounds": (
        vamp(torch.full((3, D), 1.5), bounds=(0, 1)),
        ValueError,
        r"must lie in bounds=\(0, 1\), got values from 1\.5 to 1\.5",
    ),
    "fixed values outside the bounds": (
        vamp(torch.full((3, D), 1.5), bounds=(0, 1), learn=False),
        ValueError,
        "must lie in bounds",
    ),
    "bounds in the wrong order": (
        vamp(3, event_shape=(D,), bounds=(1, 0)),
        ValueError,
        r"bounds must be two finite numbers \(low, high\).*got \(1, 0\)",
    ),
    "one bound": (vamp(3, event_shape=(D,), bounds=(1,)), ValueError, "bounds must be two finite"),
    "no posterior": (
        lambda: priors.VampPrior(3, 3, event_shape=(D,)),
        TypeError,
        r"posterior must be a module that returns q\(z \| x\)",
    ),
    "a batch that cannot expand": (
        lambda: priors.VampPrior(posterior_of_label(), 3, event_shape=(D,))(torch.eye(C)).expand(
            (2,)
        ),
        ValueError,
        "cannot expand",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_bad_input(name, as_users_see_it):
    call, error, message = ERRORS[name]
    with pytest.raises(error, match=message):
        call()
