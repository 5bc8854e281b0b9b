"""AnalyticKLELBO against hand-written sums on the same draws and exact ELBOs, in float64."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import C, Z, binary, ssvae, vae
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO
from torch.nn.functional import one_hot

from ppl_vae.estimators import AnalyticKLELBO, ImportanceWeightedELBO
from ppl_vae.testing import (
    DiscreteLinearGaussian,
    LinearGaussian,
    MixturePriorLinearGaussian,
    TwoLayerLinearGaussian,
)

D = 3
ORACLES = {
    "diagonal": lambda **options: LinearGaussian(D, 2, **options),
    "full rank": lambda **options: LinearGaussian(D, 2, full_rank=True, **options),
}


def data(batch=5):
    return torch.randn(batch, D, dtype=torch.float64)


def draws(guide, *args, k=1, seed=1):
    """The latents that an estimator of k particles draws at this seed, gradients included."""
    guide = poutine.enum(
        pyro.plate("num_particles_vectorized", k, dim=-2)(guide), first_available_dim=-3
    )
    torch.manual_seed(seed)
    trace = poutine.trace(guide).get_trace(*args)
    return {
        name: site["value"]
        for name, site in trace.iter_stochastic_nodes()
        if not poutine.util.site_is_subsample(site)
    }


def seeded(fn, *args, seed=1):
    torch.manual_seed(seed)
    return fn(*args)


def normal_kl(q, p):
    """KL between diagonal normals per dimension, by hand."""
    ratio = q.variance / p.variance
    return 0.5 * (ratio + (q.mean - p.mean).square() / p.variance - 1 - ratio.log())


def per_datum_of(estimator, model, guide, x, repeats=4000):
    """Independent draws of the bound of each datum, shape ``(batch, repeats)``."""
    many = x.repeat_interleave(repeats, 0)
    return estimator.per_datum(model, guide, many).reshape(len(x), repeats)


def assert_mean(values, expected, k=4):
    """The mean over the last dimension is as expected, within k standard errors."""
    error = values.std(-1) / math.sqrt(values.shape[-1])
    assert ((values.mean(-1) - expected).abs() < k * error).all()


def assert_same_gradients(loss, expected, parameters):
    parameters = list(parameters)
    for got, want in zip(
        torch.autograd.grad(loss, parameters, materialize_grads=True),
        torch.autograd.grad(expected, parameters, materialize_grads=True),
        strict=True,
    ):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


# One Gaussian latent.


@pytest.mark.parametrize("size", [None, 50])
@pytest.mark.parametrize("beta", [None, 0.3])
@pytest.mark.parametrize("k", [1, 6])
@pytest.mark.parametrize("make", ORACLES)
def test_value_and_gradients_are_the_likelihood_drawn_and_the_exact_kl(make, k, beta, size):
    x = data()
    mask = torch.tensor([True, False, True, True, False])
    oracle = ORACLES[make](size=size, beta=beta, mask=mask)
    z = draws(oracle.guide, x, k=k)["z"]
    per_datum = oracle.model.likelihood.log_density(x, z).mean(0)
    per_datum = (per_datum - oracle.beta * oracle.kl_to_prior(x)) * mask
    expected = -(1 if size is None else size / len(x)) * per_datum.sum()
    estimator = AnalyticKLELBO(k)
    loss = seeded(estimator.differentiable_loss, oracle.model, oracle.guide, x)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    assert_same_gradients(loss, expected, oracle.parameters())
    got = seeded(estimator.per_datum, oracle.model, oracle.guide, x)
    torch.testing.assert_close(got, per_datum.detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("make", ORACLES)
def test_the_mean_over_draws_is_the_exact_elbo(make):
    oracle, x = ORACLES[make](beta=0.7), data()
    assert_mean(per_datum_of(AnalyticKLELBO(), oracle.model, oracle.guide, x), oracle.elbo(x))


def variance(values):
    """Variance over the last dimension and the square of its standard error."""
    squares = (values - values.mean(-1, keepdim=True)).square()
    return squares.mean(-1), squares.var(-1) / values.shape[-1]


@pytest.mark.parametrize("make", ORACLES)
def test_has_less_variance_than_monte_carlo(make):
    oracle, x = ORACLES[make](), data()
    ours = per_datum_of(AnalyticKLELBO(), oracle.model, oracle.guide, x).sum(0)
    drawn = per_datum_of(ImportanceWeightedELBO(1), oracle.model, oracle.guide, x).sum(0)
    (low, low_error), (high, high_error) = variance(ours), variance(drawn)
    assert low < high - 4 * (low_error + high_error).sqrt()


def test_has_more_variance_than_monte_carlo_at_the_exact_posterior():
    # There log w is log p(x) for every draw; the likelihood alone is not.
    oracle, x = LinearGaussian(D, 2, full_rank=True), data()
    oracle.set_exact_guide()
    drawn = per_datum_of(ImportanceWeightedELBO(1), oracle.model, oracle.guide, x, 100)
    ours = per_datum_of(AnalyticKLELBO(), oracle.model, oracle.guide, x, 100)
    assert (drawn.std(-1) < 1e-10).all()
    assert (ours.std(-1) > 0.1).all()


@pytest.mark.parametrize("k", [1, 6])
@pytest.mark.parametrize("options", [{}, {"size": 50}, {"beta": 0.3}], ids=str)
def test_equals_the_mean_field_elbo_of_pyro(options, k):
    oracle, x = LinearGaussian(D, 2, **options), data()
    pyros = TraceMeanField_ELBO(num_particles=k, vectorize_particles=True, max_plate_nesting=1)
    expected = seeded(pyros.differentiable_loss, oracle.model, oracle.guide, x)
    loss = seeded(AnalyticKLELBO(k).differentiable_loss, oracle.model, oracle.guide, x)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    assert_same_gradients(loss, expected, oracle.parameters())


def test_equals_the_mean_field_elbo_of_pyro_for_a_vae(float64):
    pair, x = vae(), binary()
    expected = seeded(TraceMeanField_ELBO()(pair.model, pair.guide), x)
    loss = seeded(AnalyticKLELBO()(pair.model, pair.guide), x)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    assert_same_gradients(loss, expected, pair.parameters())


# Enumerated labels.


@pytest.mark.parametrize("beta", [None, 0.3])
@pytest.mark.parametrize("k", [1, 6])
def test_y_enumerated_in_the_guide_is_an_explicit_sum(k, beta):
    oracle, x = DiscreteLinearGaussian(D, 2, C, beta=beta, size=50), data()
    z = draws(oracle.guide, x, k=k)["z"]
    log_q, log_p = oracle.log_qy(x), oracle.model.logits.log_softmax(-1)
    per_datum = torch.zeros(5)
    for y in range(C):
        label = torch.full((len(x),), y)
        q_z = oracle.guide.posterior(x, one_hot(label, C).double())
        kl = normal_kl(q_z, oracle.model.prior()).sum(-1) + log_q[:, y] - log_p[y]
        rec = oracle.model.log_likelihood(x, label, z[y]).mean(0)
        per_datum = per_datum + log_q[:, y].exp() * (rec - oracle.beta * kl)
    expected = -10 * per_datum.sum()
    loss = seeded(AnalyticKLELBO(k).differentiable_loss, oracle.model, oracle.guide, x)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    assert_same_gradients(loss, expected, oracle.parameters())


@pytest.mark.parametrize("full_rank", [False, True])
def test_the_mean_over_draws_is_the_exact_elbo_with_y_enumerated(full_rank):
    oracle, x = DiscreteLinearGaussian(D, 2, C, full_rank=full_rank), data()
    values = per_datum_of(AnalyticKLELBO(), oracle.model, oracle.guide, x)
    assert_mean(values, oracle.elbo(x))


@pytest.mark.parametrize("beta", [None, 0.3])
def test_y_enumerated_in_the_model_is_summed_out_inside(beta):
    oracle, x = DiscreteLinearGaussian(D, 2, C, enumerate="model", beta=beta), data()
    z = draws(oracle.guide, x, k=4)["z"]
    log_p = oracle.model.logits.log_softmax(-1)
    joint = [
        oracle.beta * log_p[y] + oracle.model.log_likelihood(x, torch.full((4, 5), y), z)
        for y in range(C)
    ]
    rec = torch.stack(joint).logsumexp(0).mean(0)
    expected = -(rec - oracle.beta * oracle.kl_to_prior(x)).sum()
    loss = seeded(AnalyticKLELBO(4).differentiable_loss, oracle.model, oracle.guide, x)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    assert_same_gradients(loss, expected, oracle.parameters())


def test_a_prior_that_depends_on_y_enumerated_in_the_model_has_no_closed_form(float64):
    locs = torch.tensor([-1.0, 2.0])

    def model(x):
        with pyro.plate("data", len(x)):
            p_y = dist.Categorical(torch.ones(2))
            y = pyro.sample("y", p_y, infer={"enumerate": "parallel"})
            z = pyro.sample("z", dist.Normal(locs[y], 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.5 * x, 0.8))

    x = torch.randn(4)
    with pytest.raises(NotImplementedError, match=r"at site 'z'.*'y'.*monte_carlo"):
        AnalyticKLELBO().loss(model, guide, x)
    loss = seeded(AnalyticKLELBO(3, monte_carlo=True).loss, model, guide, x)
    z = draws(guide, x, k=3)["z"]
    q = dist.Normal(0.5 * x, 0.8)
    prior = torch.stack([dist.Normal(loc, 1.0).log_prob(z) for loc in locs]).logsumexp(0)
    log_w = prior - math.log(2) + dist.Normal(z, 1.0).log_prob(x) - q.log_prob(z)
    assert loss == pytest.approx(-log_w.mean(0).sum().item(), rel=1e-12)


LABELS = {
    "none": None,
    "some": torch.tensor([0, -1, 2, -1, 1, -1, 0]),
    "all": torch.tensor([0, 1, 2, 1, 1, 2, 0]),
}


def semisupervised_terms(pair, x, labels, z):
    """q(y), per label the likelihood of the draws and the KL per dimension; labels first."""
    q_y = pair.classifier(x).probs
    if labels is not None:
        given = one_hot(labels.clamp(min=0), C).to(q_y.dtype)
        q_y = torch.where((labels >= 0).unsqueeze(-1), given, q_y)
    z = z.expand(C, *z.shape[-3:])
    rec, kl = [], []
    for y in range(C):
        label = one_hot(torch.full((len(x),), y), C).to(x.dtype)
        rec.append(pair.likelihood(z[y], label.expand(*z.shape[1:-1], C)).log_prob(x).mean(0))
        kl.append(normal_kl(pair.posterior(x, label), pair.prior()))
    return q_y.mT, torch.stack(rec), torch.stack(kl)


@pytest.mark.parametrize("labels", LABELS)
def test_semisupervised_bound_is_an_explicit_sum_over_unobserved_labels(labels, float64):
    pair, x, y = ssvae(), binary(), LABELS[labels]
    z = draws(pair.guide, x, y, k=4)["z"]
    q_y, rec, kl = semisupervised_terms(pair, x, y, z)
    if labels == "all":  # a single draw, at the label, which counts where q_y is 1
        assert z.dim() == 3
    elbo_y = rec - kl.sum(-1) - math.log(C)
    per_datum = (q_y * elbo_y - torch.special.xlogy(q_y, q_y)).sum(0)
    expected = -per_datum.sum()
    loss = seeded(AnalyticKLELBO(4)(pair.model, pair.guide), x, y)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    assert_same_gradients(loss, expected, pair.parameters())


def test_the_sum_over_labels_agrees_with_trace_enum_elbo_in_the_mean(float64):
    pair, x = ssvae(), binary()
    y = LABELS["some"]
    enum = TraceEnum_ELBO(max_plate_nesting=1, num_particles=40, vectorize_particles=True)
    drawn = torch.tensor([enum.loss(pair.model, pair.guide, x, y) for _ in range(30)])
    analytic = AnalyticKLELBO(40)
    ours = torch.tensor([analytic.loss(pair.model, pair.guide, x, y) for _ in range(30)])
    error = (drawn.var() / 30 + ours.var() / 30).sqrt()
    assert (drawn.mean() - ours.mean()).abs() < 4 * error


# Scales and masks on one side.


def one_sided(weight, side):
    """A pair with a weight on all the sites of one program; s and t of the latent's terms."""
    oracle = LinearGaussian(D, 2)
    handler = (
        poutine.scale(scale=weight) if isinstance(weight, float) else poutine.mask(mask=weight)
    )
    weight = torch.as_tensor(weight, dtype=torch.float64)
    one = torch.ones(())
    if side == "model":
        return oracle, handler(oracle.model), oracle.guide, weight, one
    return oracle, oracle.model, handler(oracle.guide), one, weight


