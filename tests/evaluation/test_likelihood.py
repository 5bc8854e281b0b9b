"""log p(x) by importance sampling against closed forms; its error bars, k̂ and refusals."""

import math
import warnings

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from evaluated import (
    ORACLES,
    Programs,
    conditional,
    hierarchical,
    linear_vae,
    normal_of,
    unchecked,
    with_factor,
)
from pairs import (
    CONDITIONAL_PRIORS,
    LIKELIHOODS,
    POSTERIORS,
    PRIORS,
    C,
    binary,
    observations,
    ssvae,
    vae,
)
from pyro import poutine
from scipy import stats

from ppl_vae.evaluation import (
    Estimate,
    bits_per_dim,
    likelihood,
    traced_batch,
    weight_statistics,
)
from ppl_vae.evaluation.likelihood import LogLikelihood, log_likelihood
from ppl_vae.evaluation.pareto import MIN_SAMPLES, pareto_k, shape, tail_size
from ppl_vae.evaluation.traced_batch import TracedBatch
from ppl_vae.evaluation.weight_statistics import WeightStatistics
from ppl_vae.testing import (
    DiscreteLinearGaussian,
    LinearGaussian,
)


def quiet(*args, **kwargs):
    """Return the result without the warning on k̂."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return log_likelihood(*args, **kwargs)


def binomial_bounds(n, probability=0.95, tail=1e-4):
    binomial = stats.binom(n, probability)
    return binomial.ppf(tail), binomial.ppf(1 - tail)


@pytest.fixture
def large_blocks(monkeypatch):
    """Run many data at once, whatever that does to the memory."""
    for module in (likelihood, traced_batch):
        monkeypatch.setattr(module, "row_limit", lambda _: 50_000)


# --- the estimate ---------------------------------------------------------------------------------


@unchecked
@pytest.mark.parametrize("name", ORACLES)
def test_the_mean_weight_is_the_evidence_and_error_bars_cover_it(name, large_blocks, float64):
    oracle, data, copies = ORACLES[name](), 2, 100
    x = torch.randn(data, 3).repeat_interleave(copies, 0)
    exact = oracle.log_px(x).detach()
    result = quiet(oracle, x, num_samples=400)
    ratio = (result.log_px - exact).exp().reshape(data, copies)
    error = ratio.std(1) / math.sqrt(copies)
    assert ((ratio.mean(1) - 1).abs() < 4 * error).all()
    assert (error < 0.03).all()
    covered = int(((result.log_px - exact).abs() < 1.96 * result.standard_error).sum())
    # where the tail is heavy (k̂ above 1/2) the error of the error makes intervals too short
    low, high = binomial_bounds(data * copies, 0.93 if name == "mixture prior" else 0.95)
    assert low <= covered <= high


@unchecked
def test_the_error_bar_is_the_spread_over_seeds(float64):
    oracle, x = LinearGaussian(3, 2), torch.randn(1, 3)
    results = [log_likelihood(oracle, x, num_samples=200, seed=seed) for seed in range(100)]
    spread = torch.cat([r.log_px for r in results]).std()
    claimed = torch.cat([r.standard_error for r in results]).square().mean().sqrt()
    # the standard deviation of 100 numbers is known to about 1 in √200
    assert spread.item() == pytest.approx(claimed.item(), rel=4 / math.sqrt(200))


@pytest.mark.parametrize("make", [LinearGaussian, DiscreteLinearGaussian])
@pytest.mark.parametrize(("num_samples", "chunk_size"), [(1, None), (30, 7), (1501, None), (30, 1)])
def test_any_chunking_gives_the_evidence_at_the_exact_posterior(
    make, num_samples, chunk_size, float64
):
    oracle = make(3, 2, full_rank=True)
    oracle.set_exact_guide()
    x = torch.randn(5, 3)
    log_px = quiet if num_samples == 1 else log_likelihood
    result = log_px(oracle, x, num_samples=num_samples, chunk_size=chunk_size)
    torch.testing.assert_close(result.log_px, oracle.log_px(x).detach(), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(result.ess, torch.full((5,), float(num_samples)))
    if num_samples > 1:
        assert (result.standard_error < 1e-7).all()
        assert result.unreliable == 0


def test_y_is_summed_and_not_averaged_over_its_guide(float64):
    oracle = DiscreteLinearGaussian(3, 2, full_rank=True)
    oracle.set_exact_guide()
    with torch.no_grad():  # any q(y | x) will do, though the bound would suffer
        oracle.guide.weight.zero_()
        oracle.guide.bias.copy_(torch.tensor([3.0, -40.0, 0.0]))
    x = torch.randn(5, 3)
    result = log_likelihood(oracle, x, num_samples=30)
    torch.testing.assert_close(result.log_px, oracle.log_px(x).detach(), rtol=1e-10, atol=1e-10)


def test_y_enumerated_after_z_is_summed(large_blocks, float64):
    weights = torch.tensor([0.2, 0.5, 0.3])
    locs = torch.tensor([-1.0, 0.5, 3.0])

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            y = pyro.sample("y", dist.Categorical(weights))
            pyro.sample("x", dist.Normal(z + locs[y], 0.5), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.3 * x, 1.5))
            q_y = dist.Categorical(logits=torch.stack([-z, z, 0 * z], -1))
            pyro.sample("y", q_y, infer={"enumerate": "parallel"})

    x = torch.tensor([-2.0, 0.0, 1.0, 4.0])
    exact = (weights.log() + dist.Normal(locs, math.sqrt(1.25)).log_prob(x[:, None])).logsumexp(1)
    result = log_likelihood(Programs(model, guide), x, num_samples=20_000)
    assert ((result.log_px - exact).abs() < 4 * result.standard_error).all()
    assert (result.standard_error < 0.02).all()


def test_log_px_is_the_sum_of_log_pxy_over_labels(large_blocks, float64):
    pair, x = ssvae(alpha=50.0), binary(4)
    whole = quiet(pair, x, num_samples=4000)
    labelled = [quiet(pair, x, torch.full((4,), c), num_samples=4000, seed=1 + c) for c in range(C)]
    summed = torch.stack([r.log_px for r in labelled]).logsumexp(0)
    error = sum(r.standard_error for r in [whole, *labelled])
    assert ((whole.log_px - summed).abs() < 4 * error).all()
    assert (error < 0.4).all()  # the average over q(y | x) would be off by log 3


def test_the_classification_term_is_left_out(float64):
    pair, x, y = ssvae(alpha=1.0), binary(4), torch.tensor([0, 2, -1, 1])
    with_it = quiet(pair, x, y, num_samples=50)
    without = quiet(pair.replace(classification_weight=0.0), x, y, num_samples=50)
    assert torch.equal(with_it.log_px, without.log_px)


def test_a_masked_datum_counts_nothing(float64):
    mask = torch.tensor([True, False, True])
    x = torch.randn(3, 3)
    for where in ("guide", "model"):
        oracle = DiscreteLinearGaussian(3, 2, enumerate=where, mask=mask)
        result = log_likelihood(oracle, x, num_samples=100)
        assert result.log_px[1].item() == pytest.approx(0, abs=1e-12)
        assert (result.log_px[mask] < -1).all()


def test_missing_entries_are_marginalised(large_blocks, float64):
    pair, x = linear_vae(4, scale=0.8), torch.randn(5, 4)
    mask = torch.rand(5, 4) < 0.6
    mask[0] = True
    exact = torch.stack(
        [
            normal_of(pair, m).log_prob(row[m]) if m.any() else torch.zeros(())
            for row, m in zip(x, mask, strict=True)
        ]
    )
    result = quiet(pair, torch.where(mask, x, math.nan), mask=mask, num_samples=20_000)
    assert ((result.log_px - exact).abs() < 4.5 * result.standard_error).all()
    assert (result.standard_error < 0.05).all()


# --- what is streamed -----------------------------------------------------------------------------


def generalised_pareto_by_loops(excesses):
    """Zhang & Stephens' estimate of one sample, with their sign turned."""
    e = sorted(float(v) for v in excesses)
    n, points = len(e), 30 + int(math.sqrt(len(excesses)))
    quartile = e[int(n / 4 + 0.5) - 1]
    thetas = [
        1 / e[-1] + (1 - math.sqrt(points / (j - 0.5))) / (3 * quartile)
        for j in range(1, points + 1)
    ]

    def k(theta):
        return sum(math.log1p(-theta * v) for v in e) / n

    profiles = [n * (math.log(-theta / k(theta)) - k(theta) - 1) for theta in thetas]
    weights = np.exp(np.array(profiles) - max(profiles))
    return k(float(np.dot(weights, thetas) / weights.sum()))


