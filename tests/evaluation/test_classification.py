"""Accuracy, its interval and calibration against counting by hand."""

import math

import pytest
import torch
from pairs import C, binary, ssvae, vae
from torch import nn
from torch.utils.data import DataLoader

from ppl_vae.data import Dataset
from ppl_vae.evaluation import (
    Estimate,
    accuracy,
    accuracy_interval,
    expected_calibration_error,
    reliability,
)


class Stated(nn.Module):
    """Logits of the probabilities that the first entries of x are."""

    def forward(self, x):
        return (x[..., :C] + 1e-9).log()


def stated():
    """Return data and a pair whose classifier is known: two bins of four, of 3 and 2 data."""
    p = [[0.6, 0.4, 0.0], [0.3, 0.7, 0.0], [0.55, 0.0, 0.45], [0.9, 0.05, 0.05], [0.0, 0.0, 1.0]]
    x = torch.cat([torch.tensor(p), torch.rand(5, 3)], 1)
    return ssvae().replace(classifier=Stated()), x, torch.tensor([0, 1, 1, 0, 0])


def test_accuracy_counts():
    pair, x = ssvae(), binary(40)
    likeliest = pair.classify(x).argmax(-1)
    y = likeliest.clone()
    y[:10] = (y[:10] + 1) % C
    result = accuracy(pair, x, y, batch_size=7)
    assert result.mean == 0.75
    assert result.standard_error == pytest.approx(math.sqrt(0.75 * 0.25 / 39))


def test_accuracy_takes_grey_values():
    x = torch.rand(5, 6)
    assert 0 <= accuracy(ssvae(), x, torch.zeros(5, dtype=torch.long)).mean <= 1


def test_reliability_of_a_pair_by_hand(float64):
    pair, x, y = stated()
    result = reliability(pair, x, y, bins=4)
    first = abs(2 / 3 - (0.6 + 0.7 + 0.55) / 3)
    last = abs(1 / 2 - (0.9 + 1.0) / 2)
    assert result.error == pytest.approx(3 / 5 * first + 2 / 5 * last)
    assert result.count.tolist() == [0, 0, 3, 2]
    assert result.accuracy[2:].tolist() == pytest.approx([2 / 3, 1 / 2])
    errors = [math.sqrt(2 / 9 / 3), math.sqrt(1 / 4 / 2)]
    assert result.accuracy_standard_error[2:].tolist() == pytest.approx(errors)
    assert result.overall_confidence == pytest.approx((0.6 + 0.7 + 0.55 + 0.9 + 1.0) / 5)
    assert result.overall_accuracy == accuracy(pair, x, y)
    assert result.overall_accuracy.mean == pytest.approx(3 / 5)


def test_reliability_takes_data_sets_batches_and_arrays(float64):
    pair, x, y = stated()
    y[3] = -1  # which is left out
    expected = reliability(pair, x, y, batch_size=2)
    assert expected.count.sum() == expected.overall_accuracy.count == 4
    data = Dataset(x, y)
    for given in (data, data.batches(2, binarise="none"), DataLoader(data, 2)):
        assert_same(reliability(pair, given), expected)
    for given in ((x.numpy(), y.numpy()), (x, y.numpy()), (x.numpy(), y)):
        assert_same(reliability(pair, *given), expected)
        assert accuracy(pair, *given) == expected.overall_accuracy


def assert_same(found, expected):
    for name, value in vars(expected).items():
        if isinstance(value, Estimate):
            assert getattr(found, name) == value
        else:
            torch.testing.assert_close(getattr(found, name), value, equal_nan=True)


def test_reliability_under_a_mask():
    pair, x = ssvae(), binary(20)
    y, mask = torch.arange(20) % C, torch.rand(20, 6) < 0.7
    found = reliability(pair, x, y, mask=mask)
    expected = expected_calibration_error(pair.classify(x, mask=mask), y)
    assert found.error == pytest.approx(expected.error, abs=1e-6)


def test_pairs_without_labels_have_no_reliability(as_users_see_it):
    with pytest.raises(TypeError, match=r"reliability: pair must have classify"):
        reliability(vae(), binary(), torch.zeros(5, dtype=torch.long))


def test_wilson_interval_solves_its_equation():
    for p, n, level in ((0.9, 100, 0.95), (0.5, 7, 0.8), (0.0, 20, 0.99), (1.0, 20, 0.95)):
        low, high = accuracy_interval(p, n, level=level)
        assert 0 <= low <= p <= high <= 1
        c = torch.distributions.Normal(0.0, 1.0).icdf(torch.tensor((1 + level) / 2)).item()
        for end in (low, high):
            if 0 < end < 1:
                error = math.sqrt(end * (1 - end) / n)
                assert abs(p - end) == pytest.approx(c * error, rel=1e-4)
    assert accuracy_interval(Estimate(0.9, 0.03), 100) == accuracy_interval(0.9, 100)
    assert accuracy_interval(1.0, 20)[0] == pytest.approx(20 / (20 + 1.959964**2), rel=1e-5)