ONE_SIDED = pytest.mark.parametrize(
    ("weight", "side"),
    [
        (weight, side)
        for weight in (0.4, torch.tensor([True, False, True, True, False]))
        for side in ("model", "guide")
    ],
    ids=["scale model", "scale guide", "mask model", "mask guide"],
)


@ONE_SIDED
def test_a_scale_on_one_side_has_a_closed_form(weight, side):
    x = data()
    oracle, model, guide, s, t = one_sided(weight, side)
    q = oracle.guide.posterior(x)
    # E_q [s log p - t log q] = -s KL + (t - s) H(q), with the entropy of a normal
    entropy = (0.5 * (2 * math.pi * math.e * q.variance).log()).sum(-1)
    z = draws(oracle.guide, x, k=3)["z"]
    rec = oracle.model.likelihood.log_density(x, z).mean(0)
    expected = -(s * rec - s * oracle.kl_to_prior(x) + (t - s) * entropy).sum()
    loss = seeded(AnalyticKLELBO(3).differentiable_loss, model, guide, x)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    assert_same_gradients(loss, expected, oracle.parameters())


@pytest.mark.usefixtures("as_users_see_it")
@ONE_SIDED
def test_a_scale_on_one_side_has_the_mean_of_trace_elbo_unlike_pyros_mean_field(weight, side):
    x, repeats = data(), 40
    oracle, model, guide, s, t = one_sided(weight, side)

    def many(estimator):
        return torch.tensor([float(estimator.loss(model, guide, x)) for _ in range(repeats)])

    options = {"num_particles": 50, "vectorize_particles": True, "max_plate_nesting": 1}
    drawn, ours = many(Trace_ELBO(**options)), many(AnalyticKLELBO(50))
    pyros = many(TraceMeanField_ELBO(**options))

    def standard_errors(values):
        error = ((drawn.var() + values.var()) / repeats).sqrt()
        return (values.mean() - drawn.mean()).abs() / error

    assert standard_errors(ours) < 4
    # Pyro's analytic branch reads only the guide's weights. When a release mends it, this tells.
    assert standard_errors(pyros) > 10
    kl = oracle.kl_to_prior(x)
    z = draws(oracle.guide, x)["z"]
    reads_guide = -(s * oracle.model.likelihood.log_density(x, z)[0] - t * kl).sum()
    single = seeded(TraceMeanField_ELBO().loss, model, guide, x)
    assert single == pytest.approx(reads_guide.item(), rel=1e-12)


