"""Refined draws of the posterior against closed forms, and when draws are left as they are."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from evaluated import (
    ORACLES,
    Programs,
    as_vae,
    conditional,
    diagonal,
    full_rank,
    hierarchical,
    linear_vae,
    unchecked,
    within,
)
from pairs import binary, code_vae, ssvae, vae

from ppl_vae.data import Dataset
from ppl_vae.evaluation import (
    HamiltonianMonteCarlo,
    ImportanceResampling,
    LocalOptimisation,
    chains,
    posterior_draws,
    refined_draws,
    traced_batch,
)
from ppl_vae.evaluation.pareto import pareto_k, smoothed, tail_size
from ppl_vae.testing import LinearGaussian, TwoLayerLinearGaussian

FEW = HamiltonianMonteCarlo(num_chains=8, warm_up=25, leapfrog_steps=3)
SHORT = HamiltonianMonteCarlo(num_chains=2, warm_up=3, leapfrog_steps=2)


def latents(result):
    """Return the draws of z, or of (z1, z2), ``(draws, data, dimensions)``."""
    names = ("z1", "z2") if "z1" in result.draws else ("z",)
    return torch.cat([result.draws[name] for name in names], -1)


def moments(result, exact):
    """Return per copy of a datum the mean draw and the mean product of centred dimensions."""
    z = latents(result) - exact.mean
    products = (z[..., :, None] * z[..., None, :]).flatten(-2)
    return z.mean(0).T, products.mean(0).T


def covariance(oracle, x):
    """Return the exact covariance of the posterior, flat."""
    p = oracle.posterior(x[:1])
    if hasattr(p, "covariance_matrix"):
        return p.covariance_matrix[0].flatten().detach()
    parts, w = p.component_distribution, p.mixture_distribution.probs[0, :, None, None]
    shift = parts.loc[0] - p.mean[0]
    total = (w * (parts.covariance_matrix[0] + shift[:, :, None] * shift[:, None])).sum(0)
    return total.flatten().detach()


@pytest.fixture
def one_batch(monkeypatch):
    """Draw for all data at once."""
    for module in (traced_batch, chains, refined_draws):
        monkeypatch.setattr(module, "row_limit", lambda _: 50_000)


# --- against closed forms -------------------------------------------------------------------------


@unchecked
@pytest.mark.parametrize("name", ORACLES)
def test_resampled_draws_are_those_of_the_posterior(name, one_batch, float64):
    """Over copies of a datum, whose draws are independent."""
    oracle, copies = ORACLES[name](), 60
    x = torch.randn(1, 3).expand(copies, 3)
    exact = oracle.posterior(x)
    plain = moments(posterior_draws(oracle, x, num_samples=300), exact)
    options = {"num_samples": 300, "refine": ImportanceResampling(2000)}
    refined = posterior_draws(oracle, x, **options)
    assert refined.refined.all()
    mean, products = moments(refined, exact)
    assert within(mean, 0.0)
    assert within(products, covariance(oracle, x)[:, None].squeeze(1))
    assert not within(plain[0], 0.0)  # which the guide's are not
    assert not within(plain[1], covariance(oracle, x))


@unchecked
@pytest.mark.filterwarnings("ignore:posterior_draws")  # of 10 draws each
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            n, marks=() if n in ("linear", "y in the guide", "two layers") else pytest.mark.slow
        )
        for n in ORACLES
    ],
)
def test_chains_draw_from_the_posterior(name, one_batch, float64):
    oracle, copies = ORACLES[name](), 60
    x = torch.randn(1, 3).expand(copies, 3)
    exact = oracle.posterior(x)
    result = posterior_draws(oracle, x, num_samples=80, refine=FEW)
    mean, products = moments(result, exact)
    assert within(mean, 0.0)
    assert within(products, covariance(oracle, x))
    assert 0.6 < result.acceptance.mean() < 0.95  # tuned to 80 %, in few steps
    assert result.refined.all()
    assert result.pareto_k is None
    assert "y" not in result.draws  # summed out


@unchecked
@pytest.mark.filterwarnings("ignore:posterior_draws")  # a few of 300
def test_intervals_of_refined_draws_cover_what_the_guide_misses(one_batch, float64):
    """A guide of three quarters of the scales: ±1.28 · 0.75 standard deviations cover 66 %."""
    oracle, number = LinearGaussian(4, 2), 300
    x, z = simulated(oracle, number)
    wrong = misplaced(oracle, 0.75)
    error = 4 * math.sqrt(0.8 * 0.2 / (2 * number))
    nominal = 2 * dist.Normal(0.0, 1.0).cdf(torch.tensor(0.75 * 1.2816)).item() - 1
    assert coverage(posterior_draws(wrong, x), z) == pytest.approx(nominal, abs=error)
    for refine in ("importance", HamiltonianMonteCarlo(20, 25, 3)):
        result = posterior_draws(wrong, x, num_samples=300, refine=refine)
        result.draws["z"] = result.draws["z"][:, result.refined]
        assert coverage(result, z[result.refined]) == pytest.approx(0.8, abs=error)


def simulated(oracle, number):
    """Draw x and z from the model."""
    data_dim = len(oracle.model.likelihood.bias)
    model = pyro.poutine.uncondition(oracle.model)
    trace = pyro.poutine.trace(model).get_trace(torch.zeros(number, data_dim))
    return trace.nodes["x"]["value"].detach(), trace.nodes["z"]["value"].detach()


@torch.no_grad()
def misplaced(oracle, factor, shift=0.0):
    """Make the guide the exact posterior's marginals, wider by a factor, shifted by scales."""
    exact, guide = oracle._exact_posterior(), oracle.guide.posterior
    scale = exact.covariance.diagonal().sqrt()
    guide.weight.copy_(exact.weight)
    guide.bias.copy_(exact.bias + shift * scale)
    guide.log_scale.copy_((factor * scale).log())
    return oracle