def test_the_interval_has_its_nominal_coverage(float64):
    """Summed over the binomial distribution: 95 % on average over accuracies."""
    n = 50
    count = torch.arange(n + 1)
    ends = torch.tensor([accuracy_interval(int(k) / n, n) for k in count])
    truths = torch.linspace(0.02, 0.98, 97)
    binomial = torch.distributions.Binomial(n, truths.unsqueeze(1))
    covered = (ends[:, 0] <= truths.unsqueeze(1)) & (truths.unsqueeze(1) <= ends[:, 1])
    coverage = (binomial.log_prob(count.double()).exp() * covered).sum(-1)
    assert coverage.mean().item() == pytest.approx(0.95, abs=0.01)
    assert coverage.min() > 0.8


def test_calibration_error_by_hand(float64):
    """Two bins of ten: (0.6, 0.7] with 3 data, 2 right; (0.9, 1] with 2 data, 1 right."""
    p = torch.tensor([[0.65, 0.35], [0.3, 0.7], [0.64, 0.36], [0.95, 0.05], [0.0, 1.0]])
    result = expected_calibration_error(p, torch.tensor([0, 1, 1, 0, 0]), bins=10)
    first, last = abs(2 / 3 - (0.65 + 0.7 + 0.64) / 3), abs(1 / 2 - 1.95 / 2)
    assert result.error == pytest.approx(3 / 5 * first + 2 / 5 * last)
    assert result.count.tolist() == [0] * 6 + [3] + [0] * 2 + [2]
    assert result.accuracy[6].item() == pytest.approx(2 / 3)
    assert result.confidence[9].item() == pytest.approx(0.975)
    assert result.accuracy[:6].isnan().all()
    assert result.edges.tolist() == pytest.approx([m / 10 for m in range(11)])
    assert str(result) == f"expected calibration error {100 * result.error:.1f} %"


def test_a_confidence_on_an_edge_belongs_to_the_bin_below(float64):
    p = torch.tensor([[0.5, 0.5], [0.75, 0.25], [0.76, 0.24]])
    result = expected_calibration_error(p, torch.tensor([0, 0, 0]), bins=4)
    assert result.count.tolist() == [0, 1, 1, 1]


def test_calibrated_predictions_have_an_error_near_zero():
    logits = 2 * torch.randn(100_000, 4)
    p = logits.softmax(-1)
    drawn = torch.distributions.Categorical(p).sample()
    assert expected_calibration_error(p, drawn).error < 0.01
    sharp = (3 * logits).softmax(-1)  # too sure of the same
    result = expected_calibration_error(sharp, drawn)
    full = result.count > 500
    assert (result.confidence > result.accuracy)[full].all()
    accuracy = (sharp.argmax(-1) == drawn).double().mean().item()
    overconfidence = sharp.max(-1).values.double().mean().item() - accuracy
    assert result.error == pytest.approx(overconfidence, abs=0.005)


P = torch.full((4, 2), 0.5)
Y = torch.zeros(4, dtype=torch.long)
REFUSED = [
    (lambda: expected_calibration_error(P + 0.1, Y), "rows of numbers from 0 that sum to 1"),
    (lambda: expected_calibration_error(P * math.nan, Y), "sum to 1"),
    (lambda: expected_calibration_error(torch.tensor([[1.5, -0.5]]), Y[:1]), "sum to 1"),
    (
        lambda: expected_calibration_error(P, Y + 2),
        "integers from 0 to 1, -1 where unknown, got values from 2",
    ),
    (lambda: expected_calibration_error(P, Y[:3]), r"labels of shape \(4,\)"),
    (lambda: expected_calibration_error(P[:0], Y[:0]), "at least one datum"),
    (lambda: expected_calibration_error(P, Y, bins=0), "bins must be 1 or more"),
    (lambda: accuracy_interval(93, 100), "divide percent by 100"),
    (lambda: accuracy_interval(0.5, 0), "n must be 1 or more"),
    (lambda: accuracy_interval(0.5, 5, level=1), "level must be between 0 and 1"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_invalid_input_raises(call, message, as_users_see_it):
    with pytest.raises(ValueError, match=message):
        call()


def test_labels_are_integers(as_users_see_it):
    with pytest.raises(TypeError, match="integers from 0 to 1"):
        expected_calibration_error(P, Y.float())
