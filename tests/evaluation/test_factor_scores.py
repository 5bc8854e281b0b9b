"""Scores of disentanglement against closed forms, quadrature and sums by hand."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from evaluated import Programs, unchecked
from pairs import POSTERIORS, D, binary, vae
from sklearn.linear_model import LogisticRegression
from sklearn.tree import DecisionTreeClassifier

from ppl_vae import data
from ppl_vae.data import Dataset, Factors
from ppl_vae.evaluation import disentanglement, disentanglement_of_codes
from ppl_vae.evaluation.code_information import of_codes, of_posteriors
from ppl_vae.evaluation.factor_scores import disentanglement_and_completeness

M = 4
SCORES = ("mig", "modularity", "sap", "disentanglement", "completeness", "informativeness")
STUMP = DecisionTreeClassifier(max_depth=3, random_state=0)


def grid(repeats=10, **options):
    """All pairs of values of two factors, as often as one another."""
    values = torch.cartesian_prod(torch.arange(M), torch.arange(M)).repeat(repeats, 1)
    return Factors(values, ("a", "b"), **options)


def of(codes, factors, **options):
    return disentanglement_of_codes(codes.double(), factors, **options)


def means(result):
    return {name: getattr(result, name).mean for name in SCORES}


# Deterministic codes


@pytest.mark.parametrize("categorical", [(), ("a",)])
def test_a_code_that_is_the_factors_is_perfect(categorical):
    factors = grid(categorical=categorical)
    found = of(factors.values, factors)
    assert means(found) == pytest.approx(dict.fromkeys(SCORES, 1.0), abs=1e-9)
    assert found.mig.standard_error < 1e-9
    torch.testing.assert_close(found.attributes, torch.eye(2).double(), rtol=0, atol=0.04)
    torch.testing.assert_close(found.importances, torch.eye(2).double(), rtol=0, atol=1e-9)
    assert found.chance == pytest.approx(1 / M)


def test_order_and_scale_of_codes_do_not_matter():
    values = grid().values.double()
    codes = values @ torch.tensor([[1.0, 0.3], [-0.5, 2.0]]).double() + 0.1 * torch.randn(160, 2)
    found, other = (of(c, grid(), classifier=STUMP) for c in (codes, 1 - 3 * codes.flip(1)))
    assert means(found) == pytest.approx(means(other), abs=1e-9)
    torch.testing.assert_close(found.information, other.information.flip(0))


def test_factors_rotated_by_45_degrees_are_in_no_code():
    factors = grid()
    a, b = factors.values.unbind(1)
    found = of(torch.stack([a + b, a - b], 1), factors)
    # The sum of two uniform values: 1, 2, ..., M, ..., 1 of M².
    p = torch.tensor([*range(1, M + 1), *range(M - 1, 0, -1)]).double() / M**2
    n, cells = len(factors), (len(p), M, M**2)
    correction = (cells[0] + cells[1] - cells[2] - 1) / (2 * n)
    expected = -(p * p.log()).sum().item() - math.log(M) + correction
    torch.testing.assert_close(found.information, torch.full((2, 2), expected).double())
    for name in ("mig", "modularity", "sap"):
        assert getattr(found, name).mean == pytest.approx(0, abs=1e-9), name
    torch.testing.assert_close(found.attributes, torch.full((2, 2), 0.5).double())
    assert found.disentanglement.mean < 0.05
    assert found.completeness.mean < 0.05
    assert found.informativeness.mean == 1  # nothing is lost


def test_a_factor_in_two_codes_is_disentangled_but_not_complete():
    factors = grid()
    a, b = factors.values.unbind(1)
    found = of(torch.stack([a, a, b], 1), factors)
    assert found.mig.mean == pytest.approx(0.5)
    assert found.sap.mean == pytest.approx(0.5)
    assert found.modularity.mean == pytest.approx(1, abs=1e-9)
    assert found.disentanglement.mean == pytest.approx(1)
    shared = found.importances[:2, 0]
    assert shared.sum() == pytest.approx(1)
    assert (shared > 0.2).all()  # a tree takes either
    entropy = -(shared * shared.log()).sum().item() / math.log(3)
    assert found.completeness.mean == pytest.approx(1 - entropy / 2, abs=0.02)


def test_two_factors_in_one_code_are_not_disentangled():
    factors = grid()
    a, b = factors.values.unbind(1)
    found = of((M * a + b).unsqueeze(1), factors)
    torch.testing.assert_close(
        found.information, torch.full((1, 2), math.log(M)).double(), atol=0.01, rtol=0
    )
    assert found.disentanglement.mean == pytest.approx(0)
    assert found.modularity.mean == pytest.approx(0, abs=1e-9)
    assert_undefined(found, "mig", "sap", "completeness")


def assert_undefined(found, *names):
    """Exactly these scores are NaN, with a reason that is printed."""
    assert {name for name in SCORES if math.isnan(getattr(found, name).mean)} == {*names}
    assert found.undefined.keys() == {*names}
    assert all(math.isnan(getattr(found, name).standard_error) for name in names)
    assert str(found).count("undefined: ") == len(names)
    assert "nan" not in str(found)


def test_one_factor_cannot_be_apart_from_others():
    factors = grid().only(["a"])
    found = of(torch.stack([factors.values[:, 0], grid().values[:, 1]], 1), factors)
    assert_undefined(found, "modularity", "disentanglement")
    assert "modularity undefined: one factor" in " ".join(str(found).split())
    for name in ("mig", "sap", "completeness", "informativeness"):
        assert getattr(found, name).mean == pytest.approx(1), name


def test_one_code_of_one_factor_has_only_the_information():
    factors = grid().only(["a"])
    found = of(factors.values, factors)
    assert_undefined(found, "mig", "modularity", "sap", "disentanglement", "completeness")
    assert found.informativeness.mean == 1
    corrected = math.log(M) + (M - 1) / (2 * len(factors))
    assert found.information.item() == pytest.approx(corrected)


@pytest.mark.parametrize(
    "classifier", [None, pytest.param(STUMP, marks=pytest.mark.slow), LogisticRegression()]
)
def test_constant_codes_say_nothing(classifier):
    factors = grid()
    found = of(torch.zeros(len(factors), 3), factors, classifier=classifier)
    assert_undefined(found, "modularity", "disentanglement")
    for name in ("mig", "sap", "completeness"):
        assert getattr(found, name).mean == 0, name
    assert (found.information == 0).all()
    assert (found.importances == 0).all()
    # A constant code beside others changes what is said of none of them.
    with_constant = of(torch.cat([factors.values, torch.ones(len(factors), 1)], 1), factors)
    assert means(with_constant) == pytest.approx(dict.fromkeys(SCORES, 1.0), abs=1e-9)


def test_noise_says_nothing():
    torch.manual_seed(0)
    n, bins = 1000, 20
    factors = Factors(torch.randint(M, (n, 2)), ("a", "b"), categorical=("b",))
    found = of(torch.randn(n, 3), factors, bins=bins)
    # 2 N times the plug-in estimate is χ² of so many degrees of freedom, whose mean is taken off.
    freedom = (bins - 1) * (M - 1)
    error = math.sqrt(2 * freedom) / (2 * n)
    assert (found.information <= 4 * error).all()
    assert (found.shuffled_information.abs() <= 4 * error).all()
    assert math.isnan(found.modularity.mean)
    assert found.mig.mean < 4 * error
    assert found.sap.mean < 4 * 2 / math.sqrt(n)
    informed = found.informativeness
    assert informed.mean == pytest.approx(found.chance, abs=4 * informed.standard_error + 0.02)
    assert found.disentanglement.mean < 0.02


def test_dci_of_importances_by_hand():
    importances = torch.tensor([[3.0, 1.0], [0.0, 2.0], [0.0, 0.0]]).double()
    dis, comp = disentanglement_and_completeness(importances)

    def entropy(*p):
        return -sum(q * math.log(q) for q in p)

    assert dis.item() == pytest.approx(4 / 6 * (1 - entropy(0.75, 0.25) / math.log(2)) + 2 / 6)
    assert comp.item() == pytest.approx((1 + 1 - entropy(1 / 3, 2 / 3) / math.log(3)) / 2)
    dis, comp = disentanglement_and_completeness(torch.tensor([[0.0, 1.0], [0.0, 1.0]]).double())
    assert (dis.item(), comp.item()) == pytest.approx((1.0, 0.0))  # nothing predicts the first


def test_the_histogram_is_corrected_for_its_bias():
    """A factor and uniform noise, which have 8 sums: the mean over data sets is exact."""
    torch.manual_seed(0)

    def information(n):
        values = torch.randint(M, (n, 1))
        found = of_codes(values + torch.randint(5, (n, 1)), Factors(values, ("a",)), None, 0)
        return found.of(torch.ones(n, dtype=torch.bool)).item()

    p = torch.zeros(8).double()
    for v in range(M):
        p[v : v + 5] += 1 / 20
    exact = -(p * p.log()).sum().item() - math.log(5)
    found = torch.tensor([information(100) for _ in range(300)])
    error = found.std().item() / math.sqrt(300)
    assert found.mean().item() == pytest.approx(exact, abs=4 * error)
    assert 8 * error < (20 - 8 - M + 1) / 200  # the bias of a plug-in estimate


def test_thresholds_on_one_code_have_the_balanced_accuracy_of_the_best():
    torch.manual_seed(0)
    n, noise = 4000, 0.5
    kind = (torch.rand(n) < 0.05).long()
    factors = Factors(kind.unsqueeze(1), ("kind",), categorical=("kind",))
    codes = torch.stack([kind + noise * torch.randn(n), torch.randn(n)], 1)
    found = of(codes, factors, classifier=STUMP)
    hit = dist.Normal(0.0, 1.0).cdf(torch.tensor(0.5 / noise)).item()
    error = math.sqrt(hit * (1 - hit) / (0.05 * n))
    assert found.attributes[0, 0].item() == pytest.approx(2 * hit - 1, abs=4 * error)
    assert abs(found.attributes[1, 0].item()) < 4 * 2 * 0.5 / math.sqrt(0.05 * n)


@unchecked
@pytest.mark.slow
def test_standard_errors_are_those_over_data_sets():
    torch.manual_seed(0)
    found = []
    for seed in range(25):
        values = torch.randint(2, (300, 2))
        codes = values + 0.5 * torch.randn(300, 2)
        factors = Factors(values, ("a", "b"), categorical=("b",))
        found.append(of(codes, factors, bins=4, classifier=STUMP, folds=2, seed=seed))
    for name in ("mig", "sap", "informativeness"):
        scores = [getattr(result, name) for result in found]
        spread = torch.tensor([s.mean for s in scores]).std().item()
        stated = sum(s.standard_error for s in scores) / len(scores)
        # 25 data sets give the spread to 14 %
        assert 0.5 < stated / spread < 1.6, name
        assert scores[0].count == 300


def test_a_classifier_may_have_coefficients():
    factors = grid()
    codes = factors.values + 0.05 * torch.randn(160, 2)
    found = of(codes, factors, classifier=LogisticRegression())
    assert found.informativeness.mean > 0.95
    assert found.disentanglement.mean > 0.5


# Stochastic codes


def channel(q):
    """A pair whose guide draws z ~ q(x)."""

    def model(x):
        with pyro.plate("data", len(x)):
            dims = q(x).event_shape[0]
            z = pyro.sample("z", dist.Normal(torch.zeros(dims), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z[..., :1], 1.0).to_event(1), obs=x[:, :1])

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", q(x))

    return Programs(model, guide)


def test_a_gaussian_channel_has_its_mutual_information(float64):
    torch.manual_seed(0)
    factors, noise = grid(20), 0.4
    x = factors.values.double()
    scale = torch.tensor([noise, noise, 3.0])

    def q(x):
        loc = torch.stack([x[:, 0], x[:, 1], torch.zeros(len(x))], 1)
        return dist.Normal(loc, scale).to_event(1)

    found = disentanglement(channel(q), x, factors=factors, num_samples=5, classifier=STUMP)
    z = torch.linspace(-4, M + 3, 20_000)
    p = dist.Normal(torch.arange(M).double(), noise).log_prob(z.unsqueeze(1)).exp().mean(1)
    entropy = -(p * p.log()).sum().item() * (z[1] - z[0]).item()
    exact = entropy - 0.5 * math.log(2 * math.pi * math.e * noise**2)
    error = found.mig.standard_error
    assert 0 < error < 0.02
    assert found.mig.mean == pytest.approx(exact / math.log(M), abs=4 * error)
    off = found.information.clone()
    off[0, 0] = off[1, 1] = 0
    # no information, but for the clamp of estimates that have no error here
    assert off.abs().max() < 1e-9
    assert found.entropy.tolist() == pytest.approx([math.log(M)] * 2)
    assert found.modularity.mean == pytest.approx(1, abs=1e-9)
    # by a histogram of the means all would be known
    assert of(x, factors, classifier=STUMP).mig.mean == pytest.approx(1)


def test_draws_say_less_than_the_means_and_shuffled_factors_say_what_chance_does(float64):
    torch.manual_seed(0)
    x = torch.randn(300, 2)
    factors = Factors(torch.randint(M, (300, 1)), ("a",))
    wide, narrow = (
        disentanglement(
            channel(lambda x, s=s: dist.Normal(x, s).to_event(1)),
            x,
            factors=factors,
            classifier=STUMP,
        )
        for s in (1.0, 1e-3)
    )
    assert wide.information.max() < 0.02
    assert narrow.information.max() > 0.5  # 300 data apart from one another
    ratio = narrow.shuffled_information / narrow.information
    assert (ratio > 0.9).all()
    assert (ratio < 1.1).all()


def test_a_code_without_x_has_no_information(float64):
    x = torch.randn(60, 2)
    factors = Factors(torch.arange(60).remainder(3).unsqueeze(1), ("a",))
    pair = channel(lambda x: dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
    found = disentanglement(pair, x, factors=factors, classifier=STUMP)
    assert found.information.abs().max() < 1e-12
    assert found.mig.mean == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("posterior", [p for p in POSTERIORS if "flow" not in p and p != "iaf"])
def test_the_information_is_that_of_the_sums_by_hand(posterior, float64, monkeypatch):
    pair, x = vae("standard", posterior), binary(12)
    values = torch.stack([torch.arange(12) % 2, torch.arange(12) % 3], 1)
    factors = Factors(values, ("a", "b"))
    monkeypatch.setattr("ppl_vae.evaluation.factor_scores.BLOCK", 5)
    monkeypatch.setattr("ppl_vae.evaluation.code_information.DENSITIES", 100)
    seen = []

    def spied(owner, q, draws, *rest):
        seen.append((q, draws))
        return of_posteriors(owner, q, draws, *rest)

    monkeypatch.setattr("ppl_vae.evaluation.factor_scores.of_posteriors", spied)
    found = disentanglement(pair, x, factors=factors, num_samples=3, classifier=STUMP, folds=2)
    ((q, draws),) = seen
    assert draws.shape[:2] == (3, 12)
    expected = torch.zeros(draws.shape[2], 2)
    density = torch.cat([b.log_prob(draws.reshape(36, 1, -1)).exp() for b in q], 1)
    for row in range(36):
        for j in range(draws.shape[2]):
            for k in range(2):
                same = values[:, k] == values[row % 12, k]
                p = density[row, :, j]
                expected[j, k] += (p[same].mean() / p.mean()).log() / 36
    torch.testing.assert_close(found.information, expected.clamp(min=0))


def test_the_factors_of_a_data_set_are_used_and_the_same_seed_repeats():
    images = data.sprites(60, size=16, scales=1, orientations=1, positions=5, seed=0)
    assert images.factors.names == ("shape", "x", "y")
    x = images.tensor()[:, :D].contiguous()
    made = Dataset(x, factors=images.factors)
    pair = vae()
    before, of_numpy = torch.get_rng_state(), np.random.get_state()[1].copy()
    stump = DecisionTreeClassifier(max_depth=1)  # random, and without a state of its own
    one, again = (disentanglement(pair, made, seed=3, classifier=stump) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert (np.random.get_state()[1] == of_numpy).all()
    assert one.information.shape == one.importances.shape == one.attributes.shape
    assert one.factors == ("shape", "x", "y")
    by_hand = disentanglement(pair, x, factors=images.factors, seed=3, classifier=stump)
    for other in (again, by_hand):
        assert repr(one) == repr(other)
        assert torch.equal(one.information, other.information)
    assert "mutual information gap" in repr(one)
    assert "shape" in one._repr_html_()
    with pytest.raises(TypeError, match="factors must not be given"):
        disentanglement(pair, made, factors=images.factors)


def test_a_flow_has_no_marginals():
    x = binary(20)
    factors = Factors(torch.arange(20).remainder(2).unsqueeze(1), ("a",))
    name = next(p for p in POSTERIORS if "flow" in p)
    with pytest.raises(NotImplementedError, match=r"no closed form; use disentanglement_of_codes"):
        disentanglement(vae("standard", name), x, factors=factors)