# Terms without a closed form.


def test_a_hierarchy_names_the_sites_without_monte_carlo():
    oracle, x = TwoLayerLinearGaussian(D, 2, 2), data()
    with pytest.raises(NotImplementedError, match=r"at site 'z1'.*'z2'.*monte_carlo=True"):
        AnalyticKLELBO().loss(oracle.model, oracle.guide, x)


@pytest.mark.parametrize("beta", [None, 0.3])
def test_a_hierarchy_takes_the_closed_form_of_the_last_latent_alone(beta):
    oracle, x = TwoLayerLinearGaussian(D, 2, 2, beta=beta, size=50), data()
    z = draws(oracle.guide, x, k=4)
    z1, z2 = z["z1"], z["z2"]
    q2 = oracle.guide.posterior2(z1)
    identity = dist.MultivariateNormal(torch.zeros_like(z2), torch.eye(2, dtype=torch.float64))
    kl2 = torch.distributions.kl_divergence(q2, identity)
    log_ratio1 = oracle.model.transition.log_density(z1, z2) - oracle.guide.posterior1.log_density(
        z1, x
    )
    rec = oracle.model.likelihood.log_density(x, z1)
    expected = -10 * (rec + oracle.beta * (log_ratio1 - kl2)).mean(0).sum()
    estimator = AnalyticKLELBO(4, monte_carlo=True)
    loss = seeded(estimator.differentiable_loss, oracle.model, oracle.guide, x)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    assert_same_gradients(loss, expected, oracle.parameters())


