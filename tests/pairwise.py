"""Pairwise coverage of a cross product: every two values of any two axes meet in some case.

Most faults need two choices to show, not five. A cover of the pairs is about as large as the
product of the two longest axes.
"""

from collections.abc import Hashable, Iterable, Sequence
from itertools import combinations, product

import pytest


def pairwise(axes: dict[str, Sequence[Hashable]]) -> list[tuple]:
    """Return cases, a value of each axis in order, that cover every pair of values.

    Greedy and deterministic: a case starts at the first pair not yet covered, and every further
    axis takes the value that covers the most pairs, of several the least used.
    """
    values = [tuple(axis) for axis in axes.values()]
    if len(values) < 2:
        return list(product(*values))
    longest_first = sorted(range(len(values)), key=lambda i: -len(values[i]))
    missing = dict.fromkeys(
        ((i, a), (j, b))
        for i, j in combinations(longest_first, 2)
        for a, b in product(values[i], values[j])
    )
    uses = {(i, value): 0 for i, axis in enumerate(values) for value in axis}
    cases = []
    while missing:
        case = dict(next(iter(missing)))
        for i in longest_first:
            if i not in case:
                case[i] = max(
                    values[i],
                    key=lambda v, i=i: (
                        sum(pair in missing for pair in _pairs(case | {i: v}, longest_first)),
                        -uses[i, v],
                    ),
                )
        for pair in _pairs(case, longest_first):
            missing.pop(pair, None)
        for chosen in case.items():
            uses[chosen] += 1
        cases.append(tuple(case[i] for i in range(len(values))))
    return cases


def _pairs(case, order):
    return combinations([(i, case[i]) for i in order if i in case], 2)


def cross(**axes: Iterable[Hashable]):
    """Parametrise a test over a cross product: pairwise by default, in full under ``-m slow``.

    >>> @cross(prior=PRIORS, posterior=POSTERIORS, likelihood=LIKELIHOODS)
    ... def test_vae(prior, posterior, likelihood): ...
    """
    values = {name: tuple(axis) for name, axis in axes.items()}
    cover = set(pairwise(values))
    cases = [
        pytest.param(*case, id="-".join(map(str, case)), marks=[] if case in cover else _SLOW)
        for case in product(*values.values())
    ]
    return pytest.mark.parametrize(tuple(values), cases)


_SLOW = [pytest.mark.slow]
