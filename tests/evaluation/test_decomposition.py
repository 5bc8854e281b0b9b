"""The split of the KL, and the latent dimensions, against quadrature and closed forms."""

import math
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from evaluated import conditional, hierarchical
from pairs import POSTERIORS, PRIORS, C, D, Z, binary, net, ssvae, vae
from torch import nn

from ppl_vae import VAE, likelihoods, nets, posteriors, priors
from ppl_vae.evaluation import elbo_terms
from ppl_vae.evaluation.decomposition import kl_decomposition
from ppl_vae.evaluation.latent_dimensions import latent_units
from ppl_vae.evaluation.latents import marginals
from ppl_vae.testing import LinearGaussian, MixturePriorLinearGaussian

TERMS = ("kl", "mutual_information", "marginal_kl", "total_correlation", "dimension_wise_kl")


def log_normal(z, loc, scale):
    return -0.5 * ((z - loc) / scale) ** 2 - scale.log() - 0.5 * math.log(2 * math.pi)


def grid(*sides):
    """Return points of a rectangular rule, shape (points, dims), and the area of each."""
    axes = [torch.linspace(low, high, n) for low, high, n in sides]
    area = math.prod(float(a[1] - a[0]) for a in axes)
    return torch.cartesian_prod(*axes).reshape(-1, len(axes)), area


class Given(nn.Module):
    """Latents' distribution as a function of the data, for programs written by hand."""

    def __init__(self, q, p):
        super().__init__()
        self.q, self.p = q, p

    @property
    def model(self):
        return Program(lambda x: self.p(x), True)

    @property
    def guide(self):
        return Program(lambda x: self.q(x), False)


class Program(nn.Module):
    def __init__(self, z, observes):
        super().__init__()
        self.z, self.observes = z, observes

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.z(x))
            if self.observes:
                pyro.sample("x", dist.Normal(z[..., :1], 1.0).to_event(1), obs=x[:, :1])


def standard(dims):
    return lambda x: dist.Normal(torch.zeros(dims), 1.0).to_event(1)


@pytest.mark.parametrize(("block", "num_samples"), [(500, 20_000), (2, 2000)])
def test_every_term_equals_its_integral(block, num_samples, float64, monkeypatch):
    """Two dimensions, five data: every density by hand, every integral on a grid."""
    monkeypatch.setattr("ppl_vae.evaluation.decomposition.BLOCK", block)
    loc = torch.tensor([[0.0, 0.0], [1.0, -0.5], [1.3, 0.8], [-0.7, 1.2], [0.2, -1.4]])
    scale = torch.tensor([[0.3, 0.5], [0.6, 0.4], [0.5, 0.5], [0.4, 0.3], [0.7, 0.6]])
    prior_loc, prior_scale = torch.tensor([0.3, -0.2]), torch.tensor([1.4, 0.8])
    pair = Given(
        lambda x: dist.Normal(loc[x[:, 0].long()], scale[x[:, 0].long()]).to_event(1),
        lambda x: dist.Normal(prior_loc, prior_scale).to_event(1),
    )
    z, area = grid((-4, 5, 300), (-5, 5, 330))
    log_each = log_normal(z.unsqueeze(1), loc, scale)  # (points, data, dims)
    log_q = log_each.sum(-1).logsumexp(1) - math.log(5)
    log_p = log_normal(z, prior_loc, prior_scale)
    marginal_kl = (log_q.exp() * (log_q - log_p.sum(-1))).sum() * area
    variance = (scale / prior_scale) ** 2
    kl = 0.5 * (variance + ((loc - prior_loc) / prior_scale) ** 2 - 1 - variance.log()).sum() / 5
    by_dimension = 0.0
    for d in range(2):
        t, width = grid((-6, 6, 4000))
        q = log_normal(t, loc[:, d], scale[:, d]).logsumexp(1) - math.log(5)
        p = log_normal(t.squeeze(1), prior_loc[d], prior_scale[d])
        by_dimension += (q.exp() * (q - p)).sum() * width
    want = {
        "kl": kl,
        "mutual_information": kl - marginal_kl,
        "marginal_kl": marginal_kl,
        "total_correlation": marginal_kl - by_dimension,
        "dimension_wise_kl": by_dimension,
    }
    got = kl_decomposition(pair, torch.arange(5.0).unsqueeze(1), num_samples=num_samples)
    for name in TERMS:
        estimate = getattr(got, name)
        assert 0 < estimate.standard_error < 0.7 / math.sqrt(num_samples)
        assert estimate.mean == pytest.approx(want[name].item(), abs=4 * estimate.standard_error), (
            name
        )