def test_the_mean_over_draws_of_a_hierarchy_is_the_exact_elbo():
    oracle, x = TwoLayerLinearGaussian(D, 2, 2), data(2)
    estimator = AnalyticKLELBO(monte_carlo=True)
    assert_mean(per_datum_of(estimator, oracle.model, oracle.guide, x), oracle.elbo(x))
    # KL(q(z1|x) || p(z1|z2)) averaged over z2 ~ q(z2|z1), the closed form used wrongly, is far off.
    with torch.no_grad():
        z = draws(oracle.guide, x, k=4000)
        kl1, kl2 = (
            torch.distributions.kl_divergence(q, p)
            for q, p in [
                (oracle.guide.posterior1(x), oracle.model.transition(z["z2"])),
                (oracle.guide.posterior2(z["z1"]), oracle.model.prior()),
            ]
        )
        wrong = (oracle.model.likelihood.log_density(x, z["z1"]) - kl1 - kl2).mT
    with pytest.raises(AssertionError):
        assert_mean(wrong, oracle.elbo(x), k=10)


def test_latents_in_the_same_order_have_closed_forms_given_those_before(float64):
    def model(x):
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(0.0, 1.0))
            z1 = pyro.sample("z1", dist.Normal(0.5 * z2, 0.7))
            pyro.sample("x", dist.Normal(z1, 0.5), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(0.3 * x, 0.8))
            pyro.sample("z1", dist.Normal(0.5 * x + 0.2 * z2, 0.6))

    x = torch.randn(5)
    loss = seeded(AnalyticKLELBO().loss, model, guide, x)
    assert loss == pytest.approx(seeded(TraceMeanField_ELBO().loss, model, guide, x), rel=1e-12)


