"""Simulation-based calibration: guides that are exact, and guides that are wrong in a known way."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from evaluated import ORACLES, Programs, conditional, hierarchical
from pairs import C, D, binary, ssvae, vae
from torch import nn

from ppl_vae import VAE, likelihoods, nets, posteriors, priors
from ppl_vae.evaluation import Finding, calibration, guide_calibration, reliability
from ppl_vae.evaluation.calibration_result import counts_below
from ppl_vae.testing import DiscreteLinearGaussian, LinearGaussian

SIMULATIONS = 4000


@pytest.fixture(autouse=True)
def large_blocks(monkeypatch):
    """Simulate many data at once, which takes a fraction of the time for tiny networks."""
    monkeypatch.setattr(guide_calibration, "row_limit", lambda _: 200_000)


def normal_pair(width=1.0, shift=0.0, dims=2, masked=True):
    """Return programs z ~ N(0, 1), x_d ~ N(z, 1) for each entry of z, and their exact guide.

    The guide's standard deviation is multiplied by ``width``, and its mean is moved by ``shift``
    standard deviations; without ``masked`` it takes missing entries for observed zeros.
    """
    event = (dims, 3)

    def model(x=None, mask=None, size=None):
        size = len(x) if x is not None else size
        with pyro.plate("data", size):
            z = pyro.sample("z", dist.Normal(torch.zeros(dims), 1.0).to_event(1))
            p_x = dist.Normal(z[..., None].expand(*z.shape, 3), 1.0)
            mask = torch.ones(event).bool() if mask is None else mask
            pyro.sample("x", p_x.mask(mask).to_event(2), obs=x)

    def guide(x, mask=None):
        seen = torch.ones_like(x) if mask is None or not masked else mask.to(x)
        scale = (1 + seen.sum(-1)).rsqrt()
        loc = (x * seen).sum(-1) * scale**2
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc + shift * scale, width * scale).to_event(1))

    return Sized(model, guide)


class Sized(Programs):
    """Programs whose model has arguments by name."""

    def __init__(self, model, guide):
        super().__init__(model, guide)
        self.model = SizedModel(model)
        self.guide = MaskedGuide(guide)


class SizedModel(nn.Module):
    def __init__(self, program):
        super().__init__()
        self.program = program

    def forward(self, x=None, mask=None, size=None):
        self.program(x, mask, size)


class MaskedGuide(nn.Module):
    def __init__(self, program):
        super().__init__()
        self.program = program

    def forward(self, x, mask=None):
        self.program(x, mask)


# --- exact guides ---------------------------------------------------------------------------------


@pytest.mark.parametrize("labelled", [False, True])
def test_an_exact_guide_is_calibrated(labelled, float64):
    kind = DiscreteLinearGaussian if labelled else LinearGaussian
    oracle = kind(3, 2, full_rank=True)
    oracle.set_exact_guide()
    found = calibration(oracle, like=torch.zeros(SIMULATIONS, 3), num_draws=29)
    assert found.calibrated
    assert found.wrong == ()
    assert found.words == ""
    names = ("z_1", "z_2", "y", "log p(x, z)", "TARP") if labelled else found.names
    assert found.names == names
    assert found.p_value > 0.05
    if labelled:
        # of N calibrated predictions, up to the error of a bin's accuracy
        assert found.reliability["y"].error < 4 * math.sqrt(15 / SIMULATIONS / 4)
        assert found.reliability["y"].overall_accuracy.count == SIMULATIONS


def false_alarms(repetitions, simulations, num_draws):
    pair = normal_pair()
    alarms = 0
    for seed in range(repetitions):
        found = calibration(
            pair, num_simulations=simulations, num_draws=num_draws, seed=seed, level=0.8
        )
        alarms += not found.calibrated
        assert found.calibrated == (found.p_value > 0.2)
    return alarms / repetitions


def test_false_alarms_are_as_rare_as_stated(as_users_see_it):
    error = math.sqrt(0.2 * 0.8 / 60)
    assert 0 < false_alarms(60, 100, 9) < 0.2 + 4 * error


@pytest.mark.slow
@pytest.mark.parametrize(
    ("width", "shift", "word"),
    [(1.0, 0.0, ""), (0.9, 0.0, "too narrow"), (1.1, 0.0, "too wide"), (1.0, 0.3, "shifted up")],
)
def test_two_hundred_runs_with_the_default_settings(width, shift, word, as_users_see_it):
    oracle = LinearGaussian(3, 2, full_rank=True)
    oracle.set_exact_guide()
    q, like = oracle.guide.posterior, torch.zeros(1000, 3).double()
    with torch.no_grad():
        q.bias += shift * q.closed_form().covariance.diagonal().sqrt()
        q.log_scale += math.log(width)
        q.lower *= width
    runs = [calibration(oracle, like=like, seed=seed) for seed in range(200)]
    alarms = sum(not run.calibrated for run in runs)
    if word:
        assert alarms >= 195
        of_entries = [f.what for run in runs for z in ("z_1", "z_2") for f in run[z].findings]
        assert of_entries.count(word) > 0.95 * len(of_entries)
    else:
        assert 0 < alarms / 200 < 0.05 + 4 * math.sqrt(0.05 * 0.95 / 200)


def test_ranks_are_uniform_and_bands_contain_them(float64):
    found = calibration(normal_pair(), num_simulations=SIMULATIONS, num_draws=9)
    for quantity in found.quantities:
        counts = quantity.ranks.bincount(minlength=10) / SIMULATIONS
        assert ((counts - 0.1).abs() < 4 * math.sqrt(0.09 / SIMULATIONS)).all(), quantity.name
    torch.testing.assert_close(found.points, torch.arange(1, 10) / 10)
    assert ((found.lower <= found.points) & (found.points <= found.upper)).all()
    assert ((found.lower <= found.ecdf) & (found.ecdf <= found.upper)).all()
    assert (found.num_simulations, found.num_draws, found.level) == (SIMULATIONS, 9, 0.95)
    torch.testing.assert_close(found.expected_coverage, found.ecdf[found.names.index("TARP")])


# --- guides that are wrong in a known way ---------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "of_entries", "of_density"),
    [
        ({"width": 0.9}, "too narrow", "draws too probable: q too narrow"),
        ({"width": 1.1}, "too wide", "draws too improbable: q too wide, or off the posterior"),
        ({"shift": 0.3}, "shifted up", "draws too improbable: q too wide, or off the posterior"),
        ({"shift": -0.3}, "shifted down", "draws too improbable: q too wide, or off the posterior"),
    ],
)
def test_what_is_wrong_is_found_and_said(wrong, of_entries, of_density, float64):
    found = calibration(normal_pair(**wrong), num_simulations=SIMULATIONS, num_draws=49)
    assert not found.calibrated
    assert found["log p(x, z)"].words == of_density
    size = wrong.get("width") or abs(wrong["shift"])
    for name in ("z_1", "z_2"):
        (finding,) = found[name].findings
        assert finding.what == of_entries
        assert abs(finding.size - size) < 4 * finding.error
        assert finding.error < 0.03
    assert of_entries in repr(found)
    assert f"2 of 2 entries {of_entries}" in found.words
    assert found.p_value < 1e-4


def test_a_tenth_is_seen_in_a_thousand_simulations(as_users_see_it):
    """With the default settings, in nine of ten runs at least."""
    for width, word in ((0.9, "too narrow"), (1.1, "too wide")):
        pair = normal_pair(width, dims=4)
        runs = [calibration(pair, seed=seed) for seed in range(5)]
        assert sum(not run.calibrated for run in runs) >= 4
        wrong = [run["log p(x, z)"].words for run in runs if not run["log p(x, z)"].inside]
        assert all(word in words for words in wrong)


def test_a_guide_that_ignores_x_is_seen_by_the_density_alone(float64):
    """The prior as posterior has uniform ranks of z, which only functions of z and x tell apart."""

    def guide(x, mask=None):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).expand((len(x), 2)).to_event(1))

    pair = Sized(normal_pair().model.program, guide)
    covariance = {"z x": lambda z, x: (z * x.mean(-1)).sum(-1)}
    settings = {"num_simulations": SIMULATIONS, "num_draws": 29, "seed": 1}
    found = calibration(pair, **settings, statistics=covariance)
    assert {q.name for q in found.wrong} == {"log p(x, z)", "z x"}
    assert "shifted down" in found["z x"].words


def test_expected_coverage_is_that_of_its_definition(float64):
    """TARP of N(0, 1/4) for N(0, 1): shares of draws nearer a random point, by quadrature."""

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(torch.zeros(len(x), 1), 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(len(x), 1), 0.5).to_event(1))

    like, draws = torch.zeros(SIMULATIONS, 1), 19
    found = calibration(Programs(model, guide), like=like, num_draws=draws)
    grid = torch.linspace(-6, 6, 601)
    weight = torch.distributions.Normal(0.0, 1.0).log_prob(grid).exp() * 0.02
    point, z = grid[:, None], grid[None]
    radius = (z - point).abs()
    q = torch.distributions.Normal(0.0, 0.5)
    credibility = (q.cdf(point + radius) - q.cdf(point - radius)).clamp(0, 1)
    k = torch.arange(draws + 1)
    binomial = torch.distributions.Binomial(draws, credibility[..., None])
    pmf = (binomial.log_prob(k).exp() * weight[:, None, None] * weight[None, :, None]).sum((0, 1))
    expected = pmf.cumsum(0)[:-1]
    error = (expected * (1 - expected) / SIMULATIONS).sqrt()
    assert ((found.expected_coverage - expected).abs() < 4 * error).all()
    assert "too narrow" in found["TARP"].words
    # an exact guide's regions cover what they should: the diagonal
    exact = calibration(normal_pair(dims=1), num_simulations=SIMULATIONS, num_draws=draws, seed=1)
    assert exact["TARP"].inside
    assert exact.names == ("z", "log p(x, z)", "TARP")


@pytest.mark.parametrize("name", ["y in the guide", "y in the model", "two layers"])
def test_the_density_is_that_of_the_model(name, float64):
    """Its ranks are those of the oracle's closed form at the same values."""
    oracle = ORACLES[name]()

    def log_joint(z, x):
        return oracle.log_joint(x, **(z if isinstance(z, dict) else {"z": z}))

    found = calibration(
        oracle, like=torch.zeros(100, 3), num_draws=9, statistics={"exact": log_joint}
    )
    assert torch.equal(found["log p(x, z)"].ranks, found["exact"].ranks)


