"""The importance-weighted bound against exact log p(x) and hand-written weights, in float64."""

import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import Z, binary, ssvae, vae
from pyro import poutine
from pyro.infer import SVI, RenyiELBO, Trace_ELBO, TraceEnum_ELBO

from ppl_vae.estimators import AnalyticKLELBO, ImportanceWeightedELBO
from ppl_vae.testing import DiscreteLinearGaussian, LinearGaussian, TwoLayerLinearGaussian

D = 3


def data(batch=5):
    return torch.randn(batch, D, dtype=torch.float64)


def particles_of(oracle, x, k, seed=1):
    """The latents that an estimator of K particles draws at this seed."""
    guide = poutine.enum(
        pyro.plate("num_particles_vectorized", k, dim=-2)(oracle.guide), first_available_dim=-3
    )
    torch.manual_seed(seed)
    trace = poutine.trace(guide).get_trace(x)
    return {
        name: site["value"].detach()
        for name, site in trace.iter_stochastic_nodes()
        if not poutine.util.site_is_subsample(site)
    }


def repeated_bound(oracle, x, k):
    """Mean and standard error over many independent draws of the bound of one datum each."""
    repeats = min(4000, 200_000 // k)
    many = x.repeat_interleave(repeats, 0)
    with torch.no_grad():
        values = ImportanceWeightedELBO(k).per_datum(oracle.model, oracle.guide, many)
    values = values.reshape(len(x), repeats)
    return values.mean(1), values.std(1) / math.sqrt(repeats)


@pytest.mark.slow  # its values are those of explicit sums elsewhere
def test_bound_rises_with_k_towards_log_px_and_never_above():
    oracle, x = LinearGaussian(D, 2), data()
    exact = oracle.log_px(x)
    bounds = {k: repeated_bound(oracle, x, k) for k in (1, 3, 10, 50, 250)}
    for mean, error in bounds.values():
        assert (mean < exact + 4 * error).all()
    ordered = list(bounds.values())
    for (low, low_error), (high, high_error) in itertools.pairwise(ordered):
        assert (high > low - 4 * (low_error**2 + high_error**2).sqrt()).all()
    elbo_mean, elbo_error = bounds[1]
    assert ((elbo_mean - oracle.elbo(x)).abs() < 4 * elbo_error).all()
    gaps = [(exact - mean).mean() for mean, _ in ordered]
    assert gaps[-1] < 0.1 * gaps[0]


@pytest.mark.parametrize("k", [1, 2, 7])
def test_bound_equals_log_px_at_the_exact_posterior_for_every_k(k):
    for oracle in (
        LinearGaussian(D, 2, full_rank=True),
        TwoLayerLinearGaussian(D, 2, 2),
    ):
        oracle.set_exact_guide()
        x = data()
        bound = ImportanceWeightedELBO(k).per_datum(oracle.model, oracle.guide, x)
        torch.testing.assert_close(bound, oracle.log_px(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("size", [None, 50])
@pytest.mark.parametrize("k", [1, 2, 9])
def test_value_and_gradients_equal_hand_written_ones(k, size):
    oracle, x = LinearGaussian(D, 2, size=size), data()
    z = particles_of(oracle, x, k)["z"]
    # z = loc + scale * eps, so that gradients flow through it
    q = oracle.guide.posterior(x)
    eps = (z - q.mean) / q.variance.sqrt()
    z = q.mean + q.variance.sqrt() * eps.detach()
    scale = 1.0 if size is None else size / len(x)
    log_w = oracle.log_weight(x, z=z)
    expected = -scale * torch.log(torch.exp(log_w).mean(0)).sum()
    torch.manual_seed(1)
    elbo = ImportanceWeightedELBO(k, max_plate_nesting=1)(oracle.model, oracle.guide)
    loss = elbo(x)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    parameters = list(oracle.parameters())
    for got, want in zip(
        torch.autograd.grad(loss, parameters),
        torch.autograd.grad(expected, parameters),
        strict=True,
    ):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


def test_one_particle_is_trace_elbo():
    for oracle in (LinearGaussian(D, 2, size=50), TwoLayerLinearGaussian(D, 2, 2)):
        x = data()
        torch.manual_seed(1)
        expected = Trace_ELBO().loss(oracle.model, oracle.guide, x)
        torch.manual_seed(1)
        loss = ImportanceWeightedELBO(1).loss(oracle.model, oracle.guide, x)
        assert loss == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("enumerate_in", ["guide", "model"])
def test_one_particle_is_trace_enum_elbo(enumerate_in):
    oracle = DiscreteLinearGaussian(D, 2, 3, enumerate=enumerate_in, size=50)
    x = data()
    torch.manual_seed(1)
    expected = TraceEnum_ELBO(max_plate_nesting=1).loss(oracle.model, oracle.guide, x)
    torch.manual_seed(1)
    loss = ImportanceWeightedELBO(1).loss(oracle.model, oracle.guide, x)
    assert loss == pytest.approx(expected, rel=1e-12)


def test_y_enumerated_in_the_guide_is_an_explicit_sum():
    oracle, x, k = DiscreteLinearGaussian(D, 2, 3, enumerate="guide"), data(), 6
    z = particles_of(oracle, x, k)["z"]
    log_q = oracle.log_qy(x)
    expected = torch.zeros(())
    for y in range(3):
        label = torch.full((k, len(x)), y)
        log_w = oracle.log_weight(x, y=label, z=z[y])
        bound = torch.log(torch.exp(log_w).mean(0))
        expected = expected - (log_q[:, y].exp() * (bound - log_q[:, y])).sum()
    torch.manual_seed(1)
    loss = ImportanceWeightedELBO(k).loss(oracle.model, oracle.guide, x)
    assert loss == pytest.approx(expected.item(), rel=1e-12)


def test_subsampling_scales_the_bound_and_renyi_elbo_does_not():
    oracle, x, k, size = LinearGaussian(D, 2, size=500), data(), 20, 500
    scale = size / len(x)
    log_w = oracle.log_weight(x, z=particles_of(oracle, x, k)["z"])
    expected = -scale * torch.log(torch.exp(log_w).mean(0)).sum().item()

    def loss(estimator):
        torch.manual_seed(1)
        return estimator.loss(oracle.model, oracle.guide, x)

    ours = ImportanceWeightedELBO(k, max_plate_nesting=1)
    assert loss(ours) == pytest.approx(expected, rel=1e-12)
    # Pyro's own keeps N/B inside the exponent. When a release mends it, this will tell.
    renyi = RenyiELBO(alpha=0, num_particles=k, vectorize_particles=True, max_plate_nesting=1)
    inside = -torch.log(torch.exp(scale * log_w).mean(0)).sum().item()
    assert loss(renyi) == pytest.approx(inside, rel=1e-12)
    assert inside != pytest.approx(expected, rel=1e-2)


@pytest.mark.parametrize("make", [vae, lambda: vae("mixture"), ssvae], ids=["vae", "gm", "ss"])
def test_loss_loss_and_grads_differentiable_loss_and_svi_agree(make, float64):
    pair, x = make(), binary()
    estimator = ImportanceWeightedELBO(4)

    def seeded(fn):
        torch.manual_seed(1)
        pair.zero_grad()
        value = fn()
        return float(value)

    svi = SVI(pair.model, pair.guide, pyro.optim.SGD({"lr": 0.0}), estimator)
    values = [
        seeded(lambda: estimator.loss(pair.model, pair.guide, x)),
        seeded(lambda: estimator.loss_and_grads(pair.model, pair.guide, x)),
        seeded(lambda: estimator.differentiable_loss(pair.model, pair.guide, x).detach()),
        seeded(lambda: estimator(pair.model, pair.guide)(x).detach()),
        seeded(lambda: svi.evaluate_loss(x)),
        seeded(lambda: svi.step(x)),
    ]
    assert values == pytest.approx([values[0]] * len(values), rel=1e-12)


def test_the_bound_per_datum_does_not_depend_on_the_rest_of_the_batch(float64):
    pair, x = vae("mixture"), binary(8)
    estimator = ImportanceWeightedELBO(3)

    def per_datum(x):
        torch.manual_seed(1)
        return estimator.per_datum(pair.model, pair.guide, x)

    changed = x.clone()
    changed[0] = 1 - changed[0]
    first, second = per_datum(x), per_datum(changed)
    torch.testing.assert_close(first[1:], second[1:], rtol=1e-12, atol=0)
    assert first[0] != second[0]


def test_finding_the_plates_leaves_the_random_state_alone(float64):
    pair, x = vae(), binary()
    torch.manual_seed(1)
    found = ImportanceWeightedELBO(3).loss(pair.model, pair.guide, x)
    torch.manual_seed(1)
    given = ImportanceWeightedELBO(3, max_plate_nesting=1).loss(pair.model, pair.guide, x)
    assert found == given


def test_one_estimator_serves_programs_of_different_plates():
    def nested(x):
        with pyro.plate("data", len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 1), 1.0))
            with pyro.plate("inner", x.shape[1], dim=-1):
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def nested_guide(x):
        with pyro.plate("data", len(x), dim=-2):
            pyro.sample("z", dist.Normal(torch.zeros(len(x), 1), 1.0))

    estimator, pair = ImportanceWeightedELBO(4), vae()
    for _ in range(2):
        assert estimator.per_datum(pair.model, pair.guide, binary()).shape == (7,)
        assert estimator.per_datum(nested, nested_guide, torch.randn(5, 3)).shape == (5,)


def test_inner_plates_are_summed_inside_the_weight(float64):
    x, k = torch.randn(5, 3), 4

    def model(x):
        with pyro.plate("data", len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 1), 1.0))
            with pyro.plate("inner", 3, dim=-1):
                pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-2):
            pyro.sample("z", dist.Normal(x.mean(1, keepdim=True), 0.7))

    torch.manual_seed(1)
    bound = ImportanceWeightedELBO(k).per_datum(model, guide, x)
    torch.manual_seed(1)
    q = dist.Normal(x.mean(1, keepdim=True), 0.7)
    z = q.expand((k, 5, 1)).sample()
    log_w = (
        dist.Normal(0.0, 1.0).log_prob(z)[..., 0]
        + dist.Normal(z, 0.5).log_prob(x).sum(-1)
        - q.log_prob(z)[..., 0]
    )
    torch.testing.assert_close(bound, log_w.exp().mean(0).log(), rtol=1e-12, atol=1e-12)


