"""Every setting of a run is declared once: functions, flags and configurations agree with it."""

import inspect
from dataclasses import fields
from inspect import Parameter

import pytest
from lightning_fabric import Fabric

from ppl_vae import data
from ppl_vae.cli.configuration import Configuration
from ppl_vae.cli.flags import entry_of
from ppl_vae.io.config.signature import Argument, convert
from ppl_vae.spec import (
    ARGUMENTS,
    ENTRIES,
    IN_PYTHON,
    MAY_CHANGE,
    SECTIONS,
    DeviceSpec,
    FitSpec,
    entries,
)
from ppl_vae.training import fit


def keywords(function):
    found = inspect.signature(function).parameters.values()
    return {p.name: p for p in found if p.kind is Parameter.KEYWORD_ONLY}


def test_fit_has_the_arguments_of_the_spec():
    parameters = keywords(fit)
    assert list(parameters) == [field.name for field in fields(FitSpec)]
    assert {n: p.default for n, p in parameters.items()} == {
        field.name: field.default for field in fields(FitSpec)
    }
    others = [p for n, p in inspect.signature(fit).parameters.items() if n not in parameters]
    assert [p.name for p in others] == ["pair", "data"]


def test_load_has_the_arguments_of_the_spec():
    parameters = keywords(data.load)
    of_file = {entry.name: entry for entry in entries("data") if entry.load}
    assert list(parameters) == [
        name for name in ["root", "split", *list(of_file)[1:], "seed"] if name in parameters
    ]
    assert {*parameters} == {*of_file, "split", "seed"}
    assert all(parameters[name].default == entry.default for name, entry in of_file.items())


def test_devices_are_arguments_of_fabric():
    assert {field.name for field in fields(DeviceSpec)} <= {*inspect.signature(Fabric).parameters}


def test_every_argument_of_fit_can_be_typed():
    for name, setting in ARGUMENTS.items():
        place = setting.place or f"--fit.{name}"
        if place == IN_PYTHON:
            continue  # code
        section = place.partition(".")[0]
        assert place.startswith("--") or section in {*SECTIONS, "estimator", "optimizer"} | {
            "lr_schedule"
        }
        if setting.place is None:
            assert entry_of(place) == place[2:]


@pytest.mark.parametrize("path", ENTRIES)
def test_a_default_is_of_its_type(path):
    entry = ENTRIES[path]
    argument = Argument(entry.name, "value", entry.hint, entry.default)
    assert convert(argument, entry.default, path) == entry.default


def test_an_empty_configuration_has_every_default():
    full = Configuration.of({}).mapping()
    for section in SECTIONS:
        assert full[section] == {entry.name: entry.default for entry in entries(section)}
    for argument in ("estimator", "optimizer"):
        assert full[argument].items() >= ARGUMENTS[argument].default.items()


def test_what_may_change_is_told_by_the_spec():
    decisive = {"beta", "batch_size", "seed", "estimator", "optimizer", "validation", "stopping"}
    assert not decisive & {*MAY_CHANGE}
    assert {"steps", "out", "resume", "fabric", "progress"} <= {*MAY_CHANGE}
