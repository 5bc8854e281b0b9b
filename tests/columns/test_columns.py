"""Columns of a table: densities, encodings, and the likelihood they make together."""

import math

import pyro
import pytest
import torch
from evaluated import unchecked
from scipy.integrate import quad
from scipy.special import expit
from scipy.stats import norm
from torch import nn

from ppl_vae import (
    VAE,
    columns,
    evaluation,
    from_config,
    load,
    posteriors,
    priors,
    save,
    to_config,
    training,
)
from ppl_vae import nets as networks
from ppl_vae.columns.group import grouped
from ppl_vae.distributions.codes import Codes
from ppl_vae.distributions.hurdle import HurdleLogNormal
from ppl_vae.distributions.logit_normal import LogitNormal
from ppl_vae.estimators import ImportanceWeightedELBO
from ppl_vae.likelihoods import Columns

TYPES = {
    "normal": (columns.Normal(3.0, 2.0), columns.Normal(-1.0, 0.5)),
    "normal, learned": (columns.Normal(3.0, 2.0, "learned"), columns.Normal(0.0, 0.5, "learned")),
    "student": (columns.StudentT(3.0, 2.0), columns.StudentT(-1.0, 0.5)),
    "student, learned": (columns.StudentT(3.0, 2.0, "learned"), columns.StudentT(0, 1, "learned")),
    "log-normal": (columns.LogNormal(1.0, 0.5), columns.LogNormal(-1.0, 0.2)),
    "log-normal, learned": (
        columns.LogNormal(1, 0.5, "learned"),
        columns.LogNormal(0, 1, "learned"),
    ),
    "hurdle": (columns.HurdleLogNormal(1.0, 0.5), columns.HurdleLogNormal(-1.0, 0.2)),
    "gamma": (columns.Gamma(3.0), columns.Gamma(0.5)),
    "gamma, learned": (columns.Gamma(3.0, "learned"), columns.Gamma(0.5, "learned")),
    "logit-normal": (columns.LogitNormal(-1.0, 3.0), columns.LogitNormal(0.0, 100.0)),
    "poisson": (columns.Poisson(3.0), columns.Poisson(0.5)),
    "negative binomial": (columns.NegativeBinomial(3.0), columns.NegativeBinomial(0.5)),
    "negative binomial, learned": (
        columns.NegativeBinomial(3.0, "learned"),
        columns.NegativeBinomial(0.5, "learned"),
    ),
    "bernoulli": (columns.Bernoulli(), columns.Bernoulli()),
    "categorical": (columns.Categorical(5), columns.Categorical(5)),
    "ordinal": (columns.Ordinal(5), columns.Ordinal(5)),
    "ordinal, learned": (columns.Ordinal(5, "learned"), columns.Ordinal(5, "learned")),
}
TABLE = [
    columns.Normal(170.0, 10.0),
    columns.Categorical(3),
    columns.LogNormal(9.0, 0.7),
    columns.Normal(70.0, 12.0),
    columns.Bernoulli(),
    columns.NegativeBinomial(2.0),
    columns.Ordinal(4),
    columns.LogitNormal(0.0, 10.0),
    columns.HurdleLogNormal(1.0, 1.0),
    columns.Categorical(3),
]


@pytest.fixture(params=TYPES)
def pair_of_columns(request):
    """Return two columns of one kind, and their distribution at some outputs, in float64."""
    given = TYPES[request.param]
    (group,) = grouped(given)
    group.double()
    outputs = torch.randn(2, given[0].num_outputs, dtype=torch.float64)
    return given, group, outputs


