"""Annealed importance sampling and bidirectional Monte Carlo against closed forms."""

import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from evaluated import (
    ORACLES,
    Programs,
    conditional,
    falls,
    hierarchical,
    linear_vae,
    normal_of,
    unchecked,
    within,
)
from pairs import C, D, binary, ssvae, vae

from ppl_vae.estimators.traces import is_enumerated
from ppl_vae.evaluation import Estimate, annealing, traced_batch
from ppl_vae.evaluation.annealing import (
    BidirectionalBounds,
    annealed_importance_sampling,
    bidirectional_monte_carlo,
    schedule,
)
from ppl_vae.evaluation.hmc import Joint, State, StepSizes, transition
from ppl_vae.evaluation.traced_batch import row_limit, traced
from ppl_vae.testing import (
    DiscreteLinearGaussian,
    LinearGaussian,
    MixturePriorLinearGaussian,
    TwoLayerLinearGaussian,
)


@pytest.fixture
def little_tuning(monkeypatch):
    """Tune steps on few transitions, from a size nearer the tuned ones."""
    monkeypatch.setattr(annealing, "_FEWEST_TUNED", 5)
    monkeypatch.setattr(annealing, "_WARM_UP", 3)
    monkeypatch.setattr(annealing, "_FIRST_STEP", 0.4)


@pytest.fixture
def one_batch(monkeypatch):
    """Move all data at once, whatever that does to the memory."""
    monkeypatch.setattr(traced_batch, "row_limit", lambda _: 50_000)


# --- transitions ----------------------------------------------------------------------------------


def test_densities_are_those_of_prior_guide_and_joint(float64):
    oracle, x = TwoLayerLinearGaussian(3, 2, 2), torch.randn(5, 3)
    batch = traced("test", oracle, (x,), {})
    values = {"z1": torch.randn(7, 5, 2), "z2": torch.randn(7, 5, 2)}
    log_joint = oracle.log_joint(x, **values)
    log_q = log_joint - oracle.log_weight(x, **values)
    log_prior = log_joint - oracle.model.likelihood.log_density(x, values["z1"])
    for start, log_start in (("prior", log_prior), ("posterior", log_q)):
        got = Joint("test", batch, start).log_densities(values)
        torch.testing.assert_close(got[0], log_start)
        torch.testing.assert_close(got[1], log_joint)


@pytest.mark.parametrize("where", ["guide", "model"])
def test_labels_are_summed_out_of_start_and_joint(where, float64):
    oracle, x = DiscreteLinearGaussian(3, 2, enumerate=where), torch.randn(5, 3)
    batch = traced("test", oracle, (x,), {})
    values = {"z": torch.randn(7, 5, 2)}
    log_joint = oracle.log_joint(x, **values)
    log_start, got = Joint("test", batch, "prior").log_densities(values)
    torch.testing.assert_close(got, log_joint)
    torch.testing.assert_close(log_start, oracle.model.prior.log_density(values["z"]))
    if where == "guide":
        labels = torch.arange(3)[:, None, None].expand(3, 7, 5)
        weight = oracle.log_weight(x, y=labels, z=values["z"])
        log_q = oracle.log_joint(x, y=labels, z=values["z"]) - weight  # of z given y
        log_start, _ = Joint("test", batch, "posterior").log_densities(values)
        mixture = (log_q + oracle.log_qy(x).T[:, None]).logsumexp(0)
        torch.testing.assert_close(log_start, mixture)


