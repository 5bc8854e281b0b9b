"""The suite's own checks of types and shapes notice what jaxtyping and beartype notice."""

from collections.abc import Iterator
from dataclasses import dataclass

import jaxtyping
import pytest
import torch
from beartype import beartype
from jaxtyping import Float
from run_time_types import jaxtyped
from torch import Tensor


def first_of_each_column(x: Float[Tensor, "n d"], y: Float[Tensor, "n"]) -> Float[Tensor, "d"]:
    return x[0] if len(x) < 4 else x[0, :1]


def text_of(number: int) -> str:
    return str(number) if number else None


def with_a_name_that_is_not_there(numbers: list[int], other: "NotImported" = None) -> str:
    return str(numbers)


@dataclass
class Numbered:
    number: int
    name: str = ""


def numbers_up_to(end: int) -> Iterator[int]:
    yield from range(end)


def rows(x: Float[Tensor, "n d"], y: Float[Tensor, "n"]) -> Iterator[Tensor]:
    yield from x


def checked(function):
    return jaxtyped(function, typechecker=beartype)


def test_shapes_agree_between_arguments_and_result():
    call = checked(first_of_each_column)
    assert call(torch.ones(3, 2), torch.ones(3)).shape == (2,)
    for x, y in ((torch.ones(3, 2), torch.ones(2)), (torch.ones(4, 2), torch.ones(4))):
        with pytest.raises(jaxtyping.TypeCheckError):
            call(x, y)


@pytest.mark.parametrize("function", [text_of, with_a_name_that_is_not_there])
def test_types_are_checked_without_shapes(function):
    with pytest.raises(jaxtyping.TypeCheckError):
        checked(function)("3")


def test_results_are_checked():
    assert checked(text_of)(3) == "3"
    with pytest.raises(jaxtyping.TypeCheckError):
        checked(text_of)(0)


def test_dataclasses_are_checked():
    class Named(checked(Numbered)):
        pass

    assert Numbered(3) == Numbered(3, "")
    for wrong in (lambda: Numbered("3"), lambda: Numbered(3, name=3), lambda: Named(None)):
        with pytest.raises(jaxtyping.TypeCheckError):
            wrong()


def test_generators_are_checked():
    assert list(checked(numbers_up_to)(3)) == [0, 1, 2]
    with pytest.raises(jaxtyping.TypeCheckError):
        next(checked(numbers_up_to)("3"))
    assert len(list(checked(rows)(torch.ones(3, 2), torch.ones(3)))) == 3
    with pytest.raises(jaxtyping.TypeCheckError):
        next(checked(rows)(torch.ones(3, 2), torch.ones(2)))


def test_checks_are_off_as_users_see_it(as_users_see_it):
    assert checked(text_of)(0) is None
    assert checked(first_of_each_column)(torch.ones(3, 2), None).shape == (2,)
