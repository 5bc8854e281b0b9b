"""The cover of a cross product meets every pair of values, and is small."""

from itertools import combinations, product

import pytest
from pairs import CONDITIONAL_PRIORS, LIKELIHOODS, POSTERIORS, PRIORS
from pairwise import cross, pairwise

AXES = {
    "one axis": {"a": range(4)},
    "two axes": {"a": "xy", "b": range(3)},
    "an axis of one value": {"a": "xy", "b": [None], "c": range(3)},
    "equal values on several axes": {"a": [0, 1], "b": [0, 1], "c": [0, 1], "d": [0, 1]},
    "longest axis last": {"a": range(2), "b": range(3), "c": range(4), "d": range(7)},
    "parts": {"prior": list(PRIORS), "q": list(POSTERIORS), "p": list(LIKELIHOODS)},
    "parts given y": {"prior": [*PRIORS, *CONDITIONAL_PRIORS], "q": list(POSTERIORS), "p": "ab"},
}


@pytest.mark.parametrize("name", AXES)
def test_every_pair_of_values_occurs(name):
    axes = AXES[name]
    cases = pairwise(axes)
    assert set(cases) <= set(product(*axes.values()))
    assert len(set(cases)) == len(cases)
    for (i, a), (j, b) in combinations(enumerate(axes.values()), 2):
        assert {(case[i], case[j]) for case in cases} == set(product(a, b))


@pytest.mark.parametrize(("name", "most"), [("parts", 144), ("parts given y", 84)])
def test_a_cover_is_about_the_product_of_the_two_longest_axes(name, most):
    assert len(pairwise(AXES[name])) <= most


def test_a_cover_is_the_same_each_time():
    assert pairwise(AXES["parts"]) == pairwise(AXES["parts"])


def test_the_full_product_is_there_and_what_the_cover_leaves_out_is_slow():
    axes = AXES["longest axis last"]
    _, cases = cross(**axes).mark.args
    assert [case.values for case in cases] == list(product(*axes.values()))
    fast = [case.values for case in cases if not case.marks]
    assert sorted(fast) == sorted(pairwise(axes))
    assert {mark.name for case in cases for mark in case.marks} == {"slow"}