def grid(column):
    """Return the points and weights of a rule for sums or integrals over a column's support."""
    support = column.support
    if support.is_discrete:
        highest = getattr(column, "categories", getattr(column, "levels", None))
        count = 2 if isinstance(column, columns.Bernoulli) else highest or 3000
        points = torch.arange(count, dtype=torch.float64)
        return points, torch.ones(count, dtype=torch.float64)
    u = torch.linspace(-40, 40, 40_001, dtype=torch.float64)
    step = u[1] - u[0]
    if isinstance(column, (columns.LogNormal, columns.Gamma)):
        points = u.exp()
        weights = points * step
    elif isinstance(column, columns.LogitNormal):
        width = column.high - column.low
        points = column.low + width * u.sigmoid()
        inside = (points > column.low) & (points < column.high)
        points, weights = points[inside], (width * u.sigmoid() * (-u).sigmoid() * step)[inside]
    else:  # tails of Student's t
        points, weights = column.mean + column.std * u.sinh(), column.std * u.cosh() * step
    if isinstance(column, columns.HurdleLogNormal):
        zero = torch.zeros(1, dtype=torch.float64)
        points, weights = torch.cat([zero, points]), torch.cat([zero + 1, weights])
    return points, weights


@pytest.mark.usefixtures("float64")
def test_masses_and_densities_sum_to_one_and_have_the_moments_that_are_said(pair_of_columns):
    for column, outputs in zip(pair_of_columns[0], pair_of_columns[2], strict=True):
        (group,) = grouped([column])
        with torch.no_grad():
            p = column.distribution(outputs[None], **group.double().numbers())
            assert p.batch_shape == (1,)
            points, weights = grid(column)
            density = p.log_prob(points[:, None])[:, 0].exp() * weights
        mean = (density * points).sum()
        assert density.sum().item() == pytest.approx(1, abs=1e-6)
        assert p.mean.item() == pytest.approx(mean.item(), rel=1e-5)
        variance = (density * (points - mean).square()).sum().item()
        rel = 5e-2 if isinstance(column, columns.StudentT) else 1e-4  # its tails are cut
        assert p.variance.item() == pytest.approx(variance, rel=rel)


def test_moments_in_float32_are_those_of_float64():
    logit, loc, scale = torch.tensor([20.0, 20.0, -3.0]), torch.tensor([0.0, 5.0, 1.0]), 1e-3
    for make in (
        lambda t: HurdleLogNormal(logit.to(t), loc.to(t), torch.full((3,), scale, dtype=t)),
        lambda t: Codes(
            torch.full((3, 1000), -40.0, dtype=t).index_fill(1, torch.tensor([996, 998]), 0)
        ),
    ):
        found, exact = make(torch.float32), make(torch.float64)
        torch.testing.assert_close(found.variance.double(), exact.variance, rtol=1e-4, atol=0)


def test_the_best_guess_of_an_amount_that_is_never_there_is_zero():
    p = columns.HurdleLogNormal()
    outputs = torch.tensor([[[0.3, 0.0, -89.5]], [[0.3, 0.0, -200.0]]])
    one = torch.ones(1)
    statistics = p.statistics(p.distribution(outputs, log_mean=0 * one, log_std=one))
    torch.testing.assert_close(p.estimate(statistics), torch.zeros(2, 1), rtol=0, atol=1e-30)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("scale", [0.01, 1.0, 1.49, 1.51, 5.0, 30.0, 1e4])
def test_moments_of_bounded_values_are_integrals(scale):
    loc = torch.tensor([-20.0, -3.0, 0.3, 1.0, 8.0])
    p = LogitNormal(loc, torch.full_like(loc, scale), -1.0, 4.0)
    for i, m in enumerate(loc.tolist()):
        moments = [
            quad(
                lambda u, k=k, m=m: expit(u) ** k * norm.pdf(u, m, scale),
                *(max(m - 12 * scale, -60), min(m + 12 * scale, 60)),
                points=[0.0] if abs(m) < 12 * scale else None,
                limit=500,
                epsabs=1e-12,
            )[0]
            + norm.sf(60, m, scale)
            for k in (1, 2)
        ]
        assert p.mean[i].item() == pytest.approx(5 * moments[0] - 1, abs=1e-7)
        variance = 25 * (moments[1] - moments[0] ** 2)
        assert p.variance[i].item() == pytest.approx(variance, abs=2e-7)