def k_by_loops(log_w):
    """k̂ of one datum from all of its weights."""
    w = np.sort(np.exp(log_w - log_w.max()))
    size = math.ceil(min(0.2 * len(w), 3 * math.sqrt(len(w))))
    k = generalised_pareto_by_loops(w[-size:] - w[-size - 1])
    return (size * k + 5) / (size + 10)


@pytest.mark.parametrize("chunk_size", [None, 64, 1])
@pytest.mark.parametrize("name", ["linear", "y in the guide"])
def test_statistics_equal_those_of_all_weights_at_once(name, chunk_size, float64, monkeypatch):
    oracle, x, samples = ORACLES[name](), torch.randn(9, 3), 100
    kept = []

    def recorded(batch, num_particles):
        log_w = summed(batch, num_particles)
        kept.append((batch.start, log_w))
        return log_w

    summed = TracedBatch.log_weights
    monkeypatch.setattr(TracedBatch, "log_weights", recorded)
    monkeypatch.setattr(weight_statistics, "_AT_ONCE", 1)  # they are summed in two parts
    result = log_likelihood(oracle, x, num_samples=samples, chunk_size=chunk_size)
    starts = sorted({start for start, _ in kept})
    log_w = torch.cat([torch.cat([w for s, w in kept if s == start]) for start in starts], 1)
    assert log_w.shape == (samples, 9)
    w = log_w.exp()
    torch.testing.assert_close(result.log_px, w.mean(0).log(), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(result.ess, w.sum(0) ** 2 / (w**2).sum(0), rtol=1e-10, atol=0)
    error = w.std(0) / math.sqrt(samples) / w.mean(0)
    torch.testing.assert_close(result.standard_error, error, rtol=1e-8, atol=0)
    k = torch.tensor([k_by_loops(column) for column in log_w.T.numpy()])
    torch.testing.assert_close(result.pareto_k, k, rtol=1e-8, atol=1e-8)


def test_weights_far_apart_and_very_small_do_not_underflow():
    log_w = torch.tensor([[-1e5], [-1e5 + 1], [-2e5], [-math.inf]], dtype=torch.float64)
    sums = WeightStatistics(4)
    for part in log_w.split(1):
        sums.add(part)
    assert sums.log_mean.item() == pytest.approx(-1e5 + math.log((1 + math.e) / 4), rel=1e-14)
    assert sums.ess.item() == pytest.approx((1 + math.e) ** 2 / (1 + math.e**2))
    w = np.array([1, math.e, 0, 0])
    assert sums.standard_error.item() == pytest.approx(w.std(ddof=1) / 2 / w.mean())


def test_only_the_tail_is_kept():
    sums = WeightStatistics(5000)
    for _ in range(10):
        sums.add(torch.randn(500, 3))
    assert sums._largest.shape == (tail_size(5000) + 1, 3) == (214, 3)


def test_one_sample_has_no_error_bar(float64):
    result = quiet(LinearGaussian(3, 2), torch.randn(4, 3), num_samples=1)
    assert result.standard_error.isnan().all()
    assert result.pareto_k.isnan().all()
    assert (result.ess == 1).all()
    assert "error of the mean not computed: a single sample" in str(result)


def test_too_few_samples_for_pareto_k_are_warned_of(float64):
    """With too few samples nothing is known to be reliable, and it is said so."""
    oracle, x = LinearGaussian(3, 2), torch.randn(4, 3)
    few = MIN_SAMPLES - 1
    with pytest.warns(
        UserWarning, match=f"k̂ not computed: fewer than 25 samples, got num_samples={few}"
    ):
        result = log_likelihood(oracle, x, num_samples=few)
    assert not result.has_pareto_k
    assert result.unreliable == 4
    assert str(result).endswith("k̂ not computed: fewer than 25 samples)")
    assert quiet(oracle, x, num_samples=MIN_SAMPLES).has_pareto_k


def largest_batches(module):
    """Record how many rows the module's last layer returns."""
    rows = []
    module.register_forward_hook(lambda m, i, out: rows.append(out[..., 0].numel()))
    return rows


@pytest.mark.parametrize(
    ("data", "num_samples", "chunk_size"), [(3, 5000, None), (2100, 1, None), (50, 100, 30)]
)
@pytest.mark.parametrize("make", [vae, ssvae])
def test_networks_see_a_bounded_number_of_rows(make, data, num_samples, chunk_size):
    pair, x = make(), binary(data)
    decoder, encoder = (largest_batches(p.net) for p in (pair.likelihood, pair.posterior))
    quiet(pair, x, num_samples=num_samples, chunk_size=chunk_size)
    limit = traced_batch.row_limit(x)
    assert limit == 1000
    assert limit / 2 < max(decoder) <= limit
    assert max(encoder) <= limit
    classes = C if make is ssvae else 1
    assert sum(decoder) >= data * num_samples * classes


def test_at_most_chunk_size_particles_of_a_datum():
    pair = vae()
    rows = largest_batches(pair.likelihood.net)
    quiet(pair, binary(3), num_samples=100, chunk_size=10)
    assert max(rows) == 30


# --- k̂ --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [-0.6, 0.0, 0.3, 0.7, 1.3])
def test_the_shape_of_a_generalised_pareto_is_recovered(k):
    samples = stats.genpareto(k, scale=2.5).rvs((20_000, 3), random_state=1)
    found = shape(torch.from_numpy(-np.sort(-samples, 0)))
    # the asymptotic standard error of the maximum-likelihood estimate, k above -1/2
    assert (found - k).abs().max() < 4 * max(1 + k, 0.5) / math.sqrt(20_000)
    likeliest, _, _ = stats.genpareto.fit(samples[:, 0], 0.1, floc=0)
    assert found[0].item() == pytest.approx(likeliest, abs=0.2 * (1 + abs(k)) / math.sqrt(200))
    few = np.sort(samples[:500, 0])
    found = shape(torch.from_numpy(few[::-1, None].copy()))
    assert found.item() == pytest.approx(generalised_pareto_by_loops(few), abs=1e-9)


@pytest.mark.parametrize("k", [0.2, 0.5, 0.9])
def test_weights_with_a_pareto_tail_have_its_shape(k, float64):
    samples, data = 50_000, 20
    log_w = -k * torch.rand(samples, data).log()  # P(w > t) = t^(-1/k), times a constant
    largest = (log_w + 123.0).topk(tail_size(samples) + 1, 0).values
    found = pareto_k(largest, samples)
    size = tail_size(samples)
    wanted = (size * k + 5) / (size + 10)
    assert found.mean().item() == pytest.approx(wanted, abs=5 * (1 + k) / math.sqrt(size * data))
    assert found.std() < 2 * (1 + k) / math.sqrt(size)


def test_a_proposal_too_narrow_has_a_heavy_tail_and_one_too_wide_none(float64):
    def target(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(8), 1.0).to_event(1))

    def proposal(scale):
        def guide(x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(torch.zeros(8), scale).to_event(1))

        return guide

    x = torch.zeros(12)
    wide = log_likelihood(Programs(target, proposal(1.3)), x, num_samples=2000)
    assert (wide.pareto_k < 0.5).all()
    with pytest.warns(UserWarning, match=r"k̂ > 0.7 for (\d+) of 12 data") as caught:
        narrow = log_likelihood(Programs(target, proposal(0.4)), x, num_samples=2000)
    assert narrow.unreliable == int((narrow.pareto_k > 0.7).sum()) > 6
    message = str(caught[0].message)
    assert f"for {narrow.unreliable} of 12" in message
    assert "more than num_samples=2000" in message
    assert "annealed_importance_sampling" in message