@pytest.mark.parametrize(("beta", "size"), [(0.2, 1.1), (1.0, 0.7)])
def test_transitions_leave_a_normal_invariant(beta, size, float64):
    oracle, chains = LinearGaussian(3, 2), 20_000
    x = torch.randn(1, 3)
    joint = Joint("test", traced("test", oracle, (x,), {}), "prior")
    # f_β ∝ p(z) p(x | z)^β is normal
    prior, likelihood = oracle.model.prior.closed_form(), oracle.model.likelihood.closed_form()
    noise = torch.linalg.inv(likelihood.covariance)
    before = torch.linalg.inv(prior.covariance)
    precision = before + beta * likelihood.weight.T @ noise @ likelihood.weight
    covariance = torch.linalg.inv(precision).detach()
    shifted = (x - likelihood.bias) @ noise @ likelihood.weight
    mean = (covariance @ (before @ prior.loc.reshape(-1) + beta * shifted.reshape(-1))).detach()
    target = dist.MultivariateNormal(mean, covariance)
    state = State.at(joint, {"z": target.sample((chains, 1))})
    first = state.values["z"]
    step = torch.full((1, 1), size)
    with torch.no_grad():
        for _ in range(8):
            state, probability = transition(joint, state, beta, step, 3)
    z = state.values["z"][:, 0]
    assert 0.3 < probability.mean() < 0.9  # wrong without accepting and refusing
    assert (z == first[:, 0]).all(-1).double().mean() < 0.05
    assert within(z.T, mean)
    centred = z - mean
    for i, j in ((0, 0), (0, 1), (1, 1)):
        assert within(centred[:, i] * centred[:, j], covariance[i, j])
    torch.testing.assert_close(state.log_joint, oracle.log_joint(x, z=state.values["z"]).detach())


def test_small_steps_keep_the_energy(float64):
    oracle, x = LinearGaussian(3, 2), torch.randn(1, 3)
    joint = Joint("test", traced("test", oracle, (x,), {}), "prior")
    state = State.at(joint, joint.sample(500))
    refused = []
    for step in (0.2, 0.1, 0.05):
        torch.manual_seed(1)
        n = round(1 / step)
        _, probability = transition(joint, state, 1.0, torch.full((1, 1), step), n)
        refused.append(1 - probability.detach().mean().item())
    # the error of leapfrog is of second order
    for coarse, fine in itertools.pairwise(refused):
        assert coarse / fine == pytest.approx(4, rel=0.25)


def test_steps_and_acceptance_are_per_datum(float64):
    oracle = LinearGaussian(3, 2)
    x = torch.randn(1, 3).expand(3, 3)
    joint = Joint("test", traced("test", oracle, (x,), {}), "prior")
    state = State.at(joint, joint.sample(200))
    step = torch.tensor([[1e-3, 0.5, 1e200]])  # the last diverges
    with torch.no_grad(), pyro.validation_enabled(False):
        moved, probability = transition(joint, state, 0.5, step, 5)
    assert (probability[:, 0] > 0.999).all()
    assert 0.5 < probability[:, 1].mean() < 0.999
    assert (probability[:, 2] == 0).all()
    assert torch.equal(moved.values["z"][:, 2], state.values["z"][:, 2])
    assert moved.values["z"].isfinite().all()


def test_step_sizes_between_temperatures(float64):
    steps = StepSizes([0.2, 0.6], torch.tensor([[0.0, 2.0], [1.0, 2.0]]))
    for beta, log_step in ((0.1, 0.0), (0.2, 0.0), (0.3, 0.25), (0.6, 1.0), (0.9, 1.0)):
        expected = torch.tensor([[log_step, 2.0]]).exp()
        torch.testing.assert_close(steps.at(beta), expected)


@pytest.mark.parametrize("num_temperatures", [1, 2, 7, 1000])
def test_the_schedule_goes_from_0_to_1(num_temperatures):
    betas = schedule(num_temperatures)
    assert len(betas) == num_temperatures + 1
    assert (betas[0], betas[-1]) == (0.0, 1.0)
    gaps = [b - a for a, b in itertools.pairwise(betas)]
    assert min(gaps) > 0
    assert gaps == pytest.approx(gaps[::-1])
    if num_temperatures > 2:
        assert gaps[0] == pytest.approx(min(gaps))
        half = 1 / (1 + math.exp(-4 * (2 * 3 / num_temperatures - 1)))
        low, high = 1 / (1 + math.exp(4)), 1 / (1 + math.exp(-4))
        assert betas[3] == pytest.approx((half - low) / (high - low))


# --- annealed importance sampling -----------------------------------------------------------------