@pytest.mark.parametrize("full_rank", [False, True])
def test_a_mixture_prior_raises_or_is_estimated(full_rank):
    oracle, x = MixturePriorLinearGaussian(D, 2, full_rank=full_rank, size=50), data()
    name = "MultivariateNormal" if full_rank else r"Independent\(Normal\)"
    with pytest.raises(NotImplementedError, match=rf"site 'z'.*{name} ‖ MixtureSameFamily"):
        AnalyticKLELBO().loss(oracle.model, oracle.guide, x)
    estimator = AnalyticKLELBO(monte_carlo=True)
    loss = seeded(estimator.differentiable_loss, oracle.model, oracle.guide, x)
    trace = seeded(Trace_ELBO().differentiable_loss, oracle.model, oracle.guide, x)
    assert loss.item() == pytest.approx(trace.item(), rel=1e-12)
    assert_same_gradients(loss, trace, oracle.parameters())


def test_a_point_mass_is_named(float64):
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta(0.5 * x))

    x = torch.randn(4)
    with pytest.raises(NotImplementedError, match="'z': a point mass has no KL"):
        AnalyticKLELBO().loss(model, guide, x)
    expected = Trace_ELBO().loss(model, guide, x)
    assert AnalyticKLELBO(monte_carlo=True).loss(model, guide, x) == pytest.approx(expected)


# Free bits.


def free_bits_loss(rec, kl, free_bits):
    """-[rec - sum over d of max(B lambda, sum over b of KL_d)], from shapes (B,) and (B, D)."""
    return -(rec.sum() - kl.sum(0).clamp(min=len(rec) * free_bits).sum())


def between(kl):
    """A lambda with some dimensions below and some above."""
    mean = kl.mean(0).detach().sort().values
    return ((mean[0] + mean[1]) / 2).item()


@pytest.mark.parametrize("k", [1, 4])
def test_free_bits_of_a_vae(k, float64):
    pair, x = vae(), binary()
    z = draws(pair.guide, x, k=k)["z"]
    rec = pair.likelihood(z).log_prob(x).mean(0)
    kl = normal_kl(pair.posterior(x), pair.prior())
    free_bits = between(kl)
    assert 0 < (kl.mean(0) > free_bits).sum() < Z
    elbo = AnalyticKLELBO(k, free_bits=free_bits)(pair.model, pair.guide)
    plain = seeded(AnalyticKLELBO(k)(pair.model, pair.guide), x)
    loss = seeded(elbo, x)
    assert loss.item() == pytest.approx(plain.item(), rel=1e-12)
    assert loss.item() == pytest.approx((kl.sum() - rec.sum()).item(), rel=1e-12)
    assert_same_gradients(loss, free_bits_loss(rec, kl, free_bits), pair.parameters())


def test_free_bits_count_before_the_plate_is_scaled():
    oracle, x = LinearGaussian(D, 2, size=50), data()
    z = draws(oracle.guide, x)["z"]
    rec = oracle.model.likelihood.log_density(x, z).mean(0)
    kl = normal_kl(oracle.guide.posterior(x), oracle.model.prior())
    estimator = AnalyticKLELBO(free_bits=between(kl))
    loss = seeded(estimator.differentiable_loss, oracle.model, oracle.guide, x)
    assert loss.item() == pytest.approx(10 * (kl.sum() - rec.sum()).item(), rel=1e-12)
    expected = 10 * free_bits_loss(rec, kl, between(kl))
    assert_same_gradients(loss, expected, oracle.parameters())


