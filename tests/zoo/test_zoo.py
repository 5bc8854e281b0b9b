"""The pairs that come with the package are small, and do what their cards say."""

import importlib.util
import shlex
from pathlib import Path

import pytest
import torch

from ppl_vae import ConditionalVAE, data, zoo
from ppl_vae.cli.configuration import Configuration, written
from ppl_vae.cli.main import _parsed
from ppl_vae.io.config.files import read_file
from ppl_vae.io.config.resolver import resolve

ROOT = Path(__file__).parents[2]
NAMES = zoo.names()
pytestmark = pytest.mark.usefixtures("as_users_see_it")


def recipes():
    spec = importlib.util.spec_from_file_location("zoo_recipes", ROOT / "benchmarks" / "zoo.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.RECIPES


def test_every_recipe_has_been_trained():
    found = recipes()
    assert [*sorted(found)] == NAMES
    for name, (description, command) in found.items():
        card = zoo.card(name)
        assert (card.name, card.description, card.command) == (name, description, command)


def test_there_are_at_least_five():
    assert len(NAMES) >= 5


@pytest.mark.parametrize("name", NAMES)
def test_it_is_small(name):
    files = list(zoo.folder(name).iterdir())
    assert {file.name for file in files} == {"card.json", "config.yaml", "model.safetensors"}
    assert sum(file.stat().st_size for file in files) < 2_000_000


@pytest.mark.parametrize("name", NAMES)
def test_it_is_what_its_command_trains(name):
    words = shlex.split(zoo.card(name).command)[1:]
    _, typed, flags = _parsed(words)
    configuration = Configuration.of(written(typed.configuration, flags))
    saved = read_file(zoo.folder(name) / "config.yaml")["model"]
    planned = resolve(configuration.model, data=data.load("digits"))
    for model in (saved, planned):
        model["prior"].pop("bounds", None)  # of a VampPrior: those of the data, once it is trained
    assert saved == planned


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if "ssvae" in n else ()) for n in NAMES]
)
def test_it_reaches_the_numbers_on_its_card(name):
    before = torch.get_rng_state()
    pair, card = zoo.load(name), zoo.card(name)
    assert not pair.training
    found = zoo.evaluated(pair)
    assert found.keys() == card.numbers.keys()
    for number, (value, error) in card.numbers.items():
        # The same draws, but for the rounding of another machine.
        assert found[number][0] == pytest.approx(value, abs=0.1 * error + 1e-4), number
        assert found[number][1] == pytest.approx(error, rel=0.1), number
    assert torch.equal(before, torch.get_rng_state())
    assert 15 < card.numbers["NELBO"][0] < 30
    if name == "digits-ssvae":
        assert card.numbers["accuracy"][0] > 0.8
    shown = repr(card), card._repr_html_()
    assert all("1,437 training" in text for text in shown)


def test_the_map_of_two_dimensions_is_of_digits():
    """What tutorials look at: two latents, and means that look like the data."""
    for name in ("digits-vae", "digits-gmvae", "digits-vampprior", "digits-flow"):
        pair = zoo.load(name)
        x = pair.generate(50, mean=True)
        nearest = torch.cdist(x, data.load("digits").tensor()).min(1).values
        assert nearest.mean() < 2.5
        assert pair.prior().event_shape == (2,)
    assert isinstance(zoo.load("digits-cvae"), ConditionalVAE)


@pytest.mark.parametrize(
    ("name", "error", "named"),
    [
        (3, TypeError, "name must be one of digits-cvae, .* got 3"),
        ("digits-gmvea", ValueError, "there is no 'digits-gmvea'; did you mean 'digits-gmvae'?"),
        ("../configs", ValueError, "there is no '../configs'; The names are digits-cvae"),
    ],
)
def test_other_names_are_refused(name, error, named):
    for function in (zoo.load, zoo.card, zoo.folder):
        with pytest.raises(error, match=named):
            function(name)


def row_of(name):
    """Return the row of the page's table."""
    numbers = zoo.card(name).numbers
    cells = [f"{v:.2f} ± {e:.2f}" for n, (v, e) in numbers.items() if n != "accuracy"]
    accuracy = numbers.get("accuracy")
    last = "" if accuracy is None else f"{accuracy[0]:.1%} ± {accuracy[1]:.1%}".replace("%", " %")
    kib = sum(file.stat().st_size for file in zoo.folder(name).iterdir()) / 1024
    return f"| `{name}` | {' | '.join([*cells, last])} | {kib:.0f} |"


def test_the_page_has_the_numbers_of_the_cards():
    page = (ROOT / "docs" / "zoo.md").read_text()
    assert [row_of(name) for name in NAMES if row_of(name) not in page] == []