def test_k_at_its_limits(float64):
    few = MIN_SAMPLES - 1
    assert pareto_k(torch.randn(few, 2).sort(0, descending=True).values, few).isnan().all()
    enough = torch.randn(6, 2).sort(0, descending=True).values
    assert pareto_k(enough, MIN_SAMPLES).isfinite().all()
    assert (pareto_k(torch.full((6, 2), -7.0), MIN_SAMPLES) == -math.inf).all()
    nearly_none = torch.full((6, 1), -math.inf)
    nearly_none[:3, 0] = torch.tensor([3.0, 2.0, 1.0])
    assert (pareto_k(nearly_none, MIN_SAMPLES) == math.inf).all()


def test_ties_at_the_bottom_of_the_tail_are_not_excesses(float64):
    top = torch.linspace(3, 1, 30)[:, None]
    tied = torch.cat([top, torch.zeros(tail_size(1000) - 29, 1)])
    k = shape((tied.exp() - 1)[:-1])
    torch.testing.assert_close(k, shape(top.exp() - 1), rtol=1e-12, atol=0)
    assert pareto_k(tied, 1000).isfinite().all()


def test_tail_sizes():
    assert [tail_size(s) for s in (1, 25, 100, 225, 226, 5000)] == [1, 5, 20, 45, 46, 213]