def coverage(result, z):
    """Return how many z lie in central intervals of 80 %, over data and dimensions."""
    low, high = result.draws["z"].quantile(torch.tensor([0.1, 0.9]), dim=0)
    return ((z > low) & (z < high)).double().mean().item()


@unchecked
def test_optimised_posteriors_become_exact_where_their_family_has_it(float64):
    """The optimiser's error is below 1e-2 of a standard deviation, see test_gaps."""
    oracle = LinearGaussian(4, 3, seed=10)
    pair = as_vae(oracle, full_rank(oracle._exact_posterior()))
    with torch.no_grad():
        pair.posterior.net.bias += 0.5 * torch.randn(9)
    x = torch.randn(1, 4).expand(20, 4)
    exact = oracle.posterior(x)
    plain = posterior_draws(pair, x, num_samples=250)
    result = posterior_draws(pair, x, num_samples=250, refine=LocalOptimisation(80, 0.2))
    assert within(moments(result, exact)[0], 0.0)
    assert within(moments(result, exact)[1], covariance(oracle, x))
    assert not within(moments(plain, exact)[0], 0.0)
    assert plain.ess.max() < 0.7 * 250
    assert result.ess.min() > 0.99 * 250
    assert (result.pareto_k <= 0.7).all()


@unchecked
def test_an_optimised_diagonal_posterior_keeps_the_approximation_gap(float64):
    """Its mean is the exact one, its variances 1 / Λ_dd, below the exact ones."""
    oracle = LinearGaussian(4, 3, seed=10)
    exact = oracle._exact_posterior()
    off = exact.bias + exact.covariance.diagonal().sqrt()
    pair = as_vae(oracle, diagonal(exact.weight, off, exact.covariance.diagonal().sqrt()))
    x = torch.randn(1, 4).expand(20, 4)
    result = posterior_draws(pair, x, num_samples=250, refine=LocalOptimisation(60, 0.2))
    mean, products = moments(result, oracle.posterior(x))
    variance = torch.linalg.inv(exact.covariance).diagonal().reciprocal().detach()
    # From a shift of one scale; gradients have noise here.
    assert (mean.mean(1).abs() < 0.1 * variance.sqrt()).all()
    torch.testing.assert_close(products.mean(1)[::4], variance, rtol=0.1, atol=0)
    assert (variance < 0.97 * covariance(oracle, x)[::4]).any()


