"""Predictive checks: uniform p-values where the model is right, statistics by hand."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from evaluated import Programs, conditional, hierarchical, linear_vae, unchecked
from pairs import ALIKE, LIKELIHOODS, TABLE, C, D, binary, net, observations, ssvae, vae
from torch import nn

from ppl_vae import VAE, likelihoods, nets, posteriors, priors
from ppl_vae.data import Dataset
from ppl_vae.evaluation import PredictiveChecks, predictive_checks, traced_batch
from ppl_vae.evaluation import replication as replication_module
from ppl_vae.testing import LinearGaussian

MEAN = {"mean": torch.mean}


def is_uniform(p, k=4.0):
    """Whether the empirical distribution of p-values is that of uniform numbers, nearly."""
    p, n = p.sort().values, len(p)
    distance = (p - (torch.arange(n) + 0.5) / n).abs().max()
    return bool(distance < k / 2 / math.sqrt(n))  # a standard deviation is at most 1/2 / √n


# --- p-values -------------------------------------------------------------------------------------


@unchecked
def test_p_values_are_uniform_for_new_data_of_the_model_and_not_for_another(float64):
    """Also that of the distance from E[x], which is estimated from the model."""
    oracle = LinearGaussian(3, 2)
    model = pyro.poutine.uncondition(oracle.model)
    found, shifted = [], []
    for seed in range(40):
        x = pyro.poutine.trace(model).get_trace(torch.zeros(30, 3)).nodes["x"]["value"].detach()
        found.append(predictive_checks(oracle, x, num_draws=19, seed=seed))
        if seed < 10:
            shifted.append(predictive_checks(oracle, x + 0.7, num_draws=19, seed=seed))
    p = torch.stack([checks.p_value for checks in found])
    for column in range(p.shape[1]):
        assert is_uniform(p[:, column]), found[0].names[column]
    for name in ("mean", "distance of means"):
        wrong = torch.stack([checks.p_value for checks in shifted])
        assert (wrong[:, shifted[0].names.index(name)] < 0.2).double().mean() > 0.8


@unchecked
def test_p_values_of_the_datas_own_latents_are_conservative(float64):
    """Of right models, nearer to a half than uniform ones, whose mean distance is a quarter."""
    oracle = LinearGaussian(2, 2, full_rank=True)
    with torch.no_grad():
        oracle.model.likelihood.log_scale.fill_(math.log(0.02))  # x tells nearly all about z
    oracle.set_exact_guide()
    model = pyro.poutine.uncondition(oracle.model)
    far = {"prior": [], "posterior": []}
    for seed in range(50):
        x = pyro.poutine.trace(model).get_trace(torch.zeros(9, 2)).nodes["x"]["value"].detach()
        for kind, distances in far.items():
            checks = predictive_checks(
                oracle, x, statistics=MEAN, num_draws=19, replicates=kind, seed=seed
            )
            distances.append((checks.p_value.item() - 0.5).__abs__())
    error = 4 * math.sqrt(1 / 48 / 50)  # |p - 1/2| is uniform on [0, 1/2]
    assert np.mean(far["prior"]) == pytest.approx(0.25, abs=error)
    assert np.mean(far["posterior"]) < 0.25 - error


def test_ranks_count_ties_half():
    checks = PredictiveChecks(
        ("a", "b", "c"),
        torch.tensor([1.0, 5.0, -1.0]).double(),
        torch.tensor([[0.0, 1, 1], [1.0, 2, 0], [2.0, 3, 0]]).double(),
        "prior",
    )
    expected = torch.tensor([0.5, 0.5 / 4, 3.5 / 4]).double()
    torch.testing.assert_close(checks.p_value, expected)
    torch.testing.assert_close(checks.two_sided, torch.tensor([1.0, 0.25, 0.25]).double())
    torch.testing.assert_close(checks.standard_error, (expected * (1 - expected) / 3).sqrt())
    torch.testing.assert_close(checks.z[1].item(), 3.0)
    assert "b  5, replicated 2 ± 1, p = 0.125 ± 0.191" in repr(checks)


@unchecked
def test_adjusted_p_values_have_their_level_over_all_statistics(float64):
    mixed = torch.randn(6, 6)  # six dependent statistics of the data and of 19 replicates
    names, number, alarms = tuple("abcdef"), 1500, 0
    for values in torch.randn(number, 20, 6) @ mixed:
        checks = PredictiveChecks(names, values[0], values[1:], "prior")
        alarms += bool(checks.adjusted.min() <= 0.05)
    assert abs(alarms / number - 0.05) < 4 * math.sqrt(0.05 * 0.95 / number)
    # One that is far off is alone, and one in which all agree is none.
    far, alike = torch.tensor([9.0, 0, 0]), torch.randn(40, 3) * torch.tensor([1.0, 1, 0])
    checks = PredictiveChecks(("a", "b", "c"), far, alike, "prior")
    assert checks.adjusted[0] == 1 / 41
    assert checks.adjusted[1] > 0.05
    assert checks.adjusted[2] == 1


def test_the_standard_error_is_that_of_the_draws(float64):
    pair, x = vae(likelihood="normal"), observations("normal", 5)
    found = [
        predictive_checks(pair, x, statistics=MEAN, num_draws=50, seed=seed) for seed in range(40)
    ]
    p = torch.cat([checks.p_value for checks in found])
    error = torch.cat([checks.standard_error for checks in found]).mean().item()
    assert p.std().item() == pytest.approx(error, rel=4 / math.sqrt(2 * 40))


# --- replicated data ------------------------------------------------------------------------------


@unchecked
@pytest.mark.parametrize("replicates", ["prior", "posterior"])
def test_replicated_data_are_of_the_right_latents(replicates, float64):
    """Means of each datum over replicates: those of p(x), or at q(z | x)."""
    pair, x = linear_vae(3, 0.4), 2 * torch.randn(8, 3)
    values = []

    def keep(data):
        values.append(data)
        return 0.0

    predictive_checks(pair, x, statistics={"": keep}, num_draws=400, replicates=replicates)
    assert torch.equal(values[0], x)
    replicated = torch.stack(values[1:])
    z = pair.posterior(x).mean if replicates == "posterior" else torch.zeros(8, 2)
    error = replicated.mean(0) - pair.likelihood(z).mean
    assert (error.abs() < 4.5 * replicated.std(0) / math.sqrt(400)).all()


LABELS = torch.tensor([0, 2, 1, 0])
PAIRS = {
    "vamp": (lambda: vae("vamp"), ()),
    "y unobserved": (ssvae, ()),
    "y observed": (lambda: ssvae(alpha=5.0), (LABELS,)),
    "conditional": (conditional, (LABELS,)),
    "bottom-up": (hierarchical, ()),
    "top-down": (lambda: hierarchical("top-down"), ()),
}


@unchecked
@pytest.mark.parametrize("replicates", ["prior", "posterior"])
@pytest.mark.parametrize("name", PAIRS)
def test_every_pair_is_checked(name, replicates):
    make, context = PAIRS[name]
    checks = predictive_checks(make(), binary(4), *context, num_draws=3, replicates=replicates)
    assert checks.replicated.shape == (3, len(checks.names))
    assert checks.replicated.isfinite().all()


def test_labels_given_to_some_data_are_kept_or_refused():
    pair, x, y = ssvae(), binary(4), torch.tensor([0, -1, 1, 2])
    with pytest.raises(NotImplementedError, match="need all labels y or none, got some of -1"):
        predictive_checks(pair, x, y, num_draws=2)
    predictive_checks(pair, x, y, num_draws=2, replicates="posterior")


@pytest.mark.parametrize("replicates", ["prior", "posterior"])
def test_labels_that_are_all_unobserved_are_none(replicates):
    pair, x = ssvae(), binary(4)
    y = -torch.ones(4, dtype=torch.long)
    for data in ((x, y), ([(x, y)],)):
        got = predictive_checks(pair, *data, num_draws=3, replicates=replicates)
        want = predictive_checks(pair, x, num_draws=3, replicates=replicates)
        assert torch.equal(got.replicated, want.replicated)


def test_context_belongs_to_its_datum(float64):
    """p(x | c) of classes far apart: replicates of each datum are of its own class."""
    net_of_z = nn.Linear(2 + C, 1)
    with torch.no_grad():
        net_of_z.weight.copy_(torch.tensor([[0.0, 0, 0, 100, 200]]))
        net_of_z.bias.zero_()
    pair = conditional("standard").replace(
        posterior=posteriors.DiagonalNormal(net(1 + C, 4)),
        prior=priors.StandardNormal(2),
        likelihood=likelihoods.Normal(net_of_z),
    )
    values = []
    predictive_checks(
        pair,
        torch.zeros(4, 1),
        LABELS,
        statistics={"x": lambda x: float(not values.append(x))},
        num_draws=9,
    )
    for x in values[1:]:
        torch.testing.assert_close(x[:, 0], 100.0 * LABELS, rtol=0, atol=10)


def test_missing_cells_are_missing_in_replicates_too(float64):
    pair, x, mask = vae(likelihood="normal"), observations("normal", 9), torch.rand(9, D) < 0.6
    seen = []
    predictive_checks(
        pair,
        torch.where(mask, x, math.nan),
        mask=mask,
        statistics={"n": lambda x: seen.append(~x.isnan()) or 1.0},
        num_draws=3,
    )
    assert all(torch.equal(cells, mask) for cells in seen)
    assert len(seen) == 4
    by_set = predictive_checks(pair, Dataset(x, mask=mask), num_draws=3)
    by_mask = predictive_checks(pair, x, mask=mask, num_draws=3)
    assert torch.equal(by_set.replicated, by_mask.replicated)


def test_a_model_of_missingness_draws_its_own_mask(float64):
    pair = VAE(
        prior=priors.StandardNormal(2),
        posterior=posteriors.DiagonalNormal(net(D, 4)),
        likelihood=likelihoods.Normal(net(2, D)),
        missingness=likelihoods.Bernoulli(nets.SelfMasking(D)),
    )
    x, mask = torch.randn(40, D), torch.rand(40, D) < 0.05
    for replicates in ("prior", "posterior"):
        checks = predictive_checks(pair, x, mask=mask, num_draws=19, replicates=replicates)
        column = checks.names.index("share observed")
        assert checks.observed[column].item() == pytest.approx(mask.double().mean().item())
        assert checks.replicated[:, column].std() > 0
        assert checks.p_value[column] > 0.95  # more is observed in replicates


def test_replicates_without_any_observed_cell_have_the_same_statistics():
    rarely = likelihoods.Bernoulli(nets.SelfMasking(D))
    with torch.no_grad():
        rarely.net.bias.fill_(-4.0)
    pair = vae(likelihood="normal").replace(missingness=rarely)
    checks = predictive_checks(pair, observations("normal", 2), num_draws=30)
    assert (checks.replicated[:, checks.names.index("share observed")] == 0).any()
    assert checks.replicated.isfinite().all()


def test_batches_change_nothing(monkeypatch):
    pair, x = vae(), binary(7)
    for rows in (3, 100):
        for module in (traced_batch, replication_module):
            monkeypatch.setattr(module, "row_limit", lambda _, rows=rows: rows)
        checks = predictive_checks(pair, x, num_draws=30)
        assert checks.replicated.shape == (30, 3)
        assert len(checks.replicated[:, 0].unique()) > 5


def test_draws_depend_on_the_seed_alone_and_leave_no_trace():
    pair, x = vae(), binary(7)
    before, modes = torch.get_rng_state(), [m.training for m in pair.modules()]
    first = predictive_checks(pair, x, num_draws=5)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(predictive_checks(pair, x, num_draws=5).replicated, first.replicated)
    assert not torch.equal(
        predictive_checks(pair, x, num_draws=5, seed=1).replicated, first.replicated
    )
    assert [m.training for m in pair.modules()] == modes


# --- statistics -----------------------------------------------------------------------------------


def statistics_of(pair, x, **options):
    checks = predictive_checks(pair, x, num_draws=2, **options)
    return dict(zip(checks.names, checks.observed.tolist(), strict=True))


def test_statistics_of_images_counts_and_real_values(float64):
    for mask in (None, torch.rand(11, D) < 0.7):
        hidden = torch.ones(11, D, dtype=torch.bool) if mask is None else mask
        options = {} if mask is None else {"mask": mask}
        x = binary(11)
        got = statistics_of(vae(), x, **options)
        totals = (x * hidden).sum(1).numpy()
        assert got["mean total"] == pytest.approx(totals.mean())
        assert got["variance of totals"] == pytest.approx(totals.var())
        x = observations("poisson", 11)
        got = statistics_of(vae(likelihood="poisson"), x, **options)
        values = x[hidden].numpy()
        assert got["share of 0"] == pytest.approx((values == 0).mean())
        assert got["max"] == values.max()
        each = [column[seen].numpy() for column, seen in zip(x.T, hidden.T, strict=True)]
        ratios = sorted(c.var(ddof=1) / c.mean() for c in each)
        assert got["variance / mean, median"] == pytest.approx(ratios[(D - 1) // 2])
        x = torch.randn(11, D)
        got = statistics_of(vae(likelihood="normal"), x, **options)
        values = x[hidden].numpy()
        third = ((values - values.mean()) ** 3).mean() / values.std() ** 3
        want = {"mean": values.mean(), "sd": values.std(), "skewness": third}
        want |= {"min": values.min(), "max": values.max()}
        for name, value in want.items():
            assert got[name] == pytest.approx(value), name
        low, middle, high = (got[f"{q} % quantile"] for q in (5, 50, 95))
        assert (values <= low).mean() == pytest.approx(0.05, abs=1.5 / len(values))
        assert (values <= middle).mean() == pytest.approx(0.5, abs=1.5 / len(values))
        assert (values <= high).mean() == pytest.approx(0.95, abs=1.5 / len(values))


def test_the_distance_of_means_is_from_those_of_the_model(float64):
    pair, x = linear_vae(4, 0.3), torch.randn(50, 4) + 5
    exact = (x.mean(0) - pair.likelihood.net.bias).square().mean().sqrt().item()
    # E[x] is estimated from 20 data sets of 50.
    assert statistics_of(pair, x)["distance of means"] == pytest.approx(exact, rel=0.05)


def test_statistics_of_a_table_are_by_column(float64):
    x = observations("columns", 30)
    mask = torch.rand(30, D) < 0.8
    got = statistics_of(vae(likelihood="columns"), x, mask=mask)
    assert len(TABLE) == D
    first = x[mask[:, 0], 0].numpy()
    assert got["column 0: mean"] == pytest.approx(first.mean())
    assert got["column 0: sd"] == pytest.approx(first.std())
    category = x[mask[:, 1], 1].numpy()
    for code in range(3):
        assert got[f"column 1: share of {code}"] == pytest.approx((category == code).mean())
    assert got["column 2: share of 0"] == pytest.approx((x[mask[:, 2], 2] == 0).double().mean())
    assert got["column 4: share of 1"] == pytest.approx(x[mask[:, 4], 4].mean().item())
    assert "column 4: mean" not in got


@unchecked
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_every_likelihood_has_statistics(likelihood):
    pair, x = vae(likelihood=likelihood), observations(likelihood, 5)
    checks = predictive_checks(pair, x, num_draws=2)
    assert checks.observed.isfinite().all()
    assert checks.replicated.isfinite().all()
    assert ("distance of means" in checks.names) == (likelihood in ALIKE)
    alike = x[:1].expand(5, D)  # nothing varies
    assert predictive_checks(pair, alike, num_draws=2).observed.isfinite().all()
    if likelihood not in ("discretised logistic mixture",):
        empty = predictive_checks(pair, x, mask=torch.zeros(5, D, dtype=torch.bool), num_draws=2)
        assert empty.observed.isfinite().all()


def test_ones_own_statistics_are_named_and_checked(float64):
    pair, x = vae(), binary(6)
    own = {"a": lambda x: x.mean(), "b": lambda x: float(x[0, 0]), "c": lambda x: np.float64(3)}
    checks = predictive_checks(pair, x, statistics=own, num_draws=4)
    assert checks.names == ("a", "b", "c")
    assert checks.observed.tolist() == pytest.approx([x.mean().item(), x[0, 0].item(), 3])
    for wrong in (lambda x: x.mean(0), lambda x: None, lambda x: True, lambda x: "1"):
        with pytest.raises(TypeError, match=r"statistics\['t'\] must return a finite number, got"):
            predictive_checks(pair, x, statistics={"t": wrong}, num_draws=2)
    with pytest.raises(ValueError, match=r"finite number, got nan; missing cells are NaN: use"):
        predictive_checks(pair, x, mask=x > 0, statistics=MEAN, num_draws=2)
    with pytest.raises(ValueError, match=r"finite number, got inf$"):
        predictive_checks(pair, x, statistics={"t": lambda x: math.inf}, num_draws=2)


# --- programs of a user's own ---------------------------------------------------------------------


def test_programs_without_a_size_are_run_on_the_data(float64):
    """Only x is drawn anew; a label that is observed stays."""

    def model(x, y):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("y", dist.Normal(z, 1.0), obs=y)
            pyro.sample("x", dist.Normal(z + 100 * y, 1.0), obs=x)

    def guide(x, y):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0 * x + 7, 0.1))

    y, x = torch.arange(5.0), torch.zeros(5)
    for replicates, shift in (("prior", 0.0), ("posterior", 7.0)):
        checks = predictive_checks(
            Programs(model, guide), x, y, num_draws=200, replicates=replicates, statistics=MEAN
        )
        error = 4 * checks.replicated.std().item() / math.sqrt(200)
        assert checks.replicated.mean().item() == pytest.approx(200 + shift, abs=error)
    assert "skewness" in predictive_checks(Programs(model, guide), x, y, num_draws=2).names


def test_a_site_of_another_name_is_refused():
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("other", dist.Normal(torch.zeros(()), 1.0), obs=x)

    with pytest.raises(ValueError, match="the data's site must be named 'x', got other"):
        predictive_checks(Programs(model, lambda x: None), torch.zeros(3), num_draws=2)


def test_data_of_another_shape_than_a_programs_site_are_refused():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            return pyro.sample("x", dist.Normal(z[:, None], 1.0).expand((7, 3)).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(7), 1.0))

    for replicates in ("prior", "posterior"):
        with pytest.raises(ValueError, match=r"x must have the shape .* \(7, 3\), got .* \(7, 1\)"):
            predictive_checks(
                Programs(model, guide), torch.ones(7, 1), statistics=MEAN, replicates=replicates
            )
