"""No public class has Python's default repr, which says an address and nothing else."""

import inspect

import pytest
from pyro.infer import Trace_ELBO

import ppl_vae
from ppl_vae import estimators
from ppl_vae.estimators import ImportanceWeightedELBO, KLWeighted, TemperatureScheduled


def public_classes():
    rooms = [ppl_vae, *(r for _, r in inspect.getmembers(ppl_vae, inspect.ismodule))]
    found = {
        f"{room.__name__}.{name}": getattr(room, name)
        for room in rooms
        for name in getattr(room, "__all__", ())
    }
    return {name: thing for name, thing in found.items() if inspect.isclass(thing)}


def test_public_classes_have_a_repr():
    found = public_classes()
    assert len(found) >= 100
    del found["ppl_vae.training.Callback"]  # a base of classes of one's own
    assert [name for name, cls in found.items() if cls.__repr__ is object.__repr__] == []


@pytest.mark.parametrize(
    ("thing", "expected"),
    [
        (
            TemperatureScheduled(ImportanceWeightedELBO(3), 0.5),
            "TemperatureScheduled(ImportanceWeightedELBO(num_particles=3), WarmUp(",
        ),
        (KLWeighted(Trace_ELBO(), len), "KLWeighted(Trace_ELBO(), len)"),
        (estimators.KLWeight(0.5), "KLWeight(0.5)"),
        (estimators.Temperature(2), "Temperature(2)"),
    ],
)
def test_reprs_of_schedules(thing, expected):
    assert repr(thing).startswith(expected)
    assert " at 0x" not in repr(thing)