# --- labels, discrete latents, masks --------------------------------------------------------------


def test_labels_that_are_too_sure_are_overconfident(float64):
    oracle = DiscreteLinearGaussian(3, 2, full_rank=True)
    for factor, word in ((3.0, "overconfident"), (0.3, "underconfident")):
        oracle.set_exact_guide()
        with torch.no_grad():
            oracle.guide.weight.mul_(factor)
            oracle.guide.bias.mul_(factor)
        found = calibration(oracle, like=torch.zeros(SIMULATIONS, 3), num_draws=29)
        assert found["y"].words == word
        reliable = found.reliability["y"]
        sure = reliable.overall_confidence > reliable.overall_accuracy.mean
        assert sure == (word == "overconfident")
        assert reliable.error > 0.05
        assert "q(y|x)" in repr(found)


def discrete_pair(sharper=1.0):
    """Return programs of two 0/1 latents, x_d ~ N(z_d, 1), with their exact guide or a sharper."""

    def model(x=None, mask=None, size=None):
        size = len(x) if x is not None else size
        with pyro.plate("data", size):
            z = pyro.sample("z", dist.Bernoulli(torch.full((2,), 0.3)).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x, mask=None):
        logits = sharper * (math.log(0.3 / 0.7) + x - 0.5)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(logits=logits).to_event(1))

    return Sized(model, guide)