def test_draws_at_a_bound_have_a_density():
    p = LogitNormal(torch.tensor(-110.0), torch.tensor(1.0), 0.0, 100.0)
    assert p.log_prob(p.sample((50,))).isfinite().all()


@pytest.mark.usefixtures("float64")
def test_draws_have_the_mean_and_are_in_the_support(pair_of_columns):
    given, group, outputs = pair_of_columns
    p = given[0].distribution(outputs, **group.numbers())
    draws = p.sample((20_000,))
    for j, column in enumerate(given):
        assert column.support.check(draws[:, j]).all()
        error = draws[:, j].std() / math.sqrt(len(draws))
        assert (draws[:, j].mean() - p.mean[j]).abs() < 5 * error


@pytest.mark.usefixtures("float64")
def test_columns_of_one_kind_are_what_each_is_alone(pair_of_columns):
    given, group, outputs = pair_of_columns
    together = given[0].distribution(outputs, **group.numbers())
    x = together.sample()
    values, features = together.log_prob(x), given[0].features(x, **group.constants())
    for j, column in enumerate(given):
        (alone,) = grouped([column])
        alone.double()
        p = column.distribution(outputs[j : j + 1], **alone.numbers())
        torch.testing.assert_close(p.log_prob(x[j : j + 1]), values[j : j + 1])
        assert column.num_features == features.shape[-1]
        own = column.features(x[j : j + 1], **alone.constants())
        torch.testing.assert_close(own, features[j : j + 1])
        assert column.support.check(torch.tensor(float(column.filling)))


@pytest.mark.usefixtures("float64")
def test_every_output_and_learned_parameter_has_a_gradient(pair_of_columns):
    given, group, outputs = pair_of_columns
    outputs.requires_grad_()
    p = given[0].distribution(outputs, **group.numbers())
    x = p.sample((200,))
    p.log_prob(x).sum().backward()
    assert (outputs.grad != 0).all()
    for parameter in group.parameters():
        assert (parameter.grad != 0).all()


@pytest.mark.parametrize(
    ("column", "u_of_x", "x"),
    [
        (columns.Normal(3.0, 2.0), lambda x: (x - 3) / 2, 4.0),
        (columns.LogNormal(1.0, 0.5), lambda x: (x.log() - 1) / 0.5, 4.0),
        (columns.LogitNormal(-1.0, 3.0), lambda x: ((x + 1) / (3 - x)).log(), 0.7),
    ],
)
@pytest.mark.usefixtures("float64")
def test_densities_are_those_of_the_original_values(column, u_of_x, x):
    """p(x) = N(u(x); l, σ²) |du/dx|, the derivative by finite differences."""
    (group,) = grouped([column])
    outputs, x, h = torch.tensor([[0.3, -0.2]]), torch.tensor([x]), 1e-5
    found = column.distribution(outputs, **group.numbers()).log_prob(x)
    normal = torch.distributions.Normal(0.3, math.log1p(math.exp(-0.2)) + column.min_scale)
    jacobian = (u_of_x(x + h) - u_of_x(x - h)) / (2 * h)
    torch.testing.assert_close(
        found, normal.log_prob(u_of_x(x)) + jacobian.log(), atol=1e-8, rtol=0
    )


@pytest.mark.usefixtures("float64")
def test_cumulative_logits_keep_their_digits_in_the_tails():
    (group,) = grouped([columns.Ordinal(4, "learned")])
    theta = columns.Ordinal(4).learned()["thresholds"]
    for location in (-60.0, 0.0, 60.0):
        p = columns.Ordinal(4, "learned").distribution(
            torch.tensor([[location]]), **group.numbers()
        )
        levels = p.log_prob(torch.arange(4.0)[:, None]).squeeze(-1)
        assert levels.exp().sum().item() == pytest.approx(1)
        assert levels.isfinite().all()
        if location:  # far away log P(x = k) is linear in θ_k - location
            far = levels[0] if location > 0 else levels[-1]
            assert far.item() == pytest.approx(-60, abs=2 + theta.abs().max().item())