def unit_normal(name):
    return pyro.sample(name, dist.Normal(torch.zeros(Z), 1.0).to_event(1))


def test_a_latent_outside_the_plate_is_named():
    def model(x):
        unit_normal("everywhere")
        with pyro.plate("data", len(x)):
            unit_normal("z")

    with pytest.raises(ValueError, match="'everywhere' is outside the batch plate 'data'"):
        ImportanceWeightedELBO(3).loss(model, model, binary())
    with pytest.raises(ValueError, match="'everywhere' is outside the batch plate 'data'"):
        ImportanceWeightedELBO(1).per_datum(model, model, binary())
    assert ImportanceWeightedELBO(1).loss(model, model, binary()) == 0


def test_the_advice_for_a_latent_outside_the_plate_can_be_followed():
    def model(x):
        unit_normal("everywhere")
        with pyro.plate("data", len(x)):
            unit_normal("z")

    one, whole = ImportanceWeightedELBO(1), ImportanceWeightedELBO(3, plate=None)
    advice = "take the loss of ImportanceWeightedELBO with one particle .the ELBO., or with plate="
    for call in (
        one.per_datum,
        one.log_weights,
        ImportanceWeightedELBO(3).loss,
        AnalyticKLELBO(1).loss,
    ):
        with pytest.raises(ValueError, match=advice):
            call(model, model, binary())
    assert one.loss(model, model, binary()) == whole.loss(model, model, binary()) == 0
    with pytest.raises(ValueError, match="or take ImportanceWeightedELBO"):
        AnalyticKLELBO(plate="rows").loss(model, model, binary())