# --- the gate -------------------------------------------------------------------------------------


def test_data_with_a_heavy_tail_keep_the_draws_of_the_guide(float64):
    oracle = misplaced(LinearGaussian(4, 2), 0.25)
    x, _ = simulated(oracle, 10)
    plain = posterior_draws(oracle, x)
    with pytest.warns(UserWarning, match=r"k̂ > 0.7 for \d+ of 10 data: their draws are those of"):
        gated = posterior_draws(oracle, x, refine="importance")
    heavy = gated.pareto_k > 0.7
    assert heavy.sum() >= 3
    torch.testing.assert_close(gated.pareto_k, plain.pareto_k)
    assert torch.equal(gated.refined, ~heavy)
    assert torch.equal(gated.draws["z"][:, heavy], plain.draws["z"][:, heavy])
    assert not torch.equal(gated.draws["z"][:, ~heavy], plain.draws["z"][:, ~heavy])


@unchecked
def test_without_the_gate_intervals_cover_less_than_those_of_the_guide(monkeypatch, float64):
    """In many dimensions, where a few weights carry all: here of 60, each off by 0.5 scales."""
    oracle = misplaced(LinearGaussian(60, 60), 1.0, shift=0.5)
    x, z = simulated(oracle, 40)
    of_guide = coverage(posterior_draws(oracle, x, num_samples=300), z)
    with pytest.warns(UserWarning, match="k̂ > 0.7 for"):
        gated = posterior_draws(oracle, x, num_samples=300, refine=ImportanceResampling(300))
    monkeypatch.setattr(refined_draws, "UNRELIABLE", math.inf)
    ungated = posterior_draws(oracle, x, num_samples=300, refine=ImportanceResampling(300))
    error = math.sqrt(0.25 / 40)  # as if the dimensions of a datum agreed
    assert coverage(gated, z) == pytest.approx(of_guide, abs=error)
    assert coverage(ungated, z) < of_guide - 3 * error


def test_too_few_particles_for_a_k_keep_the_draws_of_the_guide(float64):
    oracle, x = LinearGaussian(3, 2), torch.randn(2, 3)
    with pytest.warns(UserWarning, match="was not computed, as it needs num_particles=25, for 2"):
        result = posterior_draws(oracle, x, num_samples=5, refine=ImportanceResampling(24))
    assert not result.refined.any()
    assert result.unreliable.all()
    plain = posterior_draws(oracle, x, num_samples=24).draws["z"]
    assert torch.equal(result.draws["z"], plain[:5])
    assert "not computed" in repr(result)


# --- the diagnosis --------------------------------------------------------------------------------


def test_the_diagnosis_is_that_of_the_weights(float64):
    oracle, x = TwoLayerLinearGaussian(3, 2, 2), torch.randn(4, 3)
    result = posterior_draws(oracle, x, num_samples=400)
    log_w = oracle.log_weight(x, **result.draws).detach()
    w = log_w.exp()
    torch.testing.assert_close(result.ess, w.sum(0).square() / w.square().sum(0))
    largest = log_w.topk(tail_size(400) + 1, dim=0).values
    torch.testing.assert_close(result.pareto_k, pareto_k(largest, 400))
    assert not result.refined.any()
    assert result.r_hat is None


def test_smoothed_weights_are_those_of_arviz(float64):
    stats = pytest.importorskip("arviz_stats")
    # Of 400 draws ArviZ's tail is as long as ours, which is rounded up as in the paper.
    log_w = torch.randn(400, 6) * torch.linspace(0.3, 3, 6)
    got, k = smoothed(log_w)
    base = stats.base.array_stats
    for column in range(6):
        want, want_k = base.psislw(-log_w[:, column].numpy())
        torch.testing.assert_close(
            got[:, column].log_softmax(0),
            torch.as_tensor(want).log_softmax(0),
            rtol=1e-8,
            atol=1e-8,
        )
        assert k[column].item() == pytest.approx(float(want_k), abs=1e-8)