@unchecked
@pytest.mark.parametrize(
    ("name", "start"),
    [(name, "prior") for name in ORACLES]
    + [(name, "posterior") for name in ("subsampled", "mixture prior", "y in the guide")],
)
def test_the_mean_weight_is_the_evidence_for_any_number_of_temperatures(
    name, start, little_tuning, one_batch, float64
):
    oracle, copies = ORACLES[name](), 80
    x = torch.randn(2, 3).repeat_interleave(copies, 0)
    exact = oracle.log_px(x).detach()
    result = annealed_importance_sampling(
        oracle, x, num_chains=8, num_temperatures=6, leapfrog_steps=3, start=start
    )
    ratio = (result.log_px - exact).exp().reshape(2, copies)
    assert within(ratio, 1.0)
    assert (ratio.std(1) / math.sqrt(copies) < 0.15).all()
    assert ((result.acceptance > 0.1) & (result.acceptance < 1)).all()


def test_the_estimate_is_within_its_error_of_the_evidence(float64):
    oracle, x = MixturePriorLinearGaussian(3, 2), torch.randn(30, 3)
    result = annealed_importance_sampling(oracle, x, num_temperatures=30, leapfrog_steps=2)
    z = (result.log_px - oracle.log_px(x).detach()) / result.standard_error
    assert z.abs().max() < 5  # of 30, and an error bar from 16 chains
    assert z.abs().median() < 1.2
    assert result.standard_error.median() < 0.5
    assert ((result.ess > 1) & (result.ess <= 16)).all()
    # tuned to 65 %
    assert 0.55 < result.acceptance.mean() < 0.75


@unchecked
def test_more_temperatures_help_a_distant_start(little_tuning, one_batch, float64):
    oracle, x = LinearGaussian(8, 2), 2 * torch.randn(250, 8)
    exact, errors = oracle.log_px(x).detach(), []
    for num_temperatures in (1, 7, 50):
        result = annealed_importance_sampling(
            oracle, x, num_chains=8, num_temperatures=num_temperatures, leapfrog_steps=3
        )
        errors.append((result.log_px - exact).abs())
    assert falls(errors[0], errors[1])
    assert falls(errors[1], errors[2])


def test_one_temperature_from_the_guide_is_importance_sampling(float64):
    oracle = LinearGaussian(3, 2, full_rank=True)
    oracle.set_exact_guide()
    x = torch.randn(4, 3)
    result = annealed_importance_sampling(oracle, x, num_temperatures=1, start="posterior")
    torch.testing.assert_close(result.log_px, oracle.log_px(x).detach(), rtol=1e-10, atol=1e-10)
    assert (result.standard_error < 1e-7).all()
    torch.testing.assert_close(result.ess, torch.full((4,), 16.0))
    assert result.acceptance.isnan().all()


LABELS = torch.tensor([0, 2, 1])
PAIRS = {
    "standard": (vae, ()),
    "mixture": (lambda: vae("mixture"), ()),
    "vamp": (lambda: vae("vamp"), ()),
    "spline": (lambda: vae("spline", "spline flow"), ()),
    "full rank": (lambda: vae("full-rank normal", "full rank"), ()),
    "mixture posterior": (lambda: vae(posterior="mixture posterior"), ()),
    "y unobserved": (ssvae, ()),
    "y observed": (lambda: ssvae(alpha=5.0), (LABELS,)),
    "y partly observed": (ssvae, (torch.tensor([0, -1, 1]),)),
    "p(z|y)": (lambda: ssvae("normal given y"), ()),
    "conditional": (conditional, (LABELS,)),
    "bottom-up": (hierarchical, ()),
    "top-down": (lambda: hierarchical("top-down"), ()),
}


def simple_monte_carlo(pair, x, *context, mask=None):
    """log mean p(x | z) over draws from the prior, with its standard error: no transitions."""
    result = annealed_importance_sampling(
        pair, x, *context, mask=mask, num_chains=600, num_temperatures=1, seed=9
    )
    return result.log_px, result.standard_error


@unchecked
@pytest.mark.parametrize(
    ("name", "start"),
    [(name, "prior") for name in PAIRS]
    + [("full rank", "posterior")]
    + [
        pytest.param(name, "posterior", marks=pytest.mark.slow)
        for name in ("y partly observed", "p(z|y)", "top-down")
    ],
)
def test_every_pair_agrees_with_simple_monte_carlo(name, start, little_tuning, float64):
    make, context = PAIRS[name]
    pair, x = make(), binary(3)
    far = start == "posterior"  # the guide is not trained
    annealed = annealed_importance_sampling(
        pair,
        x,
        *context,
        num_chains=64 if far else 32,
        num_temperatures=15 if far else 8,
        leapfrog_steps=3 if far else 2,
        start=start,
    )
    log_px, error = simple_monte_carlo(pair, x, *context)
    error = (annealed.standard_error**2 + error**2).sqrt()
    assert ((annealed.log_px - log_px).abs() < 4.5 * error).all()
    assert (error < 0.3).all()


