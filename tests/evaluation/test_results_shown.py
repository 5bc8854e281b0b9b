"""What a result looks like in a terminal and in a notebook."""

import math
from dataclasses import fields

import pytest
import torch

from ppl_vae import evaluation
from ppl_vae.evaluation import Estimate, ImportanceResampling, RankedQuantity
from ppl_vae.evaluation.rank_fit import RankFit
from ppl_vae.evaluation.results import Result

PER_DATUM = torch.tensor([-90.0, -80.0])
ONE = Estimate(101.5, 0.55, 100)
RESULTS = {
    "ELBOTerms": (ONE, Estimate(82.6, 0.5), Estimate(18.9, 0.1)),
    "LogLikelihood": (PER_DATUM, PER_DATUM.abs() / 100, PER_DATUM.abs(), torch.tensor([0.5, 0.9])),
    "AnnealedLikelihood": (PER_DATUM, PER_DATUM.abs(), PER_DATUM.abs(), torch.tensor([0.6, 0.7])),
    "BidirectionalBounds": (PER_DATUM, PER_DATUM + 1, torch.zeros(2, 3)),
    "KLDecomposition": ("z", ONE, ONE, ONE, None, None, 4.6, dict.fromkeys(
        ("total_correlation", "dimension_wise_kl"), "no closed form of <b>")),
    "LatentUnits": ("z", torch.tensor([0.0, 2.0]), 0.01, torch.tensor([0.1, 3.0]),
                    torch.zeros(2), True, None, None),
    "InferenceGap": (PER_DATUM, PER_DATUM - 1, PER_DATUM - 3),
    "Clustering": (Estimate(0.5, 0.1, 9), 0.3, 0.2, {0: 1}, 0.25, 3, 2, 0.9),
    "Reliability": (0.04, torch.tensor([0.0, 0.5, 1.0]), torch.tensor([0, 9]),
                    torch.tensor([math.nan, 0.8]), torch.tensor([math.nan, 0.7]),
                    Estimate(0.7, 0.1, 9), 0.8),
    "Disentanglement": (("a", "b"), *[Estimate(0.4, 0.1, 9)] * 5, Estimate(0.8, 0.1, 9), 0.3,
                        torch.eye(2), torch.zeros(2, 2), torch.ones(2), torch.eye(2), torch.eye(2)),
    "Calibration": ((
        RankedQuantity("z_1", "latent", torch.zeros(9).int(), False, 1e-6,
                       RankFit(0.3, 0.04, math.log(2), 0.03, 8.0, 9.0)),
        RankedQuantity("log p(x, z)", "log density", torch.zeros(9).int(), False, 1e-6,
                       RankFit(-0.3, 0.04, 0.0, 0.03, -8.0, 0.0)),
    ), 99, 0.95, torch.zeros(99), torch.ones(99)),
    "PredictiveChecks": (("mean", "zeros"), torch.tensor([1.0, 0.5]),
                         torch.tensor([[0.0, 0.5], [2.0, 0.5], [1.5, 0.6]]), "prior"),
    "PosteriorDraws": ({"z": torch.zeros(9, 2, 3)}, torch.tensor([True, False]),
                       torch.tensor([8.0, 2.0]), torch.tensor([0.2, 0.9]), None, None,
                       ImportanceResampling()),
}  # fmt: skip
SHOWN = {
    "ELBOTerms": ["NELBO           101.50 ± 0.55 nats per datum"],
    "LogLikelihood": ["85.00 ± 5.00 nats per datum over 2 data", "> 0.7 for 1 data"],
    "AnnealedLikelihood": ["85.00 ± 5.00 nats per datum", "0.65"],
    "BidirectionalBounds": ["-85.00 ± 5.00 nats per datum", "1.00 ± 0.00 over 2 simulated data"],
    "KLDecomposition": ["101.50 ± 0.55 nats per datum", "of at most 4.60", "no closed form"],
    "LatentUnits": ["1 of 2 of 'z'", "3.1 nats per datum", "1, 0"],
    "InferenceGap": ["3.00 ± 0.00 nats per datum over 2 data", "approximation  1.00", "2.00"],
    "Clustering": ["50.0 % of at most 90.0 % with 3 clusters for 2 classes", "0.300"],
    "Disentanglement": [
        "gap  0.40 ± 0.10",
        "0.80 ± 0.10, by chance 0.30",
        "b 1.00 of 1.00 in z[1]",
    ],
    "Calibration": [
        "not calibrated: 2 of 2 quantities leave their bands",
        "9, with 99 draws of q each",
        "too narrow    1 of 1 entries: z_1 0.50 ± 0.01 times the width needed",
        "shifted down  1 of 1 entries: z_1 0.30 ± 0.04 standard deviations of q",
        "draws too probable: q too narrow",
    ],
    "Reliability": ["4.0 %", "70.0 ± 10.0 %", "9 in 1 of 2 bins"],
    "PredictiveChecks": ["mean", "zeros"],
    "PosteriorDraws": ["9 for 2 data of z (3,)", "1 data, by", "> 0.7 for 1 data"],
}


@pytest.fixture(params=RESULTS)
def named(request):
    return request.param, getattr(evaluation, request.param)(*RESULTS[request.param])


def test_every_public_result_is_listed():
    public = [getattr(evaluation, name) for name in evaluation.__all__]
    results = {c.__name__ for c in public if isinstance(c, type) and issubclass(c, Result)}
    assert results == set(RESULTS) == set(SHOWN)
    assert [f.name for f in fields(Estimate)] == ["mean", "standard_error", "count"]


def test_text_has_a_title_and_the_values_with_their_units(named):
    name, result = named
    lines = repr(result).splitlines()
    assert lines[0] == name
    assert 3 <= len(lines) <= 8
    assert all(line.startswith("  ") for line in lines[1:])
    for part in SHOWN[name]:
        assert part in repr(result)
    assert "tensor(" not in repr(result) + str(result)


def test_html_is_one_table_of_the_same_rows(named):
    _, result = named
    html = result._repr_html_()
    assert html.startswith("<table>")
    assert html.count("<tr>") == html.count("<td>") == len(repr(result).splitlines()) - 1
    assert "<b>" not in html  # what a value says is text


def test_an_estimate_says_of_how_many_data_it_is():
    assert repr(ONE) == "Estimate(101.5 ± 0.55, count=100)"
    assert repr(Estimate(1 / 3, math.nan)) == "Estimate(0.333333 ± nan)"
    assert str(ONE) == "101.50 ± 0.55"