def test_few_or_equal_weights_are_left_as_they_are(float64):
    few, same = torch.randn(20, 3), torch.zeros(100, 3)
    assert torch.equal(smoothed(few)[0], few)
    assert smoothed(few)[1].isnan().all()
    assert torch.equal(smoothed(same)[0], same)
    assert (smoothed(same)[1] == -math.inf).all()


def test_r_hat_and_ess_of_chains_are_those_of_arviz(float64):
    stats = pytest.importorskip("arviz_stats")
    noise = torch.randn(4, 200, 3, 2)
    values = noise.clone()
    for t in range(1, 200):  # autocorrelated
        values[:, t] = 0.7 * values[:, t - 1] + noise[:, t]
    values[0, :, 2, 1] += 3  # a chain elsewhere
    values[0, :, 1, 0] *= 4  # a wider one
    r_hat, ess = chains.mixing(values)
    base = stats.base.array_stats
    for datum in range(3):
        each = [values[:, :, datum, d] for d in range(2)]
        each = [t.numpy() for z in each for t in (z, (z - z.mean()).square())]
        want = max(float(base.rhat(z, method="split")) for z in each)
        assert r_hat[datum].item() == pytest.approx(want, rel=1e-3)
        least = min(float(base.ess(z, method="mean")) for z in each)
        if datum == 0:  # its own splits chains, which matters where they do not mix
            assert ess[datum].item() == pytest.approx(least, rel=0.15)
    assert r_hat[0] < 1.1
    assert (r_hat[1:] > 1.1).all()
    alternating = values * (-1.0) ** torch.arange(200)[:, None, None]
    _, ess = chains.mixing(alternating[..., :2, :])
    assert ((ess > 0) & (ess <= 800 * math.log10(800))).all()
    values[1, :, 0, 0] = 0.5
    r_hat, ess = chains.mixing(values)
    assert r_hat[0].isnan()
    assert ess[0].isnan()


def modes(x):
    """p(z | x) is half at -3 and half at 3, whatever x."""
    with pyro.plate("data", len(x)):
        mixture = dist.MixtureSameFamily(
            dist.Categorical(torch.ones(2)), dist.Normal(torch.tensor([-3.0, 3.0]), 0.2)
        )
        pyro.sample("z", mixture.expand([len(x)]))
        pyro.sample("x", dist.Normal(torch.zeros(()), 1.0), obs=x)


def both(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(torch.zeros(()), 3.0).expand([len(x)]))


@unchecked
def test_chains_that_stay_in_their_modes_are_told(float64):
    x = torch.zeros(3)
    with pytest.warns(UserWarning, match=r"R-hat > 1.05 for 3 of 3 data .*chains have not mixed"):
        result = posterior_draws(Programs(modes, both), x, num_samples=80, refine=FEW)
    assert (result.r_hat > 3).all()
    assert result.unreliable.all()
    assert result.chains("z").shape == (8, 10, 3)
    assert (result.chains("z").std(1) < 1).all()
    assert "R-hat" in repr(result)


@unchecked
@pytest.mark.filterwarnings("ignore:posterior_draws")
def test_step_sizes_are_of_the_scale_of_each_dimension(float64):
    """Of scales 100 and 0.01, which one step size cannot serve."""
    scale = torch.tensor([100.0, 0.01])

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), scale).to_event(1))
            pyro.sample("x", dist.Normal((z / scale).sum(-1), 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(2), scale).to_event(1))

    result = posterior_draws(
        Programs(model, guide), torch.randn(1).expand(20), num_samples=240, refine=FEW
    )
    assert (result.r_hat < 1.3).all()
    assert result.ess.mean() > 50


# --- any pair -------------------------------------------------------------------------------------