def test_the_oracles_kl_and_its_aggregate_posterior(float64):
    oracle, x = LinearGaussian(3, 1), torch.randn(6, 3)
    got = kl_decomposition(oracle, x, num_samples=20_000)
    exact = oracle.kl_to_prior(x).mean().item()
    assert got.kl.mean == pytest.approx(exact, abs=4 * got.kl.standard_error)
    z, width = grid((-8, 8, 8000))
    q = oracle.guide.posterior.log_density(z.unsqueeze(1), x).logsumexp(1) - math.log(6)
    marginal = ((q.exp() * (q - oracle.model.prior.log_density(z))).sum() * width).item()
    assert got.marginal_kl.mean == pytest.approx(marginal, abs=4 * got.marginal_kl.standard_error)
    # one dimension has no correlation
    assert abs(got.total_correlation.mean) < 1e-12


@pytest.mark.parametrize("posterior", POSTERIORS)
@pytest.mark.parametrize("prior", ["standard", "full-rank normal", "mixture", "vamp", "spline"])
def test_the_identities_hold_draw_by_draw(posterior, prior, float64):
    pair, x = vae(prior, posterior), binary(9)
    got = kl_decomposition(pair, x, num_samples=3)
    assert got.kl.mean == pytest.approx(
        got.mutual_information.mean + got.marginal_kl.mean, abs=1e-10
    )
    assert got.mutual_information.mean <= got.max_mutual_information
    assert got.max_mutual_information == pytest.approx(math.log(9))
    assert (got.total_correlation is None) == ("flow" in posterior or posterior == "iaf")
    assert (got.dimension_wise_kl is None) == (got.total_correlation is None or prior != "standard")
    for name in ("total_correlation", "dimension_wise_kl"):
        assert (name in got.missing) == (getattr(got, name) is None)
    if got.dimension_wise_kl is not None:
        assert got.marginal_kl.mean == pytest.approx(
            got.total_correlation.mean + got.dimension_wise_kl.mean, abs=1e-10
        )
    assert str(got).count("\n") == 5


def test_the_kl_is_that_of_the_elbo(float64):
    pair, x = vae(), binary(30)
    got = kl_decomposition(pair, x, num_samples=1000)
    want = elbo_terms(pair, x, num_samples=1000).kl.mean
    assert got.kl.mean == pytest.approx(want, abs=6 * got.kl.standard_error)


def test_a_beta_in_the_model_has_no_effect(float64):
    x = torch.randn(9, 3)
    plain, weighted = (LinearGaussian(3, 2, seed=0, beta=beta) for beta in (1.0, 0.3))
    assert kl_decomposition(weighted, x) == kl_decomposition(plain, x)
    got, want = (latent_units(pair, x, threshold=0.0) for pair in (weighted, plain))
    assert torch.equal(got.kl, want.kl)


def test_chunks_do_not_change_the_result(float64, monkeypatch):
    pair, x = vae(), binary(23)
    one = kl_decomposition(pair, x, num_samples=2)
    monkeypatch.setattr("ppl_vae.evaluation.decomposition.row_limit", lambda _: 23 * 7)
    other = kl_decomposition(pair, x, num_samples=2)
    for name in TERMS:
        assert getattr(other, name).mean == pytest.approx(getattr(one, name).mean, abs=1e-12)


def test_mutual_information_of_distant_and_of_equal_posteriors(float64):
    n = 12
    far = Given(
        lambda x: dist.Normal(100.0 * torch.arange(n).unsqueeze(1), 1.0).to_event(1), standard(1)
    )
    got = kl_decomposition(far, torch.zeros(n, 1), num_samples=4)
    assert got.mutual_information.mean == pytest.approx(math.log(n), abs=1e-12)
    same = Given(lambda x: dist.Normal(torch.ones(n, 2), 0.5).to_event(1), standard(2))
    got = kl_decomposition(same, torch.zeros(n, 1), num_samples=4)
    assert got.mutual_information.mean == pytest.approx(0, abs=1e-12)
    assert got.total_correlation.mean == pytest.approx(0, abs=1e-12)


