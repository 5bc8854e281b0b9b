"""From kinds of columns to their distributions."""

import numpy as np
import pytest

from ppl_vae import columns
from ppl_vae.tables import FAMILIES, Column, Schema
from ppl_vae.tables.families import columns_of

DTYPE = [*((name, "f8") for name in "abc"), ("d", "i8"), ("e", "i8"), ("f", object), ("g", "f8")]
ROWS = [
    (1.5, 0.5, 0.0, 3, 1, "a", 0.2),
    (-1.0, 2.0, 1.5, 0, 0, "b", 0.7),
    (3.0, 4.5, 2.5, 9, 1, "c", 0.4),
]
FRAME = np.array(ROWS, dtype=DTYPE)


def made(families=None, **kinds):
    schema = Schema.infer(FRAME, kinds=kinds)
    return columns_of(schema, *schema.encode(FRAME), families or {})


def test_each_kind_has_a_family_standardised_by_what_is_observed():
    found = made(
        e="binary", g=Column("g", "bounded", low=0, high=1), d=Column("d", "ordinal", (0, 3, 9))
    )
    kinds = [type(column).__name__ for column in found]
    assert kinds == [
        *("Normal", "LogNormal", "HurdleLogNormal", "Ordinal", "Bernoulli", "Categorical"),
        "LogitNormal",
    ]
    assert found[0].mean == pytest.approx(FRAME["a"].mean())
    assert found[0].std == pytest.approx(FRAME["a"].std())
    assert found[1].log_mean == pytest.approx(np.log(FRAME["b"]).mean())
    assert found[2].log_mean == pytest.approx(np.log(FRAME["c"][1:]).mean())
    assert (found[3].levels, found[5].categories) == (3, 3)
    assert (found[6].low, found[6].high) == (0, 1)


def test_other_families_are_chosen_by_kind():
    found = made({"real": "StudentT", "positive": "Gamma", "count": "Poisson"}, e="binary")
    assert isinstance(found[0], columns.StudentT)
    assert isinstance(found[1], columns.Gamma)
    assert isinstance(found[3], columns.Poisson)
    assert found[3].mean == pytest.approx(4)


@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.parametrize("x", [np.array([3.0, 3.0]), np.array([2.0]), np.array([1.0, 1e6])])
def test_constant_and_wide_columns_have_finite_constants(kind, x):
    for make in FAMILIES[kind].values():
        column = make(x)
        values = [getattr(column, name) for name in column.constants]
        assert np.isfinite(values).all()


def test_all_zeros_have_a_family():
    assert FAMILIES["nonnegative"]["HurdleLogNormal"](np.zeros(3)).log_std == 1
    assert FAMILIES["count"]["NegativeBinomial"](np.zeros(3)).mean > 0


@pytest.mark.parametrize(
    ("families", "message"),
    [
        ({"real": "Cauchy"}, "a real column may be 'Normal' or 'StudentT', got 'Cauchy'"),
        (
            {"binary": "Probit"},
            "families: the kinds that have a choice are 'real', .*, got 'binary'",
        ),
    ],
)
def test_unknown_families(families, message):
    with pytest.raises(ValueError, match=message):
        made(families)