def vae(table=TABLE, latent=2, hidden=(8,)):
    (outputs,) = Columns.net_shape(columns=table)
    encoder = networks.MLP(columns.num_features(table), 2 * latent, hidden=hidden)
    return VAE(
        prior=priors.StandardNormal(latent),
        posterior=posteriors.DiagonalNormal(columns.Encoder(encoder, table)),
        likelihood=Columns(networks.MLP(latent, outputs, hidden=hidden), table),
    )


def test_the_joint_density_is_the_product_over_columns_in_their_order():
    pair = vae()
    z = torch.randn(5, 2)
    p = pair.likelihood(z)
    x = p.sample()
    assert x.shape == (5, 10)
    outputs = pair.likelihood.net(z)
    expected, start = torch.zeros(5), 0
    for group in pair.likelihood.groups:
        for j, index in enumerate(group.indices.tolist()):
            n = TABLE[index].num_outputs
            own = outputs[:, None, start : start + n]
            start += n
            numbers = {k: v[j : j + 1] for k, v in group.numbers().items()}
            expected += TABLE[index].distribution(own, **numbers).log_prob(x[:, [index]])[:, 0]
    torch.testing.assert_close(p.log_prob(x), expected, rtol=1e-4, atol=1e-4)
    assert p.expand((3, 5)).sample().shape == (3, 5, 10)
    assert p.mean.shape == p.variance.shape == (5, 10)
    assert not p.has_rsample


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("complete", [pytest.param(True, marks=pytest.mark.slow), False])
def test_log_p_of_a_row_equals_quadrature_over_z(complete):
    pair = vae().double()
    x = pair.generate(4)
    mask = torch.ones_like(x, dtype=torch.bool)
    if not complete:
        mask = torch.rand(4, 10) < 0.6
        mask[0] = False  # nothing is observed: p = 1
        x[~mask] = torch.nan
    t = torch.linspace(-7, 7, 141)
    z = torch.cartesian_prod(t, t)
    p_z = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)
    values = torch.where(mask, x, x.new_tensor(pair.observation.filling))
    elements = pair.likelihood(z[:, None]).base_dist
    each = torch.where(mask, elements.log_prob(values), 0.0).sum(-1)
    exact = (p_z[:, None] + each).logsumexp(0) + 2 * (t[1] - t[0]).log()
    found = evaluation.log_likelihood(pair, x, mask=None if complete else mask, num_samples=20_000)
    error = (found.log_px - exact).abs()
    assert (error < 5 * found.standard_error + 1e-6).all()
    if not complete:
        assert exact[0].abs() < 1e-6


def linear_gaussian(table, weight, bias, log_sigma):
    """Return a pair whose columns are x_j = mean + std (w_j z + b_j + σ ε)."""
    d, n = weight.shape[1], len(table)
    net = nn.Linear(d, 2 * n)
    with torch.no_grad():
        net.weight.zero_()
        net.weight[0::2], net.bias[0::2], net.bias[1::2] = weight, bias, log_sigma
    pair = vae(table, latent=d)
    return pair.replace(likelihood=Columns(net, table))