def test_a_prior_equal_to_all_posteriors_has_zero_terms(float64):
    """So that no draw is compared with another's density: not even the spread is left."""
    pair = Given(lambda x: dist.Normal(torch.ones(5, 2), 0.5).to_event(1), standard(2))
    pair.p = lambda x: dist.Normal(torch.ones(2), 0.5).to_event(1)
    got = kl_decomposition(pair, torch.zeros(5, 1), num_samples=3)
    for name in TERMS:
        assert getattr(got, name).mean == pytest.approx(0, abs=1e-12)
        assert getattr(got, name).standard_error < 1e-12


def test_total_correlation_of_posteriors_on_a_line(float64):
    """Both dimensions say the same: TC = H(z_1) + H(z_2) - H(z_1, z_2) = log N, far apart."""
    n = 8
    loc = 100.0 * torch.arange(n).unsqueeze(1).expand(n, 2)
    pair = Given(lambda x: dist.Normal(loc, 1.0).to_event(1), standard(2))
    got = kl_decomposition(pair, torch.zeros(n, 1), num_samples=3)
    assert got.total_correlation.mean == pytest.approx(math.log(n), abs=1e-12)


def test_float32_and_the_bound_log_n():
    pair, x = vae(), binary(50)
    got = kl_decomposition(pair, x)
    assert got.mutual_information.mean <= got.max_mutual_information + 1e-5
    assert got.kl.mean == pytest.approx(
        got.mutual_information.mean + got.total_correlation.mean + got.dimension_wise_kl.mean
    )


@pytest.mark.parametrize("make", [lambda: conditional("normal given y"), None])
def test_conditional_priors_are_aggregated_per_condition(make, float64):
    """Each term is the average over classes of the same term of the class alone."""
    pair = ssvae("normal given y") if make is None else make()
    x, y = binary(12), torch.tensor([0] * 6 + [1] * 4 + [2] * 2)
    got = kl_decomposition(pair, x, y, num_samples=5000)
    want = dict.fromkeys(TERMS, 0.0)
    for label in range(C):
        mine = y == label
        alone = kl_decomposition(pair, x[mine], y[mine], num_samples=5000, seed=1)
        for name in TERMS:
            want[name] += mine.double().mean().item() * getattr(alone, name).mean
    for name in TERMS:
        estimate = getattr(got, name)
        tolerance = 6 * estimate.standard_error + 1e-12
        assert estimate.mean == pytest.approx(want[name], abs=tolerance), name
    cap = (6 * math.log(6) + 4 * math.log(4) + 2 * math.log(2)) / 12
    assert got.max_mutual_information == pytest.approx(cap)
    assert kl_decomposition(conditional("standard"), x, y).max_mutual_information == math.log(12)


def test_unobserved_labels_are_set_to_their_most_probable_value(float64):
    pair, x = ssvae("normal given y"), binary(8)
    with torch.no_grad():
        for parameter in pair.prior.parameters():
            parameter.mul_(3)
    y = pair.classify(x).argmax(-1)
    got = kl_decomposition(pair, x, num_samples=2000)
    want = kl_decomposition(pair, x, y, num_samples=2000)
    some = torch.where(torch.arange(8) < 3, y, -1)
    partly = kl_decomposition(pair, x, some, num_samples=2000)
    others = kl_decomposition(pair, x, (y + 1) % C, num_samples=2000)
    assert abs(others.kl.mean - want.kl.mean) > 12 * got.kl.standard_error
    for name in TERMS:
        # q is the same; the labels being drawn first moves the random state, not the terms.
        tolerance = 8 * getattr(got, name).standard_error + 1e-12
        assert getattr(got, name).mean == pytest.approx(getattr(want, name).mean, abs=tolerance)
        assert getattr(partly, name).mean == pytest.approx(getattr(want, name).mean, abs=tolerance)