LABELS = torch.tensor([0, 2, 1])
PAIRS = {
    "vamp": (lambda: vae("vamp"), ()),
    "spline": (lambda: vae("spline", "spline flow"), ()),
    "y unobserved": (ssvae, ()),
    "y partly observed": (ssvae, (torch.tensor([0, -1, 1]),)),
    "conditional": (conditional, (LABELS,)),
    "bottom-up": (hierarchical, ()),
    "top-down": (lambda: hierarchical("top-down"), ()),
}


@unchecked
@pytest.mark.filterwarnings("ignore:posterior_draws")
@pytest.mark.parametrize(
    "refine",
    [
        None,
        pytest.param(ImportanceResampling(30), marks=pytest.mark.slow),
        SHORT,
        LocalOptimisation(2),
    ],
)
@pytest.mark.parametrize("name", PAIRS)
def test_every_pair_has_draws_of_its_sites(name, refine):
    make, context = PAIRS[name]
    pair, x = make(), binary(3)
    refused = {"bottom-up": "one continuous latent", "top-down": "one continuous latent"}
    refused |= {"y unobserved": "guide infers 'y'", "y partly observed": "guide infers 'y'"}
    if isinstance(refine, LocalOptimisation) and name in refused:
        with pytest.raises(NotImplementedError, match=refused[name]):
            posterior_draws(pair, x, *context, num_samples=8, refine=refine)
        return
    result = posterior_draws(pair, x, *context, num_samples=8, refine=refine)
    shapes = {site: tuple(z.shape) for site, z in result.draws.items()}
    z = {"z1": (8, 3, 3), "z2": (8, 3, 2)} if hasattr(pair, "conditionals") else {"z": (8, 3, 2)}
    y = {"y": (8, 3)} if name.startswith("y ") and not isinstance(refine, type(SHORT)) else {}
    assert shapes == {**z, **y}
    assert result.ess.shape == (3,)
    assert (result.chains("z1" if "z1" in z else "z").shape[0] == 2) == (refine is SHORT)
    if name == "y partly observed" and y:
        assert (result.draws["y"][:, 0] == 0).all()


@unchecked
def test_missing_entries_are_left_out(float64):
    pair = linear_vae(4, 0.5)
    mask = torch.tensor([True, True, False, True]).expand(50, 4)
    x = torch.where(mask, torch.randn(1, 4), math.nan)
    result = posterior_draws(pair, x, mask=mask, num_samples=200, refine=ImportanceResampling(2000))
    decoder = pair.likelihood.net
    w, b = decoder.weight[mask[0]].detach(), decoder.bias[mask[0]].detach()
    precision = torch.eye(2) + w.T @ w / 0.25
    exact = torch.linalg.solve(precision, w.T @ (x[0, mask[0]] - b) / 0.25)
    assert within(result.draws["z"].mean(0).T, exact)


def test_data_sets_are_taken_and_batches_change_nothing(monkeypatch):
    pair, x = vae(), binary(5)
    whole = posterior_draws(pair, Dataset(x), num_samples=30)
    assert torch.equal(whole.draws["z"], posterior_draws(pair, x, num_samples=30).draws["z"])
    for module in (traced_batch, refined_draws):
        monkeypatch.setattr(module, "row_limit", lambda _: 60)  # two data at a time
    parts = posterior_draws(pair, x, num_samples=30)
    assert parts.draws["z"].shape == (30, 5, 2)
    assert torch.equal(parts.draws["z"].mean(0).isfinite(), torch.ones(5, 2, dtype=torch.bool))


@unchecked
@pytest.mark.filterwarnings("ignore:posterior_draws")
@pytest.mark.parametrize("refine", [None, "importance"])
@pytest.mark.parametrize("y", [[1, 1, -1, -1, 2], [-1, -1, 1, 0], [1, 1, 0, 2]])
def test_a_batch_with_all_labels_has_draws_of_them_if_another_lacks_some(y, refine, monkeypatch):
    for module in (traced_batch, refined_draws):
        monkeypatch.setattr(module, "row_limit", lambda _: 200)  # two data at a time, then one
    y = torch.tensor(y)
    result = posterior_draws(ssvae(), binary(len(y)), y, num_samples=100, refine=refine)
    assert result.draws["z"].shape == (100, len(y), 2)
    if (y < 0).any():
        assert result.draws["y"].shape == (100, len(y))
        assert (result.draws["y"] >= 0).all()
        assert (result.draws["y"] == y)[:, y >= 0].all()
    else:
        assert list(result.draws) == ["z"]