def test_missing_entries_are_marginalised(little_tuning, float64):
    pair, x, mask = vae(), binary(4), torch.rand(4, D) < 0.5
    annealed = annealed_importance_sampling(
        pair, torch.where(mask, x, math.nan), mask=mask, num_temperatures=10, leapfrog_steps=2
    )
    log_px, error = simple_monte_carlo(pair, x, mask=mask)
    error = (annealed.standard_error**2 + error**2).sqrt()
    assert ((annealed.log_px - log_px).abs() < 4.5 * error).all()
    everything, _ = simple_monte_carlo(pair, x)
    assert (everything < annealed.log_px - 4.5 * error).any()


def nested(x):
    """A latent for each entry, in an inner plate: p(x) is a product of N(0, 1.25)."""
    with pyro.plate("data", len(x), dim=-2):
        shift = pyro.sample("shift", dist.Normal(torch.zeros(len(x), 1, 1), 0.5).to_event(1))
        with pyro.plate("inner", x.shape[1], dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z + shift[..., 0], 0.5), obs=x)


def nested_guide(x):
    with pyro.plate("data", len(x), dim=-2):
        pyro.sample("shift", dist.Normal(torch.zeros(len(x), 1, 1), 0.7).to_event(1))
        with pyro.plate("inner", x.shape[1], dim=-1):
            pyro.sample("z", dist.Normal(0.8 * x, 0.6))


@unchecked
@pytest.mark.parametrize("start", ["prior", "posterior"])
def test_inner_plates(start, little_tuning, float64):
    x = torch.randn(1, 3).expand(60, 3)
    covariance = 1.25 * torch.eye(3) + 0.25
    exact = dist.MultivariateNormal(torch.zeros(3), covariance).log_prob(x)
    result = annealed_importance_sampling(
        Programs(nested, nested_guide), x, num_temperatures=10, leapfrog_steps=2, start=start
    )
    assert within((result.log_px - exact).exp(), 1.0)
    assert result.standard_error.median() < 0.6


def test_rows_are_bounded_and_chains_vectorised(little_tuning):
    pair, x = ssvae(), binary(70)
    rows = []
    pair.likelihood.net.register_forward_hook(lambda m, i, out: rows.append(out[..., 0].numel()))
    annealed_importance_sampling(pair, x, num_temperatures=3, leapfrog_steps=1)
    assert row_limit(x) / 2 < max(rows) <= row_limit(x)