def test_only_the_top_layer_of_a_hierarchy_is_decomposed(float64):
    x = binary(6)
    pair = hierarchical("top-down")
    alone = VAE(
        prior=pair.prior,
        posterior=pair.posterior,
        likelihood=likelihoods.Bernoulli(net(2, D)),
    )
    top = kl_decomposition(pair, x, site="z2", num_samples=4000)
    want = kl_decomposition(alone, x, num_samples=4000, seed=1)
    for name in TERMS:
        tolerance = 6 * getattr(top, name).standard_error
        assert getattr(top, name).mean == pytest.approx(getattr(want, name).mean, abs=tolerance)
    with pytest.raises(ValueError, match=r"one of the latents 'z2', 'z1', but there are several"):
        kl_decomposition(pair, x)
    with pytest.raises(ValueError, match="got site='z3'"):
        kl_decomposition(pair, x, site="z3")
    with pytest.raises(NotImplementedError, match="'z1' depends on z2"):
        kl_decomposition(pair, x, site="z1")
    for site in ("z1", "z2"):
        with pytest.raises(NotImplementedError, match="depends on"):
            kl_decomposition(hierarchical("bottom-up"), x, site=site)


def test_seed_modes_and_global_random_state():
    pair, x = vae(), binary(11)
    pair.posterior.eval()
    modes = [m.training for m in pair.modules()]
    state = torch.get_rng_state()
    first, again = kl_decomposition(pair, x), kl_decomposition(pair, x)
    units = latent_units(pair, x, threshold=0.0)
    assert torch.equal(state, torch.get_rng_state())
    assert first == again
    assert first != kl_decomposition(pair, x, seed=1)
    assert [m.training for m in pair.modules()] == modes
    assert units.active.all()


def test_invalid_input_raises(float64):
    pair, x = vae(), binary(4)
    with pytest.raises(ValueError, match="at least one datum"):
        kl_decomposition(pair, x[:0])
    with pytest.raises(ValueError, match=r"further argument is a tensor of shape \(3,\)"):
        kl_decomposition(conditional("standard"), x, torch.zeros(3, dtype=torch.long))
    with pytest.raises(ValueError, match="outside the support"):
        kl_decomposition(pair, x + 0.5)
    with pytest.raises(ValueError, match="num_samples must be 1 or more"):
        kl_decomposition(pair, x, num_samples=0)
    half = Given(standard(2), lambda x: dist.HalfNormal(torch.ones(2)).to_event(1))
    with (
        pyro.validation_enabled(False),
        pytest.raises(ValueError, match=r"log p\(z\) is NaN or infinite at \d+ of 4 draws"),
    ):
        kl_decomposition(half, x)
    other = Given(standard(2), standard(3))
    with pytest.raises(ValueError, match=r"2 dimensions in the guide and 3|shape"):
        kl_decomposition(other, x)
    each_its_own = Given(standard(2), lambda x: dist.Normal(x[:, :2], 1.0).to_event(1))
    with pytest.raises(ValueError, match="differs for most of the 4 data"):
        kl_decomposition(each_its_own, torch.randn(4, 2))
    scalar = Given(lambda x: dist.Normal(torch.zeros(len(x)), 1.0), standard(1))
    with pytest.raises(ValueError, match="must have batch shape"):
        kl_decomposition(scalar, x)


MARGINALS = {
    "diagonal": lambda: dist.Normal(torch.randn(3, 2), torch.rand(3, 2) + 0.3).to_event(1),
    "full rank": lambda: dist.MultivariateNormal(
        torch.randn(3, 2), scale_tril=torch.tensor([[0.8, 0.0], [0.5, 0.6]])
    ),
    "low rank": lambda: POSTERIORS["low rank"]()(torch.rand(3, D)),
    "mixture posterior": lambda: POSTERIORS["mixture posterior"]()(torch.rand(3, D)),
    "mixture": lambda: priors.GaussianMixture(2, 4, learn_weights=True)(),
    "vamp": lambda: PRIORS["vamp, learned weights"](POSTERIORS["diagonal"]())(),
    "vamp of full rank": lambda: PRIORS["vamp"](POSTERIORS["full rank"]())(),
    "vamp of mixtures": lambda: PRIORS["vamp"](POSTERIORS["mixture posterior"]())(),
}