def test_ties_of_discrete_latents_are_broken_at_random(float64):
    found = calibration(discrete_pair(), num_simulations=SIMULATIONS, num_draws=19)
    assert found.calibrated
    assert found.names == ("z_1", "z_2", "log p(x, z)", "TARP")
    counts = found["z_1"].ranks.bincount(minlength=20) / SIMULATIONS
    assert ((counts - 0.05).abs() < 4 * math.sqrt(0.0475 / SIMULATIONS)).all()
    sharp = calibration(discrete_pair(4.0), num_simulations=SIMULATIONS, num_draws=19)
    assert "overconfident" in sharp["z_1"].words


def test_masks_are_what_the_guide_sees(float64):
    pattern = torch.tensor([[True, False, False], [True, True, False]])
    for mask in (pattern, torch.rand(SIMULATIONS, 2, 3) < 0.6):
        pair = normal_pair()
        settings = {"num_simulations": SIMULATIONS, "num_draws": 29, "mask": mask}
        assert calibration(pair, **settings).calibrated
        blind = calibration(normal_pair(masked=False), **settings)
        assert not blind.calibrated
        sums = {"sum": lambda z, x: x.sum((-1, -2)) + z[:, 0]}
        assert calibration(pair, **settings, statistics=sums)["sum"].inside