@pytest.mark.parametrize("labels", ["none", "some"])
def test_free_bits_are_of_the_mean_over_unobserved_labels(labels, float64):
    pair, x, y = ssvae(), binary(), LABELS[labels]
    z = draws(pair.guide, x, y)["z"]
    q_y, rec, kl = semisupervised_terms(pair, x, y, z)
    kl = (q_y.unsqueeze(-1) * kl).sum(0)
    rec = (q_y * (rec - math.log(C)) - torch.special.xlogy(q_y, q_y)).sum(0)
    free_bits = between(kl)
    loss = seeded(AnalyticKLELBO(free_bits=free_bits)(pair.model, pair.guide), x, y)
    assert loss.item() == pytest.approx((kl.sum() - rec.sum()).item(), rel=1e-12)
    assert_same_gradients(loss, free_bits_loss(rec, kl, free_bits), pair.parameters())


def test_free_bits_count_only_what_the_mask_keeps():
    mask = torch.tensor([True, False, True, False, False])
    oracle, x = LinearGaussian(D, 2, mask=mask), data()
    z = draws(oracle.guide, x)["z"][:, mask]
    rec = oracle.model.likelihood.log_density(x[mask], z).mean(0)
    kl = normal_kl(oracle.guide.posterior(x[mask]), oracle.model.prior())
    estimator = AnalyticKLELBO(free_bits=between(kl))
    loss = seeded(estimator.differentiable_loss, oracle.model, oracle.guide, x)
    assert_same_gradients(loss, free_bits_loss(rec, kl, between(kl)), oracle.parameters())


def test_free_bits_are_of_the_kl_before_its_weight():
    oracle, x = LinearGaussian(D, 2, beta=0.3), data()
    z = draws(oracle.guide, x)["z"]
    rec = oracle.model.likelihood.log_density(x, z).mean(0)
    kl = normal_kl(oracle.guide.posterior(x), oracle.model.prior())
    estimator = AnalyticKLELBO(free_bits=between(kl))
    loss = seeded(estimator.differentiable_loss, oracle.model, oracle.guide, x)
    expected = 0.3 * free_bits_loss(rec / 0.3, kl, between(kl))
    assert_same_gradients(loss, expected, oracle.parameters())


@ONE_SIDED
def test_free_bits_need_the_same_weight_on_both_sides(weight, side):
    _, model, guide, *_ = one_sided(weight, side)
    with pytest.raises(NotImplementedError, match=r"one scale and mask in model and guide.*'z'"):
        AnalyticKLELBO(free_bits=0.1).differentiable_loss(model, guide, data())


def test_free_bits_beyond_all_dimensions_leave_the_likelihood_alone(float64):
    pair, x = vae(), binary()
    rec = pair.likelihood(draws(pair.guide, x)["z"]).log_prob(x)
    loss = seeded(AnalyticKLELBO(free_bits=1e3)(pair.model, pair.guide), x)
    assert_same_gradients(loss, -rec.sum(), pair.parameters())


def test_free_bits_below_all_dimensions_change_nothing(float64):
    pair, x = vae(), binary()
    loss = seeded(AnalyticKLELBO(free_bits=1e-6)(pair.model, pair.guide), x)
    plain = seeded(AnalyticKLELBO()(pair.model, pair.guide), x)
    assert_same_gradients(loss, plain, pair.parameters())


def test_free_bits_under_svi_are_those_of_the_module(float64):
    pair, x, rate = vae(), binary(), 0.01
    kl = normal_kl(pair.posterior(x), pair.prior())
    estimator = AnalyticKLELBO(free_bits=between(kl))
    loss = seeded(estimator(pair.model, pair.guide), x)
    parameters = list(pair.parameters())
    gradients = torch.autograd.grad(loss, parameters)
    expected = [p.detach() - rate * g for p, g in zip(parameters, gradients, strict=True)]
    svi = SVI(pair.model, pair.guide, pyro.optim.SGD({"lr": rate}), estimator)
    assert seeded(svi.step, x) == pytest.approx(loss.item(), rel=1e-12)
    for parameter, want in zip(parameters, expected, strict=True):
        torch.testing.assert_close(parameter.detach(), want, rtol=1e-10, atol=1e-12)