def test_draws_depend_on_the_seed_alone_and_leave_no_trace(little_tuning):
    pair, x = vae(), binary()
    pair.posterior.eval()
    modes = [m.training for m in pair.modules()]
    before = torch.get_rng_state()

    def run(seed):
        return annealed_importance_sampling(
            pair, x, num_temperatures=5, leapfrog_steps=2, seed=seed
        )

    first = run(3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    again, other = run(3), run(4)
    assert torch.equal(first.log_px, again.log_px)
    assert (first.log_px != other.log_px).all()
    assert [m.training for m in pair.modules()] == modes
    assert all(p.grad is None for p in pair.parameters())
    assert pyro.infer.util.is_validation_enabled()
    assert torch.distributions.Distribution._validate_args
    assert first.log_px.dtype == torch.float32


def test_the_infer_dictionary_of_a_program_is_unchanged(little_tuning):
    shared = {"enumerate": "parallel"}

    def model(x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(torch.ones(2)), infer=dict(shared))
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z + y, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    pair = Programs(model, guide)
    batch = traced("test", pair, (torch.zeros(3),), {})
    joint = Joint("test", batch, "prior")
    joint.sample(2)
    values = {"z": torch.zeros(2, 3)}
    joint.log_densities(values)
    assert shared == {"enumerate": "parallel"}
    trace = batch.run(pair.model, 2)
    assert is_enumerated(trace.nodes["y"])


# --- bidirectional Monte Carlo --------------------------------------------------------------------


@unchecked
@pytest.mark.parametrize(
    "name",
    ["subsampled", "y in the guide"]
    + [pytest.param(n, marks=pytest.mark.slow) for n in ("mixture prior", "two layers")],
)
def test_both_bounds_hold_in_expectation(name, little_tuning, one_batch, float64):
    oracle, n = ORACLES[name](), 110
    bounds = bidirectional_monte_carlo(
        oracle, n, num_chains=6, num_temperatures=20, leapfrog_steps=3, like=torch.zeros(n, 3)
    )
    exact = oracle.log_px(bounds.x).detach()
    assert within((bounds.lower - exact).exp(), 1.0)
    assert within((exact - bounds.upper).exp(), 1.0)
    below, above = exact - bounds.lower, bounds.upper - exact
    for difference in (below, above):
        assert difference.mean() > -3 * difference.std() / math.sqrt(n)
    assert bounds.gap.mean() > 0
    torch.testing.assert_close(bounds.gap, below + above)


@unchecked
@pytest.mark.parametrize("start", [pytest.param("prior", marks=pytest.mark.slow), "posterior"])
def test_the_bounds_converge_with_temperatures(start, little_tuning, one_batch, float64):
    pair, n = linear_vae(6, scale=0.3), 200
    gaps = []
    for num_temperatures in (2, 7, 28):
        bounds = bidirectional_monte_carlo(
            pair, n, num_chains=8, num_temperatures=num_temperatures, leapfrog_steps=3, start=start
        )
        exact = normal_of(pair).log_prob(bounds.x)
        for difference in (exact - bounds.lower, bounds.upper - exact):
            assert difference.mean() > -3 * difference.std() / math.sqrt(n)
        gaps.append(bounds.gap)  # of the same data each time
    assert falls(gaps[0], gaps[1])
    assert falls(gaps[1], gaps[2])
    assert gaps[2].mean() < 1


@unchecked
@pytest.mark.parametrize("name", ["mixture", "y unobserved", "p(z|y)", "bottom-up"])
def test_pairs_draw_their_own_data(name, little_tuning, one_batch, float64):
    pair = PAIRS[name][0]()
    bounds = bidirectional_monte_carlo(
        pair, 40, num_chains=8, num_temperatures=10, leapfrog_steps=2
    )
    assert bounds.x.shape == (40, D)
    assert bounds.gap.mean() > -3 * bounds.gap.std() / math.sqrt(40)
    assert bounds.gap.mean() < 1
    log_px, _ = simple_monte_carlo(pair, bounds.x)
    assert within((bounds.lower - log_px).exp(), 1.0)
    assert within((log_px - bounds.upper).exp(), 1.0)


@unchecked
def test_simulated_data_keep_their_conditions(little_tuning, one_batch, float64):
    pair, labels = conditional(), torch.arange(60) % C
    bounds = bidirectional_monte_carlo(pair, 60, labels, num_temperatures=10, leapfrog_steps=2)
    log_px, _ = simple_monte_carlo(pair, bounds.x, labels)
    assert within((bounds.lower - log_px).exp(), 1.0)
    assert within((log_px - bounds.upper).exp(), 1.0)


def test_batches_keep_the_latents_of_their_data(float64, monkeypatch):
    oracle, n, drawn = LinearGaussian(3, 2), 150, []

    def recorded(*args):
        drawn.append(simulated(*args))
        return drawn[0]

    simulated = annealing.simulated
    monkeypatch.setattr(annealing, "simulated", recorded)
    bounds = bidirectional_monte_carlo(
        oracle, n, num_chains=40, num_temperatures=1, like=torch.zeros(n, 3)
    )  # 50 data at a time
    (x, sites), *_ = drawn
    assert torch.equal(bounds.x, x)
    # with one temperature the weight of the way back is that of the latents themselves
    log_likelihood = oracle.model.likelihood.log_density(x, sites["z"]["value"]).detach()
    torch.testing.assert_close(bounds.upper, log_likelihood)


def test_text_of_the_results():
    bounds = BidirectionalBounds(torch.tensor([-3.0, -2.0]), torch.tensor([-2.0, -1.5]), binary(2))
    assert torch.equal(bounds.gap, torch.tensor([1.0, 0.5]))
    assert "-2.50 ± 0.50 ≤ log p(x) ≤ -1.75 ± 0.25" in str(bounds)
    ones = torch.ones(2)
    result = annealing.AnnealedLikelihood(torch.tensor([-3.0, -2.0]), ones, 7 * ones, 0.5 * ones)
    assert result.nll == Estimate.of(torch.tensor([3.0, 2.0]))
    assert result.bits_per_dim((2,)).mean == pytest.approx(2.5 / 2 / math.log(2))
    assert "2.50 ± 0.50 nats per datum" in str(result)
    assert "ESS 7.0 chains, acceptance 0.50" in str(result)


# --- refusals -------------------------------------------------------------------------------------


def program(prior, *, scored=True):
    def run(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", prior())
            if scored:
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    return run


def pair_of(prior):
    return Programs(program(prior), program(prior, scored=False))


def labels_only(x):
    with pyro.plate("data", len(x)):
        y = pyro.sample("y", dist.Categorical(torch.ones(2)), infer={"enumerate": "parallel"})
        pyro.sample("x", dist.Normal(1.0 * y, 1.0), obs=x)


def ais(pair, x=None, **options):
    options = {"num_temperatures": 2, "leapfrog_steps": 1} | options
    return annealed_importance_sampling(pair, torch.zeros(3) if x is None else x, **options)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: ais(pair_of(lambda: dist.LogNormal(0.0, 1.0))),
            NotImplementedError,
            r"'z' must be real .* got the support GreaterThan\(lower_bound=0.0\).*transform",
        ),
        (
            lambda: ais(pair_of(lambda: dist.Poisson(1.0))),
            NotImplementedError,
            "'z' must be real .* got the support .*'enumerate': 'parallel'",
        ),
        (
            lambda: ais(Programs(labels_only, lambda x: None)),
            NotImplementedError,
            "no continuous latent; log_likelihood sums",
        ),
        (
            lambda: ais(
                Programs(program(lambda: dist.Normal(0.0, 1.0)), lambda x: None), start="posterior"
            ),
            ValueError,
            "'z' is not in the guide.*start='prior'",
        ),
        (lambda: ais(vae(), binary(0)), ValueError, "x must hold at least one datum"),
        (lambda: ais(vae(), binary(), num_chains=0), ValueError, "num_chains"),
        (lambda: ais(vae(), binary(), num_temperatures=0), ValueError, "num_temperatures"),
        (lambda: ais(vae(), binary(), leapfrog_steps=0), ValueError, "leapfrog_steps"),
        (lambda: ais(vae(), binary() + 0.5), ValueError, "outside the support"),
        (
            lambda: bidirectional_monte_carlo(LinearGaussian(3, 2), 4),
            TypeError,
            "LatentModel has no argument size.*like=",
        ),
        (
            lambda: bidirectional_monte_carlo(LinearGaussian(3, 2), 4, like=torch.zeros(3, 3)),
            ValueError,
            "like must have num_data=4 entries",
        ),
    ],
)
def test_invalid_calls_raise(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_an_unknown_start_raises(as_users_see_it):
    with pytest.raises(ValueError, match=r"start must be one of .*'posterior'.*got 'guide'"):
        ais(vae(), binary(), start="guide")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_density_that_is_not_finite_names_the_datum(value, little_tuning):
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.factor("x", torch.where(x == 2, value, -z * z))

    pair = Programs(model, program(lambda: dist.Normal(0.0, 1.0), scored=False))
    with (
        pyro.validation_enabled(False),
        pytest.raises(ValueError, match=f"sampling: log weight {value} for datum 2"),
    ):
        ais(pair, torch.arange(5.0))


def test_an_empty_guide_starts_from_the_prior(little_tuning, float64):
    """Starting from p(z), no guide is needed."""
    pair = Programs(program(lambda: dist.Normal(0.0, 1.0)), lambda x: None)
    x = torch.randn(1).expand(100)
    result = ais(pair, x, num_temperatures=5, leapfrog_steps=2)
    exact = dist.Normal(0.0, math.sqrt(2)).log_prob(x)
    assert within((result.log_px - exact).exp(), 1.0)