# --- any pair -------------------------------------------------------------------------------------


def test_every_pair_is_run_through_its_programs():
    y = torch.arange(30) % C
    z1_x = {"z1 x": lambda z, x: z["z1"].sum(-1) * x[:, 0]}
    runs = {
        ("z_1", "z_2", "log p(x, z)", "TARP"): [
            (vae(), ()),
            (conditional(), (y,)),
            (ssvae(), (y,)),
        ],
        ("z_1", "z_2", "y", "log p(x, z)", "TARP"): [(ssvae(), ())],
        ("z1_1", "z1_2", "z1_3", "z2_1", "z2_2", "log p(x, z)", "TARP", "z1 x"): [
            (hierarchical(), ())
        ],
    }
    for names, pairs in runs.items():
        for pair, context in pairs:
            number = {} if context else {"num_simulations": 30}
            statistics = z1_x if "z1 x" in names else None
            found = calibration(pair, *context, **number, num_draws=9, statistics=statistics)
            assert set(found.names) == set(names)
            assert found.num_simulations == 30
            assert found.ecdf.shape == (len(names), 9)


def test_labels_alone_have_no_regions(float64):
    """A mixture of three normals, whose guide is the exact q(y | x)."""
    log_p_y = torch.tensor([0.2, 0.5, 0.3]).log()

    def model(x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(logits=log_p_y), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(y.to(x)[..., None], 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            logits = log_p_y + dist.Normal(torch.arange(3.0), 1.0).log_prob(x)
            pyro.sample("y", dist.Categorical(logits=logits), infer={"enumerate": "parallel"})

    found = calibration(Programs(model, guide), like=torch.zeros(SIMULATIONS, 1), num_draws=29)
    assert found.names == ("y", "log p(x, z)")
    assert found.calibrated
    assert found.expected_coverage is None
    assert found.reliability["y"].overall_accuracy.count == SIMULATIONS


def test_latents_in_inner_plates_are_ranked_entry_by_entry(float64):
    """z of three entries and a count w, twice per datum, of which x is independent."""

    def latents():
        pyro.sample("w", dist.Poisson(3.0))
        return pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            with pyro.plate("inner", 2, dim=-2):
                z = latents()
            zero = 0 * z.sum(-1).sum(-2, keepdim=True)
            pyro.sample("x", dist.Normal(zero[..., None], 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1), pyro.plate("inner", 2, dim=-2):
            latents()

    first = {"first": lambda z, x: z["z"][:, 0, 0] + z["w"][:, 1] + x[:, 0]}
    like = torch.zeros(1000, 1)
    found = calibration(Programs(model, guide), like=like, num_draws=19, statistics=first)
    assert set(found.names) == {
        *(f"z_{i}" for i in range(1, 7)), "w_1", "w_2", "log p(x, z)", "TARP", "first",
    }  # fmt: skip
    assert found.calibrated


def test_blocks_seed_and_state(monkeypatch):
    pair = vae()
    before = torch.get_rng_state()
    first, same, other = (
        calibration(pair, num_simulations=25, num_draws=9, seed=s).ecdf for s in (3, 3, 4)
    )
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert torch.equal(before, torch.get_rng_state())
    rows = []
    run = guide_calibration.GuideRanks
    monkeypatch.setattr(guide_calibration, "row_limit", lambda _: 100)
    monkeypatch.setattr(
        guide_calibration,
        "GuideRanks",
        lambda owner, batch, *rest: rows.append(len(batch)) or run(owner, batch, *rest),
    )
    assert calibration(pair, num_simulations=25, num_draws=9).num_simulations == 25
    assert rows == [10, 10, 5]


def test_counts_below_are_counted():
    ranks = torch.tensor([[0, 3, 3, 1], [2, 2, 2, 2]])
    assert counts_below(ranks, 3).tolist() == [[1, 2, 2], [0, 0, 4]]


# --- refusals -------------------------------------------------------------------------------------


def missing_not_at_random():
    return VAE(
        prior=priors.StandardNormal(2),
        posterior=posteriors.DiagonalNormal(nets.MLP(D, 4)),
        likelihood=likelihoods.Normal(nets.MLP(2, D)),
        missingness=likelihoods.Bernoulli(nets.SelfMasking(D)),
    )


def not_in_the_guide():
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("w", dist.Normal(0.0, 1.0))
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 1.0).to_event(1))

    return Programs(model, guide)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: calibration(missing_not_at_random()), NotImplementedError, "missingness"),
        (
            lambda: calibration(not_in_the_guide(), like=torch.zeros(5, 1)),
            NotImplementedError,
            "the model draws 'w'",
        ),
        (
            lambda: calibration(ssvae(), torch.tensor([0, -1, 2])),
            NotImplementedError,
            "labels of all data or of none",
        ),
        (lambda: calibration(not_in_the_guide()), TypeError, "give like="),
        (
            lambda: calibration(
                vae(), num_simulations=9, statistics={"a": lambda z, x: z * math.nan}
            ),
            ValueError,
            r"statistic 'a' must return a tensor \(900,\)",
        ),
        (
            lambda: calibration(
                vae(), num_simulations=9, statistics={"a": lambda z, x: z[:, 0] * math.nan}
            ),
            ValueError,
            "a is NaN at 900 of 900 values",
        ),
        (
            lambda: calibration(vae(), num_simulations=9, mask=torch.ones(9, D + 1).bool()),
            ValueError,
            r"mask must have shape \(6,\) or \(9, 6\)",
        ),
    ],
)
def test_what_cannot_be_calibrated_is_refused(call, error, message, as_users_see_it):
    with pytest.raises(error, match=message):
        call()


def test_the_former_calls_give_the_reliability_of_labels():
    pair, x, y = ssvae(), binary(20), torch.arange(20) % C
    expected = reliability(pair, x, y, bins=4)
    with pytest.warns(DeprecationWarning, match="calls with data are deprecated; use reliability"):
        assert calibration(pair, x, y, bins=4).error == expected.error


def test_findings_have_sizes_with_units():
    assert str(Finding("too wide", 1.25, 0.02)) == "too wide: 1.25 ± 0.02 times the width needed"
    shifted = Finding("shifted up", 5.0, 9.0)
    assert str(shifted) == "shifted up: about 5 standard deviations of q"
    assert str(Finding("overconfident")) == "overconfident"


def test_labels_that_are_all_unobserved_are_inferred():
    pair = ssvae()
    without = calibration(pair, num_simulations=20, num_draws=9)
    unobserved = calibration(pair, torch.full((20,), -1), num_draws=9)
    assert [q.name for q in unobserved.quantities] == [q.name for q in without.quantities]
    for ours, theirs in zip(unobserved.quantities, without.quantities, strict=True):
        assert torch.equal(ours.ranks, theirs.ranks)
