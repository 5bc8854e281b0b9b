"""Configuration files in YAML and JSON, and what is refused in them."""

import json

import pytest
import torch
import yaml
from configs import SEMI, SHORTEST, mixture, net_of, without
from hypothesis import given, settings
from hypothesis import strategies as st

from ppl_vae.io.config import ConfigError, dump, from_config, to_config
from ppl_vae.io.config.resolver import resolve


@pytest.mark.parametrize("as_str", [False, True])
@pytest.mark.parametrize("under_model", [False, True])
@pytest.mark.parametrize("kind", ["yaml", "yml", "json"])
def test_configuration_files_are_read(tmp_path, kind, under_model, as_str):
    file = tmp_path / f"pair.{kind}"
    mapping = {"model": SHORTEST} if under_model else SHORTEST
    file.write_text(json.dumps(mapping) if kind == "json" else dump(mapping))
    assert to_config(from_config(str(file) if as_str else file)) == resolve(SHORTEST)


def test_yaml_numbers_without_a_dot_are_numbers(tmp_path):
    """YAML 1.1 reads 1e-3 as a string."""
    file = tmp_path / "pair.yaml"
    file.write_text(
        dump(SHORTEST).replace("Bernoulli", "{class: Normal, scale: 1e-3}"), encoding="utf-8"
    )
    assert from_config(file).likelihood.scale == 1e-3


@given(scale=st.floats(min_value=1e-300, max_value=1e300))
@settings(max_examples=50, deadline=None)
def test_floats_survive_a_file(scale):
    mapping = {**SHORTEST, "likelihood": {"class": "Normal", "scale": scale}}
    assert yaml.safe_load(dump(mapping)) == mapping


def test_a_dump_is_readable():
    assert dump({**mixture(), **without(net_of("posterior", hidden=(3, 4)), "prior")}) == (
        "class: VAE\n"
        "latent_dim: 3\n"
        "event_shape: 8\n"
        "likelihood: Bernoulli\n"
        "prior:\n"
        "  class: GaussianMixture\n"
        "  components: 5\n"
        "posterior:\n"
        "  class: DiagonalNormal\n"
        "  net:\n"
        "    hidden: [3, 4]\n"
    )


def test_a_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.yaml"):
        from_config(tmp_path / "nothing.yaml")


def ten(key, value):
    return f"{{{key}: [{', '.join(10 * [value])}]}}"


FILES = {
    "a Python tag": (
        "pair.yaml",
        "!!python/object/apply:os.system ['true']",
        "plain YAML, without",
    ),
    "a Python tag within": (
        "pair.yaml",
        "class: VAE\nprior: !!python/name:os.system\n",
        r"pair\.yaml cannot be read: line 2: could not determine a constructor",
    ),
    "broken YAML": (
        "pair.yaml",
        "class: [VAE",
        r"pair\.yaml cannot be read: line 1: ",
    ),
    "broken JSON": ("pair.json", "{'class': 1}", r"pair\.json is not valid JSON"),
    "a list": ("pair.yaml", "- VAE", "must be a mapping with a class"),
    "nothing": ("pair.yaml", "", "must be a mapping with a class.*got null"),
    "itself": ("pair.yaml", "class: VAE\nprior: &p {net: *p}", "circular reference"),
    "aliases that explode": (
        "pair.yaml",
        "a0: &a0 [1,1,1,1,1,1,1,1,1,1]\n"
        + "".join(f"a{i}: &a{i} [{','.join(10 * [f'*a{i - 1}'])}]\n" for i in range(1, 9)),
        "more than 5000 entries",
    ),
    "merges that explode": (
        "pair.yaml",
        "a0: &a0 {x: 1}\n"
        + "".join(f"a{i}: &a{i} {ten('<<', f'*a{i - 1}')}\n" for i in range(1, 9)),
        r"pair\.yaml: the configuration has more than 5000 entries",
    ),
    "lists of merges that explode": (
        "pair.yaml",
        "a0: &a0 [{x: 1}]\n"
        + "".join(f"a{i}: &a{i} [{','.join(10 * [f'*a{i - 1}'])}]\n" for i in range(1, 9))
        + "b: {<<: *a8}\n",
        r"pair\.yaml cannot be read: line 8: expected a mapping for merging",
    ),
    "a merge into itself": ("pair.yaml", "class: &a {<<: [*a, *a]}", r"line 1: .*into itself"),
    "a merge into what is around it": (
        "pair.yaml",
        "&whole\nprior:\n  net: {<<: *whole}",
        r"line 1: .*merged \(<<\) into itself",
    ),
    "a list of merges into its entries": (
        "pair.yaml",
        f"prior: &all [{'{<<: *all}, ' * 30}{{x: 1}}]",
        r"line 1: .*into itself",
    ),
    "too deep": ("pair.yaml", "[" * 5000, "nested too deeply"),
    "too deep in JSON": ("pair.json", "[" * 10**5, "nested too deeply"),
    "a key twice": (
        "pair.yaml",
        "class: VAE\nprior: StandardNormal\nlatent_dim: 3\nprior: Flow\n",
        r"pair\.yaml: line 4: duplicate key 'prior', first on line 2",
    ),
    "a key twice, in quotes and within": (
        "pair.yaml",
        "class: VAE\nprior: {class: Flow, 'class': Flow}",
        r"line 2: duplicate key 'class'",
    ),
    "a key and its alias": ("pair.yaml", "&k class: VAE\n*k : VAE", "duplicate key 'class'"),
    "a key twice in JSON": (
        "pair.json",
        '{"class": "VAE", "prior": {"class": "Flow", "class": "Flow"}}',
        r"pair\.json: duplicate key 'class'; remove one",
    ),
}


def test_a_key_may_override_a_merged_one(tmp_path):
    """A key overrides the same key of the mapping that is merged, wherever that is written."""
    file = tmp_path / "pair.yaml"
    file.write_text(
        dump(without(SEMI, "likelihood"))
        + "likelihood: {class: Bernoulli, net: &net {class: MLP, hidden: [5], activation: Tanh}}\n"
        + "posterior: {class: DiagonalNormal, net: &second {hidden: [4], <<: *net}}\n"
        + "prior: {class: ConditionalNormal, net: {<<: [*second, *net]}}\n"
    )
    pair = from_config(file)
    nets = (pair.likelihood.net, pair.posterior.net, pair.prior.net)
    assert [net.hidden for net in nets] == [(5,), (4,), (4,)]
    assert all(net.activation is torch.nn.Tanh for net in nets)


@pytest.mark.parametrize("case", FILES)
def test_invalid_configuration_files(tmp_path, case):
    name, text, words = FILES[case]
    file = tmp_path / name
    file.write_text(text)
    with pytest.raises(ConfigError, match=words):
        from_config(file)