# --- every pair, and state ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        *(lambda p=p: (vae(prior=p), binary(3)) for p in PRIORS),
        *(lambda q=q: (vae(posterior=q), binary(3)) for q in POSTERIORS),
        *(lambda p=p: (ssvae(prior=p), binary(3)) for p in CONDITIONAL_PRIORS),
        *(lambda k=k: (vae(likelihood=k), observations(k, 3)) for k in LIKELIHOODS),
    ],
)
def test_every_prior_posterior_and_likelihood(make):
    pair, x = make()
    result = quiet(pair, x, num_samples=40)
    for values in (result.log_px, result.standard_error, result.ess, result.pareto_k):
        assert values.shape == (3,)
        assert values.dtype == torch.float32
        assert values.isfinite().all()
    assert not result.log_px.requires_grad


def test_conditional_and_hierarchical_pairs(float64):
    pair, labels = conditional(), torch.arange(7) % C
    result = quiet(pair, binary(), labels, num_samples=300)
    other = quiet(pair, binary(), (labels + 1) % C, num_samples=300)
    assert (result.log_px != other.log_px).all()
    assert quiet(hierarchical(), binary(), num_samples=300).log_px.isfinite().all()


def test_draws_depend_on_the_seed_alone_and_leave_no_trace():
    pair, x = vae(), binary()
    pair.posterior.eval()
    modes = [m.training for m in pair.modules()]
    before = torch.get_rng_state()
    first = quiet(pair, x, num_samples=50, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    again = quiet(pair, x, num_samples=50, seed=3)
    other = quiet(pair, x, num_samples=50, seed=4)
    assert torch.equal(first.log_px, again.log_px)
    assert torch.equal(first.pareto_k, again.pareto_k)
    assert (first.log_px != other.log_px).all()
    assert [m.training for m in pair.modules()] == modes
    assert all(p.grad is None for p in pair.parameters())


def test_dropout_is_off(float64):
    oracle = LinearGaussian(3, 2, full_rank=True)
    oracle.set_exact_guide()
    seen = []
    oracle.model.register_forward_hook(lambda m, *_: seen.append(m.training))
    log_likelihood(oracle.train(), torch.randn(2, 3), num_samples=30)
    assert seen
    assert not any(seen)
    assert oracle.model.training


def test_text_of_the_result():
    log_px = torch.tensor([-80.0, -90.0])
    k = torch.tensor([0.2, 0.9])
    result = LogLikelihood(log_px, torch.tensor([0.3, 0.4]), torch.tensor([7.0, 9.0]), k)
    assert result.nll == Estimate.of(-log_px)
    assert result.bits_per_dim((28, 28)) == bits_per_dim(Estimate.of(-log_px), (28, 28))
    dequantised = result.bits_per_dim((2,), dequantised_levels=4)
    assert dequantised.mean == pytest.approx(85 / 2 / math.log(2) + 2)
    assert result.unreliable == 1
    assert "85.00 ± 5.00 nats per datum over 2 data" in str(result)
    assert "error of the mean 0.25" in str(result)
    assert "k̂ > 0.7 for 1 data" in str(result)


def test_the_progress_bar_counts_data_times_samples(capsys):
    quiet(vae(), binary(3), num_samples=400, progress=True)
    assert "IS-400" in capsys.readouterr().err
    quiet(vae(), binary(3), num_samples=400)
    assert not capsys.readouterr().err


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_weight_that_is_not_finite_names_the_datum(value):
    pair = with_factor(lambda x, z: torch.where((x > 600) & (z > 0), value, -x + 0 * z))
    x = torch.arange(700.0)
    message = rf"log_likelihood: log weight {value} for datum 601, and \d+ more of its batch"
    with pytest.raises(ValueError, match=message), pyro.validation_enabled(False):
        log_likelihood(pair, x, num_samples=20)


def test_weights_of_zero_are_allowed_unless_all_are(float64):
    some = with_factor(lambda x, z: torch.where(z > 0, 0 * z, -math.inf))
    with pyro.validation_enabled(False):
        result = log_likelihood(some, torch.zeros(4), num_samples=4000)
        # half of the weights are 1 and half 0
        assert ((result.log_px - math.log(0.5)).abs() < 4 * result.standard_error).all()
        assert result.standard_error[0].item() == pytest.approx(1 / math.sqrt(4000), rel=0.1)
        none = with_factor(lambda x, z: torch.where(x < 3, 0 * z, -math.inf))
        with pytest.raises(ValueError, match="log weight -inf for datum 3:"):
            log_likelihood(none, torch.arange(4.0), num_samples=100)


def raw(model, guide):
    return Programs(model, guide)


def normal_program(latent="z", size=2, site="x"):
    def program(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample(latent, dist.Normal(torch.zeros(size), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x)

    return program


def guide_program(latent="z", size=2):
    def program(x):
        with pyro.plate("data", len(x)):
            pyro.sample(latent, dist.Normal(torch.zeros(size), 1.0).to_event(1))

    return program


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: log_likelihood(vae(), binary(0)), ValueError, "x must hold at least one datum"),
        (lambda: log_likelihood(vae(), binary() + 0.5), ValueError, "outside the support"),
        (lambda: log_likelihood(vae(), binary() * math.nan), ValueError, "non-finite"),
        (lambda: log_likelihood(vae(), binary(), num_samples=0), ValueError, "num_samples"),
        (lambda: log_likelihood(vae(), binary(), chunk_size=0), ValueError, "chunk_size"),
        (lambda: log_likelihood(vae(), binary(), seed=True), TypeError, "seed must be an integer"),
        (
            lambda: log_likelihood(ssvae(), binary(), torch.zeros(3, dtype=torch.long)),
            ValueError,
            "x has 7 data, but a further argument is a tensor of shape \\(3,\\)",
        ),
        (
            lambda: log_likelihood(raw(normal_program(), guide_program(size=1)), torch.zeros(3)),
            ValueError,
            r"'z' must have the same event shape .* got \(2,\) and \(1,\)",
        ),
        (
            lambda: log_likelihood(raw(normal_program(), guide_program("w")), torch.zeros(3)),
            ValueError,
            "site 'w' of the guide is not in the model",
        ),
        (
            lambda: log_likelihood(LinearGaussian(3, 2, beta=0.5), torch.zeros(3, 3).double()),
            ValueError,
            "log-density of site 'z' is scaled by 0.5",
        ),
        (
            lambda: log_likelihood(
                raw(normal_program(), poutine.scale(guide_program(), 2.0)), torch.zeros(3)
            ),
            ValueError,
            "log-density of site 'z' is scaled by 2.0",
        ),
    ],
)
def test_invalid_calls_raise(call, error, message):
    with pytest.raises(error, match=message):
        call()