@pytest.mark.usefixtures("float64")
def test_imputations_follow_the_exact_conditional_of_a_linear_gaussian_table():
    n, d = 5, 2
    table = [columns.Normal(10.0 * j, 1.0 + j) for j in range(n)]
    weight, bias = torch.randn(n, d), torch.randn(n)
    pair = linear_gaussian(table, weight, bias, torch.zeros(n)).double()
    std = torch.tensor([c.std for c in table])
    mean = torch.tensor([c.mean for c in table]) + std * bias
    sigma = math.log(2) + columns.Normal(0.0, 1.0).min_scale
    factor = std[:, None] * weight
    covariance = factor @ factor.T + torch.diag((std * sigma) ** 2)
    x = torch.distributions.MultivariateNormal(mean, covariance).sample((1,))
    mask = torch.tensor([[True, False, True, False, True]])
    seen, gone = mask[0].nonzero()[:, 0], (~mask[0]).nonzero()[:, 0]
    gain = covariance[gone][:, seen] @ covariance[seen][:, seen].inverse()
    exact_mean = mean[gone] + gain @ (x[0, seen] - mean[seen])
    exact = covariance[gone][:, gone] - gain @ covariance[seen][:, gone]
    given = torch.where(mask, x, torch.nan)
    draws = pair.impute(given, mask, num_samples=8000, num_particles=8000)[:, 0]
    assert torch.equal(draws[:, seen], x[:, seen].expand(8000, -1))
    missing = draws[:, gone]
    error = missing.std(0) / math.sqrt(len(draws) / 4)  # resampling of 8000 weighted particles
    assert ((missing.mean(0) - exact_mean).abs() < 5 * error).all()
    torch.testing.assert_close(missing.T.cov(), exact, rtol=0.15, atol=0.1 * exact.max().item())
    guess = pair.impute(given, mask, num_particles=20_000, mean=True)[0, gone]
    assert ((guess - exact_mean).abs() < 3 * error).all()


def test_the_best_guess_is_a_mean_a_mode_or_a_median():
    table = [columns.Normal(), columns.Categorical(3), columns.Ordinal(3), columns.Bernoulli()]
    pair = vae(table)
    x, mask = torch.zeros(9, 4), torch.zeros(9, 4, dtype=torch.bool)
    guess = pair.impute(x, mask, num_particles=20_000, mean=True)
    assert (guess == guess[0]).all(0)[1:].all()  # nothing is observed: one guess for all rows
    draws = pair.generate(20_000)
    assert guess[:, 0].mean() == pytest.approx(draws[:, 0].mean().item(), abs=0.1)
    assert guess[0, 1] == draws[:, 1].mode().values
    assert guess[0, 2] == draws[:, 2].median()
    assert guess[0, 3] == (draws[:, 3].mean() > 0.5)


def test_an_encoder_sees_which_cells_are_missing_and_nothing_of_their_values():
    pair = vae()
    x = pair.generate(6)
    mask = torch.rand(6, 10) < 0.5
    encoded = pair.encode(x, mask=mask)
    assert torch.equal(encoded, pair.encode(torch.where(mask, x, torch.nan), mask=mask))
    assert torch.equal(encoded, pair.encode(torch.where(mask, x, 1e30), mask=mask))
    features = pair.posterior.net.features(torch.where(mask, x, torch.nan))
    assert torch.equal(features[:, -10:], mask.float())
    assert (features[~mask.any(-1)] == 0).all()
    filled = torch.where(mask, x, x.new_tensor(pair.observation.filling))
    assert not torch.equal(encoded, pair.encode(filled))


def test_cell_dropout_hides_a_uniform_share_of_the_observed_cells_in_training_alone():
    table = [columns.Normal(0.0, 1.0)] * 40
    net = nn.Identity()
    encoder = columns.Encoder(net, table, cell_dropout=0.6)
    x = torch.randn(2000, 40)
    x[:, :10] = math.nan
    torch.manual_seed(0)
    seen = encoder(x)[:, 40:] == 1
    assert not seen[:, :10].any()
    hidden = 1 - seen[:, 10:].double().mean(1)
    # Each of 30 cells is hidden with probability S ~ U(0, 0.6). Tails are lighter than a normal's,
    # so that 2 / N bounds the relative variance of the variance.
    mean, variance = 0.3, 0.6**2 / 12 + (0.3 - 0.3**2 - 0.6**2 / 12) / 30
    assert abs(hidden.mean() - mean) < 4 * math.sqrt(variance / 2000)
    assert abs(hidden.var() / variance - 1) < 4 * math.sqrt(2 / 2000)
    assert not torch.equal(encoder(x), encoder(x))  # anew each time
    plain = columns.Encoder(net, table)
    assert torch.equal(encoder.eval()(x), plain(x))
    torch.manual_seed(0)
    plain(x)
    after = torch.rand(())
    torch.manual_seed(0)
    assert torch.equal(after, torch.rand(()))  # without dropout, nothing is drawn