def test_free_bits_need_a_sum_over_dimensions():
    oracle, x = LinearGaussian(D, 2, full_rank=True), data()
    estimator = AnalyticKLELBO(free_bits=0.1)
    with pytest.raises(NotImplementedError, match=r"site 'z'.*MultivariateNormal ‖ Independent"):
        estimator.differentiable_loss(oracle.model, oracle.guide, x)
    mixture = MixturePriorLinearGaussian(D, 2)
    estimator = AnalyticKLELBO(free_bits=0.1, monte_carlo=True)
    with pytest.raises(NotImplementedError, match=r"site 'z'.*without free_bits"):
        estimator.differentiable_loss(mixture.model, mixture.guide, x)


@pytest.mark.parametrize("free_bits", [-0.1, math.inf, math.nan])
def test_invalid_free_bits_raise(free_bits):
    with pytest.raises(ValueError, match=r"free_bits must be finite and at least 0, got"):
        AnalyticKLELBO(free_bits=free_bits)


# The contract of all estimators.


def unit_normal(name):
    return pyro.sample(name, dist.Normal(torch.zeros(Z), 1.0).to_event(1))


def test_a_latent_outside_the_plate_is_named():
    def model(x):
        unit_normal("everywhere")
        with pyro.plate("data", len(x)):
            unit_normal("z")

    for monte_carlo in (False, True):
        with pytest.raises(ValueError, match="'everywhere' is outside the batch plate 'data'"):
            AnalyticKLELBO(monte_carlo=monte_carlo).loss(model, model, binary())


def test_inner_plates_are_summed(float64):
    def model(x):
        with pyro.plate("data", len(x), dim=-2), pyro.plate("inner", D, dim=-1):
            z = pyro.sample("z", dist.Normal(0.3, 1.5))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-2), pyro.plate("inner", D, dim=-1):
            pyro.sample("z", dist.Normal(0.5 * x, 0.7))

    x = torch.randn(5, D)
    torch.manual_seed(1)
    q = dist.Normal(0.5 * x, 0.7)
    z = q.expand((4, 5, D)).sample()
    rec = dist.Normal(z, 0.5).log_prob(x).sum(-1).mean(0)
    kl = normal_kl(q, dist.Normal(0.3, 1.5)).sum(-1)
    bound = seeded(AnalyticKLELBO(4).per_datum, model, guide, x)
    torch.testing.assert_close(bound, rec - kl, rtol=1e-12, atol=1e-12)


def test_a_site_that_is_neither_reparameterised_nor_enumerated_is_named():
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("count", dist.Poisson(torch.ones(())))

    def guide(x):
        rate = pyro.param("rate", torch.full((), 2.0))
        with pyro.plate("data", len(x)):
            pyro.sample("count", dist.Poisson(rate))

    estimator, x = AnalyticKLELBO(), binary()
    exact = len(x) * (2 * math.log(2) - 1)
    assert estimator.loss(model, guide, x) == pytest.approx(exact, rel=1e-6)
    with pytest.raises(NotImplementedError, match=r"'count'.*Poisson.*neither reparameterised"):
        estimator.loss_and_grads(model, guide, x)


@pytest.mark.parametrize("free_bits", [0.0, 0.2])
@pytest.mark.parametrize("make", [vae, ssvae, lambda: ssvae(alpha=2.0)], ids=["vae", "ss", "alpha"])
def test_loss_loss_and_grads_differentiable_loss_and_svi_agree(make, free_bits, float64):
    pair, x = make(), binary()
    estimator = AnalyticKLELBO(4, free_bits=free_bits)
    args = (x,) if make is vae else (x, LABELS["some"])
    svi = SVI(pair.model, pair.guide, pyro.optim.SGD({"lr": 0.0}), estimator)
    values = [
        seeded(estimator.loss, pair.model, pair.guide, *args),
        seeded(estimator.loss_and_grads, pair.model, pair.guide, *args),
        seeded(estimator.differentiable_loss, pair.model, pair.guide, *args).detach(),
        seeded(estimator(pair.model, pair.guide), *args).detach(),
        seeded(svi.evaluate_loss, *args),
        seeded(svi.step, *args),
        -seeded(estimator.per_datum, pair.model, pair.guide, *args).sum(),
    ]
    values = [float(value) for value in values]
    assert values == pytest.approx([values[0]] * len(values), rel=1e-12)