def test_the_advice_for_enumeration_in_an_inner_plate_can_be_followed():
    def model(x):
        with pyro.plate("data", len(x), dim=-1), pyro.plate("parts", 2, dim=-2):
            pyro.sample("y", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})

    with pytest.raises(NotImplementedError, match="take the loss of ImportanceWeightedELBO with"):
        AnalyticKLELBO(1).loss(model, model, binary())
    assert ImportanceWeightedELBO(1).loss(model, model, binary()) == pytest.approx(0, abs=1e-5)


def test_a_plate_of_another_name_is_listed_and_can_be_given():
    def model(x):
        with pyro.plate("rows", len(x)):
            unit_normal("z")

    with pytest.raises(ValueError, match=r"named 'data'.*\['rows'\].*plate="):
        ImportanceWeightedELBO(3).loss(model, model, binary())
    assert ImportanceWeightedELBO(3, plate="rows").loss(model, model, binary()) == 0


def test_a_site_that_is_neither_reparameterised_nor_enumerated_is_named():
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("count", dist.Poisson(torch.ones(())))

    def guide(x):
        rate = pyro.param("rate", torch.ones(()))
        with pyro.plate("data", len(x)):
            pyro.sample("count", dist.Poisson(rate))

    estimator = ImportanceWeightedELBO(3)
    assert math.isfinite(estimator.loss(model, guide, binary()))
    with pytest.raises(NotImplementedError, match=r"'count'.*Poisson.*neither reparameterised"):
        estimator.loss_and_grads(model, guide, binary())


def test_a_latent_that_the_guide_lacks_is_named():
    pair = vae()

    def guide(x):
        return None

    pyro.enable_validation(False)
    with pytest.raises(ValueError, match="'z' is in the model but not in the guide"):
        ImportanceWeightedELBO(3).loss(pair.model, guide, binary())