@pytest.mark.usefixtures("float64")
def test_a_bound_with_cells_hidden_from_the_guide_is_one_of_the_same_log_p():
    torch.manual_seed(3)
    table = (columns.Normal(0.0, 1.0), columns.Normal(1.0, 2.0))
    pair, x = vae(table), torch.tensor([[0.3, -1.0]])
    found = evaluation.log_likelihood(pair, x, num_samples=100_000, seed=0)
    hiding = columns.Encoder(pair.posterior.net.net, table, cell_dropout=1)
    hidden = pair.replace(posterior=posteriors.DiagonalNormal(hiding)).train()
    estimator = ImportanceWeightedELBO(num_particles=1000)
    # exp of the bound is an unbiased estimate of p(x), whatever the guide sees.
    bounds = [-estimator.loss(hidden.model, hidden.guide, x) for _ in range(40)]
    ratios = (torch.tensor(bounds) - found.log_px).exp()
    error = ratios.std() / math.sqrt(len(ratios)) + found.monte_carlo_error
    assert abs(ratios.mean() - 1) < 4 * error
    mask = torch.tensor([[True, False]])
    part = evaluation.log_likelihood(pair, x, mask=mask, num_samples=1000, seed=0)
    assert abs((part.log_px - found.log_px).expm1()) > 20 * error  # log p(x) is not that of fewer


@pytest.mark.slow  # as tests/tables do
@pytest.mark.usefixtures("as_users_see_it")
def test_a_table_trains_under_the_importance_weighted_bound_with_missing_cells():
    pair = vae()
    with torch.no_grad():
        x = vae().generate(100)
    mask = torch.rand(100, 10) < 0.7
    x[~mask] = torch.nan
    optimizer = torch.optim.Adam([*pair.model.parameters(), *pair.guide.parameters()], lr=1e-2)
    elbo = ImportanceWeightedELBO(num_particles=5)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = elbo.differentiable_loss(pair.model, pair.guide, x, mask=mask)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) < sum(losses[:10])  # of draws that differ from step to step
    assert all(p.grad is not None for p in pair.parameters())


@pytest.mark.usefixtures("as_users_see_it")
def test_compiled_steps_are_those_of_uncompiled_ones(monkeypatch):
    monkeypatch.setattr(
        "ppl_vae.compilation.compiled_function.inductor", lambda graph, **options: graph
    )
    torch.manual_seed(0)
    pair = vae()
    x = pair.generate(20)
    mask = torch.rand(20, 10) < 0.7
    x[~mask] = torch.nan
    twin = from_config(to_config(pair))
    twin.load_state_dict(pair.state_dict())
    losses = {}
    for name, one in (("as it is", pair), ("compiled", twin)):
        elbo = ImportanceWeightedELBO(num_particles=3)
        optimizer = torch.optim.Adam(one.parameters(), lr=1e-2)
        step = training.compile_step(one, elbo, optimizer) if name == "compiled" else None
        torch.manual_seed(1)
        losses[name] = []
        for _ in range(4):
            if step is not None:
                losses[name].append(step(x, mask=mask).item())
                continue
            optimizer.zero_grad()
            loss = elbo.differentiable_loss(one.model, one.guide, x, mask=mask) / len(x)
            loss.backward()
            optimizer.step()
            losses[name].append(loss.item())
    assert losses["compiled"] == pytest.approx(losses["as it is"], rel=1e-5)


def test_configurations_and_folders_bring_a_table_back(tmp_path):
    pair = vae()
    again = from_config(to_config(pair))
    again.load_state_dict(pair.state_dict())
    x = pair.generate(3)
    z = torch.zeros(3, 2)
    assert torch.equal(again.likelihood(z).log_prob(x), pair.likelihood(z).log_prob(x))
    save(pair, tmp_path / "pair")
    loaded = load(tmp_path / "pair")
    assert torch.equal(loaded.likelihood(z).log_prob(x), pair.likelihood(z).log_prob(x))
    assert torch.equal(loaded.encode(x), pair.encode(x))