@unchecked
@pytest.mark.parametrize("refine", [None, "importance", SHORT, LocalOptimisation(2)])
@pytest.mark.filterwarnings("ignore:posterior_draws")
def test_draws_depend_on_the_seed_alone_and_leave_no_trace(refine):
    pair, x = vae("vamp"), binary(3)
    before, modes_before = torch.get_rng_state(), [m.training for m in pair.modules()]

    def run(seed):
        return posterior_draws(pair, x, num_samples=8, refine=refine, seed=seed).draws["z"]

    first = run(0)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert torch.equal(run(0), first)
    assert not torch.equal(run(1), first)
    assert not first.requires_grad
    assert all(p.grad is None for p in pair.parameters())
    assert [m.training for m in pair.modules()] == modes_before
    assert pyro.infer.util.is_validation_enabled()


# --- what cannot be done --------------------------------------------------------------------------


def counted(x):
    with pyro.plate("data", len(x)):
        k = pyro.sample("k", dist.Poisson(torch.ones(())))
        pyro.sample("x", dist.Normal(k, 1.0), obs=x)


def counted_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("k", dist.Poisson(2 * torch.ones(len(x))))


def test_discrete_latents_are_resampled_and_refused_otherwise(float64):
    pair, x = Programs(counted, counted_guide), torch.full((40,), 1.5)
    result = posterior_draws(pair, x, refine=ImportanceResampling(2000), num_samples=300)
    k = torch.arange(30.0)
    posterior = (dist.Poisson(1.0).log_prob(k) + dist.Normal(k, 1.0).log_prob(x[0])).softmax(0)
    assert within(result.draws["k"].mean(0), (k * posterior).sum())
    with pytest.raises(NotImplementedError, match=r"'k' must be real .*'enumerate': 'parallel'"):
        posterior_draws(pair, x, refine="hmc")
    with pytest.raises(NotImplementedError, match=r"needs continuous latents, .* infers 'k'"):
        posterior_draws(pair, x, refine="optimise")
    of_importance, of_bound = "use .* refine='importance'", "use elbo_terms"
    for values, reason in (
        ("binary", f"Boolean.*; {of_importance}"),
        ("vectors", f"a codebook.*; {of_bound}"),
    ):
        with pytest.raises(NotImplementedError, match=reason):
            posterior_draws(code_vae(values).double(), binary(3), refine="hmc")


def test_what_cannot_be_refined_is_refused(float64):
    oracle, x = LinearGaussian(3, 2), torch.randn(2, 3)
    with pytest.raises(TypeError, match=r"posterior_draws: guide\.posterior must be a Neural"):
        posterior_draws(oracle, x, refine="optimise")
    with pytest.raises(
        ValueError, match="num_samples must be a multiple of num_chains=4, at least"
    ):
        posterior_draws(oracle, x, num_samples=10, refine="hmc")
    with pytest.raises(
        ValueError, match="num_samples must be a multiple of num_chains=4, at least"
    ):
        posterior_draws(oracle, x, num_samples=12, refine="hmc")

    def prior_only(x):
        pass

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    with pytest.raises(ValueError, match="'z' is not in the guide, whose draws the chains start"):
        posterior_draws(Programs(model, prior_only), torch.zeros(3), refine="hmc", num_samples=16)


def test_a_weight_that_is_not_finite_names_the_datum():
    pair = Programs(counted, counted_guide)
    with pyro.validation_enabled(False), pytest.raises(ValueError, match="for datum 1"):
        posterior_draws(pair, torch.tensor([0.0, math.nan]))