@pytest.mark.parametrize("name", MARGINALS)
def test_marginals_are_the_joint_density_integrated(name, float64):
    d = MARGINALS[name]()
    t = torch.linspace(-25, 25, 20_001)
    z = torch.randn(2)
    for dim in range(2):
        points = torch.stack([z[dim].expand_as(t), t], -1)
        points = points if dim == 0 else points.flip(-1)
        shape = (len(t), *(1,) * len(d.batch_shape), 2)
        joint = d.log_prob(points.reshape(shape)).exp().sum(0) * (t[1] - t[0])
        got = marginals(d).log_prob(z.expand(*d.batch_shape, 2))[..., dim].exp()
        torch.testing.assert_close(got.detach(), joint.detach(), rtol=1e-6, atol=1e-9)


# Latent dimensions


def test_activity_and_kl_of_a_constructed_model(float64):
    """Means 3 x, 0.05 x and 0: activities 9, 0.0025 and 0 times the variance of x."""
    slope, scale = torch.tensor([3.0, 0.05, 0.0]), torch.tensor([0.5, 0.9, 1.0])
    pair = Given(lambda x: dist.Normal(x * slope, scale).to_event(1), standard(3))
    x = torch.randn(1200, 1)
    with pytest.warns(UserWarning, match="2 of 3 dimensions of 'z' are inactive"):
        units = latent_units(pair, x)
    torch.testing.assert_close(units.activity, slope**2 * x.var())
    assert units.active.tolist() == [True, False, False]
    assert units.num_active == 1
    kl = 0.5 * (scale**2 + (x * slope) ** 2 - 1) - scale.log()
    torch.testing.assert_close(units.kl, kl.mean(0))
    torch.testing.assert_close(units.kl_standard_error, kl.std(0) / math.sqrt(1200))
    assert units.sums_to_kl
    assert units.order().tolist() == [0, 1, 2]
    assert str(units).startswith("1 of 3 latent dimensions are active")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert latent_units(pair, x, threshold=0.001).num_active == 2


def test_collapse_is_described_and_warned_of(float64):
    pair = Given(lambda x: dist.Normal(0.01 * x.expand(-1, 4), 1.0).to_event(1), standard(4))
    with pytest.warns(UserWarning, match="has collapsed: 4 of 4.*free bits") as caught:
        units = latent_units(pair, torch.randn(50, 1))
    assert len(caught) == 1
    assert units.collapse == str(caught[0].message)
    # Of few draws the variance is well below the prior's; activities are near the threshold.
    near = Given(
        lambda x: dist.Normal(x * torch.linspace(0.07, 0.1, 8), 1.0).to_event(1), standard(8)
    )
    few = torch.tensor([[-1.0], [-0.5], [0.5], [1.2]])
    with pytest.warns(UserWarning, match="8 of 8 .* at most 0.01, KL"):
        assert latent_units(near, few).num_active == 0
    # Everything moves a little, but the KL is next to nothing: a prior of large scale.
    wide = Given(
        lambda x: dist.Normal(x.expand(-1, 2), 100.0).to_event(1),
        lambda x: dist.Normal(torch.zeros(2), 100.0).to_event(1),
    )
    with pytest.warns(UserWarning, match="has collapsed: 0 of 2"):
        latent_units(wide, torch.randn(50, 1))