def test_constants_have_the_digits_of_the_dtype_they_are_moved_to():
    pair = vae([columns.Normal(0.1, 0.3)]).double()
    (group,) = pair.likelihood.groups
    assert group.mean.item() == 0.1


class Triangular(columns.ColumnFamily):
    """A column of one's own: x = centre + width (u_1 + u_2 - 1)."""

    constants = ("centre",)

    def __init__(self, centre=0.0):
        super().__init__()
        self.centre = centre

    @property
    def support(self):
        return torch.distributions.constraints.real

    def distribution(self, outputs, *, centre):
        return pyro.distributions.Laplace(centre + outputs[..., 0], 1.0)


def test_a_column_of_ones_own_needs_a_support_and_a_distribution():
    table = [Triangular(1.0), columns.Categorical(3), Triangular(2.0)]
    pair = vae(table)
    assert [len(g.columns) for g in pair.likelihood.groups] == [2, 1]
    x = pair.generate(5)
    assert pair.impute(x, torch.rand(5, 3) < 0.5, mean=True).shape == (5, 3)


@unchecked
@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: columns.Normal(0.0, 0.0), ValueError, "std must be finite and above 0, got 0"),
        (lambda: columns.Normal("a"), TypeError, "mean must be a number, got 'a'"),
        (lambda: columns.Normal(scale="per-pixel"), ValueError, "'network'.*'learned'.*got"),
        (lambda: columns.Categorical(0), ValueError, "categories must be 1 or more, got 0"),
        (lambda: columns.LogitNormal(3.0, 3.0), ValueError, "high must be .*above 3, got 3"),
        (lambda: columns.Gamma(-1.0), ValueError, "mean must be finite and above 0, got -1"),
        (lambda: Columns(nn.Linear(2, 2), []), ValueError, "columns must not be empty"),
        (lambda: Columns(nn.Linear(2, 2), [nn.Linear(2, 2)]), TypeError, r"columns\[0\] must be a"),
        (
            lambda: Columns(nn.Linear(2, 3), [columns.Normal()])(torch.zeros(1, 2)),
            ValueError,
            "2 n",
        ),
        (lambda: Columns.net_shape((3,), columns=[columns.Normal()]), ValueError, "event_shape"),
        (
            lambda: vae().check(torch.zeros(1, 10)),
            ValueError,
            r"x\[0, 2\] = 0 lies outside the support of column 2",
        ),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_flow_reads_missing_values_and_refuses_infinite_ones():
    table = [columns.Normal(), columns.Bernoulli()]
    net = networks.MLP(columns.num_features(table), posteriors.Flow.net_features(2))
    flow = posteriors.Flow(columns.Encoder(net, table), latent_dim=2)
    missing = torch.tensor([[float("nan"), 1.0]])
    assert flow(missing).sample().isfinite().all()
    with pytest.raises(ValueError, match="NaN or infinite at 1 of 2 entries"):
        flow(torch.tensor([[float("inf"), 1.0]]))


def test_learned_numbers_of_any_size_are_logarithms():
    # A softplus would need as many steps of Adam as the number is large, over the rate.
    t, out, one = torch.tensor(3.0), torch.zeros(1, 1), torch.ones(())
    r = columns.NegativeBinomial(1.0, "learned").distribution(out, mean=one, log_dispersion=t)
    assert r.total_count.item() == pytest.approx(math.exp(3))
    gamma = columns.Gamma(1.0, "learned").distribution(out, mean=one, log_shape=t)
    assert gamma.concentration.item() == pytest.approx(math.exp(3))
    student = columns.StudentT(0.0, 1.0, "learned").distribution(
        out, mean=0 * one, std=one, unconstrained_scale=t, log_df=t
    )
    assert student.df.item() == pytest.approx(math.exp(3) + 2.5)