def test_under_a_narrow_prior_collapse_is_told_by_the_share_of_its_variance(float64):
    """Activities are 0.0025 times the variance of x: below 0.01, and half of the prior's 0.005."""
    pair = Given(
        lambda x: dist.Normal(0.05 * x.expand(-1, 2), 0.05).to_event(1),
        lambda x: dist.Normal(torch.zeros(2), 0.005**0.5).to_event(1),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        units = latent_units(pair, torch.randn(50, 1))
    assert units.num_active == 0
    assert units.collapse is None


@pytest.mark.parametrize("descending", [False, True])
def test_collapse_is_told_by_the_mean_variance_of_all_priors(descending, float64, monkeypatch):
    """Activities of 0.0026 are above 0.01 of the mean variance, 0.18, not of the larger, 0.36."""
    monkeypatch.setattr("ppl_vae.evaluation.latent_dimensions.BLOCK", 20)
    pair = Given(
        lambda x: dist.Normal(0.05 * x.sign().expand(-1, 2), 0.05).to_event(1),
        lambda x: dist.Normal(torch.zeros(2), (x > 0) * 0.6 + 1e-4).to_event(1),
    )
    x = torch.linspace(-1, 1, 40)[:, None].sort(0, descending=descending).values
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert latent_units(pair, x).collapse is None


@pytest.mark.filterwarnings("ignore:.*(inactive|collapsed)")
@pytest.mark.parametrize("posterior", ["diagonal", "mixture posterior"])
def test_the_kls_of_the_dimensions_sum_to_the_kl(posterior, float64, monkeypatch):
    monkeypatch.setattr("ppl_vae.evaluation.latent_dimensions.KL_DRAWS", 10**6)
    x = binary(20).repeat(25, 1)
    pair = vae("diagonal normal", posterior)
    units = latent_units(pair, x, num_samples=50)
    got = elbo_terms(pair, x, num_samples=80).kl.mean
    assert units.sums_to_kl == (posterior == "diagonal")
    if units.sums_to_kl:
        error = kl_decomposition(pair, x[:20], num_samples=500).kl.standard_error / 2
        assert units.kl.sum().item() == pytest.approx(got, abs=5 * error)
    else:
        # What is left of the KL is the correlation within each posterior; 0.01 is 5 errors.
        assert units.kl.sum().item() < got + 0.01


@pytest.mark.filterwarnings("ignore:.*(inactive|collapsed)")
def test_the_kl_per_dimension_under_a_mixture_prior_by_quadrature(float64, monkeypatch):
    monkeypatch.setattr("ppl_vae.evaluation.latent_dimensions.KL_DRAWS", 10**6)
    oracle, x = MixturePriorLinearGaussian(3, 1), torch.randn(5, 3)
    units = latent_units(oracle, x.repeat(100, 1), num_samples=200)
    z, width = grid((-12, 12, 20_000))
    q = oracle.guide.posterior.log_density(z.unsqueeze(1), x)
    kl = (q.exp() * (q - oracle.model.prior.log_density(z).unsqueeze(1))).sum(0) * width
    # The spread of log q / p at a draw is about 1.
    assert units.kl.item() == pytest.approx(kl.mean().item(), abs=5 / math.sqrt(100_000))
    assert units.kl_missing is None
    assert not units.sums_to_kl


@pytest.mark.filterwarnings("ignore:.*(inactive|collapsed)")
@pytest.mark.parametrize("posterior", POSTERIORS)
@pytest.mark.parametrize("prior", PRIORS)
def test_units_of_every_posterior_and_prior(posterior, prior):
    units = latent_units(vae(prior, posterior), binary(6), num_samples=4)
    none = "flow" in posterior or posterior == "iaf" or prior in ("realnvp", "maf", "spline")
    assert units.kl.isnan().all() == none
    assert (units.kl_missing is not None) == none
    assert units.activity.isfinite().all()
    assert units.order().shape == (Z,)


@pytest.mark.filterwarnings("ignore:.*(inactive|collapsed)")
def test_activity_estimated_from_draws_is_unbiased(float64):
    """A flow near the identity has no mean in closed form, and about that of its base."""
    q = posteriors.Flow(nets.MLP(1, 4 + 3, hidden=()), 2, "iaf", context_features=3, hidden=(4,))
    with torch.no_grad():
        for p in q.transform.parameters():
            p.zero_()
        linear = next(m for m in q.net.modules() if isinstance(m, nn.Linear))
        linear.weight.zero_()
        linear.weight[0, 0] = 0.3
        linear.bias.zero_()
    pair = VAE(
        prior=priors.StandardNormal(2),
        posterior=q,
        likelihood=likelihoods.Normal(nets.MLP(2, 1), 1.0),
    )
    x = torch.randn(2000, 1)
    units = latent_units(pair, x, num_samples=2)
    # Two noisy means of variance σ² = 0.48: their covariance over 2,000 data has an error of about
    # σ² / √2000 = 0.011; the variance of their average would be 0.24 too large.
    want = (torch.tensor([0.3, 0.0]) ** 2 * x.var()).tolist()
    assert units.activity.tolist() == pytest.approx(want, abs=5 * 0.0125)


@pytest.mark.filterwarnings("ignore:.*(inactive|collapsed)")
@pytest.mark.parametrize("inference", ["bottom-up", "top-down"])
def test_the_layers_of_a_hierarchy(inference, float64, monkeypatch):
    monkeypatch.setattr("ppl_vae.evaluation.latent_dimensions.KL_DRAWS", 10**6)
    pair, x = hierarchical(inference), binary(40).repeat(12, 1)
    layers = {site: latent_units(pair, x, site=site, num_samples=50) for site in ("z1", "z2")}
    total = sum(u.kl.sum().item() for u in layers.values())
    # The spread of log q / p at a draw is about 2 at most, over 40 x 600 draws each.
    want = elbo_terms(pair, x, num_samples=150).kl.mean
    assert total == pytest.approx(want, abs=5 * 2 / math.sqrt(40 * 600))
    assert layers["z1"].kl.shape == (3,)
    assert layers["z2"].kl.shape == (2,)
    with pytest.raises(ValueError, match="site must name one"):
        latent_units(pair, x)
    first = "z1" if inference == "bottom-up" else "z2"
    mean = pair.posterior(x).mean
    torch.testing.assert_close(layers[first].activity, mean.var(0).detach())


class Chain(nn.Module):
    """q(z1|x) = N(x, ½²), q(z2|z1) = N(z1, 0.3²); p(z2) = N(0, 1), p(z1|z2) = N(2 z2, 1)."""

    def __init__(self, generative):
        super().__init__()
        self.generative = generative

    def forward(self, x):
        def normal(loc, scale):
            return dist.Normal(loc, scale).to_event(1)

        with pyro.plate("data", len(x)):
            if self.generative:
                z2 = pyro.sample("z2", normal(torch.zeros(1), 1.0))
                z1 = pyro.sample("z1", normal(2 * z2, 1.0))
                pyro.sample("x", normal(z1, 1.0), obs=x)
            else:
                z1 = pyro.sample("z1", normal(x, 0.5))
                pyro.sample("z2", normal(z1, 0.3))


class ChainPair:
    def __init__(self):
        self.model, self.guide = Chain(True), Chain(False)


def test_layers_that_depend_on_each_other_against_closed_forms(float64):
    x = torch.randn(4000, 1)
    got = {s: latent_units(ChainPair(), x, site=s, num_samples=6) for s in ("z1", "z2")}
    square = x.square().mean().item()
    # E_q (z1 - 2 z2)² = x² + 0.25 + 0.36, as z1 - 2 z2 = -z1 - 0.6 ε
    kl_1 = 0.5 * (square + 0.61) - 0.5 - math.log(0.5)
    kl_2 = 0.5 * (0.09 + square + 0.25 - 1) - math.log(0.3)
    for site, kl in (("z1", kl_1), ("z2", kl_2)):
        unit = got[site]
        # given x the spread is of the order of that over data
        assert unit.kl.item() == pytest.approx(kl, abs=4 * unit.kl_standard_error.item())
        assert 0 < unit.kl_standard_error.item() < 0.05
    # The mean of z2 over 3 draws of z1 has a variance of 0.25 / 3, which must not count.
    variance = x.var().item()
    assert got["z1"].activity.item() == pytest.approx(variance)
    error = math.sqrt(4 * variance * 0.25 / 3 / 4000)
    assert got["z2"].activity.item() == pytest.approx(variance, abs=5 * error)


def test_latent_units_needs_two_data():
    with pytest.raises(ValueError, match="2 data or more"):
        latent_units(vae(), binary(1))
    with pytest.raises(ValueError, match="num_samples must be 2 or more"):
        latent_units(vae(), binary(4), num_samples=1)
    with pytest.raises(ValueError, match="threshold must be finite and at least 0"):
        latent_units(vae(), binary(4), threshold=-1.0)
