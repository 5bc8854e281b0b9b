"""Pairs as plain data: what is left out follows, round trips are exact, errors name the path."""

import copy
import json
import sys
import textwrap

import pairs
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pairs import CONDITIONAL_PRIORS, LIKELIHOODS, POSTERIORS, PRIORS, C
from torch import nn

import ppl_vae
from ppl_vae import (
    VAE,
    ConditionalVAE,
    HierarchicalVAE,
    SemiSupervisedVAE,
    StackedVAE,
    config,
    likelihoods,
    nets,
    posteriors,
    priors,
)
from ppl_vae.config import ConfigError, dump, from_config, resolve, to_config
from ppl_vae.data import Dataset

SHORTEST = {"class": "VAE", "latent_dim": 3, "event_shape": 8, "likelihood": "Bernoulli"}
IMAGES = {**SHORTEST, "event_shape": [1, 6, 5]}
SEMI = {**SHORTEST, "class": "SemiSupervisedVAE", "num_classes": 4}
CONDITIONAL = {**SHORTEST, "class": "ConditionalVAE", "context_features": 2}


def mlp(width_in, width_out, hidden=(300, 300), activation="ELU"):
    return {
        "class": "MLP",
        "in_features": width_in,
        "out_features": width_out,
        "hidden": list(hidden),
        "activation": activation,
    }


def vae(prior, posterior, likelihood):
    return VAE(prior=prior, posterior=posterior, likelihood=likelihood)


def with_own_posterior(make_prior, posterior, likelihood):
    return vae(make_prior(posterior), posterior, likelihood)


# What a user writes, and the same in Python.
SHORT = {
    "the shortest": (
        SHORTEST,
        lambda: vae(
            priors.StandardNormal(3),
            posteriors.DiagonalNormal(nets.MLP(8, 6)),
            likelihoods.Bernoulli(nets.MLP(3, 8)),
        ),
    ),
    "a mixture prior": (
        {**SHORTEST, "prior": {"class": "GaussianMixture", "components": 5}},
        lambda: vae(
            priors.GaussianMixture(3, components=5),
            posteriors.DiagonalNormal(nets.MLP(8, 6)),
            likelihoods.Bernoulli(nets.MLP(3, 8)),
        ),
    ),
    "latent_dim at the prior": (
        {
            "class": "VAE",
            "event_shape": [8],
            "prior": {"class": "priors.DiagonalNormal", "latent_dim": 3},
            "likelihood": {"class": "ppl_vae.likelihoods.Poisson"},
        },
        lambda: vae(
            priors.DiagonalNormal(3),
            posteriors.DiagonalNormal(nets.MLP(8, 6)),
            likelihoods.Poisson(nets.MLP(3, 8)),
        ),
    ),
    "networks": (
        {
            **SHORTEST,
            "posterior": {
                "class": "FullRankNormal",
                "net": {"class": "GatedMLP", "hidden": [7]},
            },
            "likelihood": {
                "class": "Normal",
                "scale": "per-pixel",
                "net": {"hidden": (), "activation": "nn.Tanh"},
            },
        },
        lambda: vae(
            priors.StandardNormal(3),
            posteriors.FullRankNormal(nets.GatedMLP(8, 9, hidden=(7,))),
            likelihoods.Normal(nets.MLP(3, 16, hidden=(), activation=nn.Tanh), scale="per-pixel"),
        ),
    ),
    "options that widen networks": (
        {
            **SHORTEST,
            "posterior": {"class": "LowRankNormal", "rank": 2},
            "likelihood": {"class": "DiscretisedLogisticMixture", "components": 2, "levels": 4},
        },
        lambda: vae(
            priors.StandardNormal(3),
            posteriors.LowRankNormal(nets.MLP(8, 12), rank=2),
            likelihoods.DiscretisedLogisticMixture(nets.MLP(3, 48), components=2, levels=4),
        ),
    ),
    "a flow posterior": (
        {**SHORTEST, "posterior": {"class": "Flow", "kind": "spline", "context_features": 5}},
        lambda: vae(
            priors.StandardNormal(3),
            posteriors.Flow(nets.MLP(8, 11), 3, "spline", context_features=5),
            likelihoods.Bernoulli(nets.MLP(3, 8)),
        ),
    ),
    "a VampPrior of the pair's posterior": (
        {**SHORTEST, "prior": {"class": "VampPrior", "pseudo_inputs": 4, "bounds": [0, 1]}},
        lambda: with_own_posterior(
            lambda q: priors.VampPrior(q, 4, event_shape=(8,), bounds=(0, 1)),
            posteriors.DiagonalNormal(nets.MLP(8, 6)),
            likelihoods.Bernoulli(nets.MLP(3, 8)),
        ),
    ),
    "images": (
        {**IMAGES, "likelihood": {"class": "Normal", "scale": "per-pixel"}},
        lambda: vae(
            priors.StandardNormal(3),
            posteriors.DiagonalNormal(nets.ConvEncoder((1, 6, 5), 6)),
            likelihoods.Normal(nets.ConvDecoder(3, (2, 6, 5)), scale="per-pixel", event_dim=3),
        ),
    ),
    "one convolutional network": (
        {
            **IMAGES,
            "likelihood": {
                "class": "Bernoulli",
                "net": {"class": "ConvDecoder", "channels": [4, 2]},
            },
        },
        lambda: vae(
            priors.StandardNormal(3),
            posteriors.DiagonalNormal(nets.ConvEncoder((1, 6, 5), 6)),
            likelihoods.Bernoulli(nets.ConvDecoder(3, (1, 6, 5), channels=(4, 2)), event_dim=3),
        ),
    ),
    "semi-supervised": (
        {**SEMI, "classification_weight": 10},
        lambda: SemiSupervisedVAE(
            prior=priors.StandardNormal(3),
            classifier=nets.MLP(8, 4),
            posterior=posteriors.DiagonalNormal(nets.MLP(12, 6)),
            likelihood=likelihoods.Bernoulli(nets.MLP(7, 8)),
            num_classes=4,
            classification_weight=10.0,
        ),
    ),
    "semi-supervised, a conditional prior and a bare classifier": (
        {**SEMI, "prior": "ConditionalNormal", "classifier": {"class": "MLP", "hidden": [2]}},
        lambda: SemiSupervisedVAE(
            prior=priors.ConditionalNormal(nets.MLP(4, 6)),
            classifier=nets.MLP(8, 4, hidden=(2,)),
            posterior=posteriors.DiagonalNormal(nets.MLP(12, 6)),
            likelihood=likelihoods.Bernoulli(nets.MLP(7, 8)),
            num_classes=4,
        ),
    ),
    "semi-supervised, images": (
        {**SEMI, "event_shape": [1, 6, 5]},
        lambda: SemiSupervisedVAE(
            prior=priors.StandardNormal(3),
            classifier=nets.ConvEncoder((1, 6, 5), 4),
            posterior=posteriors.DiagonalNormal(nets.ConvEncoder((1, 6, 5), 6, context_features=4)),
            likelihood=likelihoods.Bernoulli(nets.ConvDecoder(7, (1, 6, 5)), event_dim=3),
            num_classes=4,
        ),
    ),
    "conditional on a vector": (
        {**CONDITIONAL, "prior": {"class": "ConditionalFlow", "hidden": [5]}},
        lambda: ConditionalVAE(
            prior=priors.ConditionalFlow(3, 2, hidden=(5,)),
            posterior=posteriors.DiagonalNormal(nets.MLP(10, 6)),
            likelihood=likelihoods.Bernoulli(nets.MLP(5, 8)),
            context_features=2,
        ),
    ),
    "conditional on a label": (
        {**SHORTEST, "class": "ConditionalVAE", "num_classes": 4},
        lambda: ConditionalVAE(
            prior=priors.StandardNormal(3),
            posterior=posteriors.DiagonalNormal(nets.MLP(12, 6)),
            likelihood=likelihoods.Bernoulli(nets.MLP(7, 8)),
            num_classes=4,
        ),
    ),
    "stacked": (
        {
            "class": "StackedVAE",
            "first": {**SHORTEST, "prior": {"class": "VampPrior", "pseudo_inputs": 4}},
            "second": {**SEMI, "latent_dim": 2, "event_shape": 3, "likelihood": "Normal"},
        },
        lambda: StackedVAE(
            first=with_own_posterior(
                lambda q: priors.VampPrior(q, 4, event_shape=(8,)),
                posteriors.DiagonalNormal(nets.MLP(8, 6)),
                likelihoods.Bernoulli(nets.MLP(3, 8)),
            ),
            second=SemiSupervisedVAE(
                prior=priors.StandardNormal(2),
                classifier=nets.MLP(3, 4),
                posterior=posteriors.DiagonalNormal(nets.MLP(7, 4)),
                likelihood=likelihoods.Normal(nets.MLP(6, 3)),
                num_classes=4,
            ),
        ),
    ),
}


def shapes(module):
    return {name: t.shape for name, t in module.state_dict().items()}


@pytest.mark.parametrize("case", SHORT)
def test_short_forms_mean_what_one_would_write_in_python(case):
    short, in_python = SHORT[case]
    before = copy.deepcopy(short)
    pair, expected = from_config(short), in_python()
    assert short == before
    assert shapes(pair) == shapes(expected)
    assert to_config(pair) == to_config(expected) == resolve(short)


@pytest.mark.parametrize("case", SHORT)
def test_full_mappings_are_complete_and_plain(case):
    full = resolve(SHORT[case][0])
    assert resolve(full) == full
    assert to_config(from_config(full)) == full
    assert json.loads(json.dumps(full)) == full


def test_the_example():
    """latent_dim stands once; the full mapping has everything."""
    pair = from_config(
        {
            "class": "VAE",
            "latent_dim": 10,
            "event_shape": 784,
            "prior": {"class": "GaussianMixture", "components": 500},
            "posterior": {"class": "DiagonalNormal"},
            "likelihood": {"class": "Bernoulli"},
        }
    )
    full = to_config(pair)
    assert (
        full.pop("prior").items()
        >= {
            "class": "GaussianMixture",
            "latent_dim": 10,
            "components": 500,
            "learn_weights": False,
        }.items()
    )
    assert full == {
        "class": "VAE",
        "posterior": {"class": "DiagonalNormal", "net": mlp(784, 20)},
        "likelihood": {"class": "Bernoulli", "net": mlp(10, 784), "event_dim": 1},
    }


def hierarchical(inference="bottom-up", vamp=False):
    lower = posteriors.DiagonalNormal(nets.MLP(6, 8, hidden=(5,)))
    upper = posteriors.DiagonalNormal(nets.MLP(6 if vamp else 4, 4, hidden=(5,)))
    conditional = priors.ConditionalNormal(nets.MLP(2, 8, hidden=(5,)))
    if inference == "top-down":
        lower = posteriors.PrecisionWeighted(nets.MLP(6, 8, hidden=(5,)), conditional)
        upper = posteriors.DiagonalNormal(nets.MLP(6, 4, hidden=(5,)))
    return HierarchicalVAE(
        prior=priors.VampPrior(upper, 3, event_shape=(6,)) if vamp else priors.StandardNormal(2),
        conditionals=[conditional],
        posteriors=[lower, upper],
        likelihood=likelihoods.Bernoulli(nets.MLP(4, 6)),
        inference=inference,
    )


ALL = {
    **{f"prior: {name}": lambda name=name: pairs.vae(prior=name) for name in PRIORS},
    **{f"posterior: {name}": lambda name=name: pairs.vae(posterior=name) for name in POSTERIORS},
    **{f"likelihood: {n}": lambda n=n: pairs.vae(likelihood=n) for n in LIKELIHOODS},
    **{f"ssvae: {n}": lambda n=n: pairs.ssvae(n) for n in (*CONDITIONAL_PRIORS, "vamp")},
    "ssvae: weight": lambda: pairs.ssvae(alpha=0.3),
    "hierarchical": hierarchical,
    "hierarchical, ladder": lambda: hierarchical("top-down"),
    "hierarchical, vamp": lambda: hierarchical("top-down", vamp=True),
}


def densities(pair):
    """Return log-densities under every part, at values that depend on nothing but its shapes."""
    torch.manual_seed(3)
    x = torch.rand(5, 6).round()
    if isinstance(pair, HierarchicalVAE):
        z, w = torch.randn(5, 4), torch.randn(5, 2)
        lower = pair.posteriors[0]
        below = (x, w) if isinstance(lower, posteriors.PrecisionWeighted) else (x,)
        return [
            pair.prior().log_prob(w),
            pair.conditionals[0](w).log_prob(z),
            lower(*below).log_prob(z),
            pair.likelihood(z).log_prob(x),
        ]
    z, y = torch.randn(5, 2), torch.eye(C)[torch.arange(5) % C]
    further = (y,) if isinstance(pair, SemiSupervisedVAE) else ()
    try:
        prior = pair.prior(*further)
    except TypeError:
        prior = pair.prior()
    return [
        prior.log_prob(z),
        pair.posterior(x, *further).log_prob(z),
        pair.likelihood(z, *further).log_prob(x),
    ]


@pytest.mark.parametrize("case", ALL)
def test_a_pair_is_built_again(case, tmp_path):
    pair = ALL[case]()
    file = tmp_path / "pair.yaml"
    file.write_text(dump(pair))
    again = from_config(file)
    assert to_config(again) == to_config(pair)
    assert repr(again) == repr(pair)
    again.load_state_dict(pair.state_dict())
    for ours, theirs in zip(densities(pair), densities(again), strict=True):
        assert torch.equal(ours, theirs)


def test_a_module_in_two_places_is_written_once():
    full = to_config(pairs.vae("vamp"))
    assert full["prior"]["posterior"] == "${posterior}"
    assert full["posterior"]["class"] == "DiagonalNormal"
    pair = from_config(full)
    assert pair.prior.posterior is pair.posterior


def test_references_reach_into_lists():
    full = to_config(hierarchical("top-down", vamp=True))
    assert full["prior"]["posterior"] == "${posteriors[1]}"
    assert full["posteriors"][0]["conditional"] == "${conditionals[0]}"
    pair = from_config(full)
    assert pair.prior.posterior is pair.posteriors[1]
    assert pair.posteriors[0].conditional is pair.conditionals[0]
    full["prior"]["posterior"] = "${posteriors.1}"
    assert from_config(full).prior.posterior is not None


def test_a_reference_is_written_back_where_it_is_nearest_to_the_pair():
    """Whichever of the two places holds the mapping, the full form is one."""
    inner = {"class": "DiagonalNormal"}
    short = {
        **SHORTEST,
        "prior": {"class": "VampPrior", "pseudo_inputs": 4, "event_shape": [8]},
        "posterior": "${prior.posterior}",
    }
    short["prior"]["posterior"] = {**inner, "net": mlp(8, 6)}
    other = copy.deepcopy(short)
    other["prior"]["posterior"], other["posterior"] = "${posterior}", short["prior"]["posterior"]
    assert resolve(short) == resolve(other)
    assert resolve(short)["prior"]["posterior"] == "${posterior}"
    pair = from_config(short)
    assert pair.prior.posterior is pair.posterior


def test_networks_can_be_shared_by_a_reference():
    square = {**SHORTEST, "latent_dim": 4}  # MLP(8, 8) for both the posterior and the classifier
    pair = from_config(
        {
            **square,
            "class": "SemiSupervisedVAE",
            "num_classes": 8,
            "classifier": {"class": "Categorical", "net": {"hidden": [3]}},
            "posterior": {"class": "DiagonalNormal", "net": mlp(16, 8)},
            "prior": {"class": "ConditionalNormal", "net": "${classifier.net}"},
        }
    )
    assert pair.prior.net is pair.classifier.net


def test_yaml_anchors_are_copies():
    text = """
    class: VAE
    latent_dim: 3
    event_shape: 8
    posterior: {class: DiagonalNormal, net: &net {class: MLP, hidden: [5]}}
    likelihood: {class: Bernoulli, net: *net}
    """
    pair = from_config(yaml.safe_load(textwrap.dedent(text)))
    assert pair.posterior.net is not pair.likelihood.net
    assert (pair.posterior.net.out_features, pair.likelihood.net.out_features) == (6, 8)


# --- files


@pytest.mark.parametrize("as_str", [False, True])
@pytest.mark.parametrize("under_model", [False, True])
@pytest.mark.parametrize("kind", ["yaml", "yml", "json"])
def test_files(tmp_path, kind, under_model, as_str):
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


def test_a_dump_is_for_reading():
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


FILES = {
    "a Python tag": ("pair.yaml", "!!python/object/apply:os.system ['true']", "plain YAML; tags"),
    "a Python tag within": (
        "pair.yaml",
        "class: VAE\nprior: !!python/name:os.system\n",
        r"pair\.yaml cannot be read: .*could not determine a constructor(.|\n)*line 2",
    ),
    "broken YAML": ("pair.yaml", "class: [VAE", r"pair\.yaml cannot be read"),
    "broken JSON": ("pair.json", "{'class': 1}", r"pair\.json is no JSON"),
    "a list": ("pair.yaml", "- VAE", "must be a mapping with a class"),
    "nothing": ("pair.yaml", "", "must be a mapping with a class.*got null"),
    "itself": ("pair.yaml", "class: VAE\nprior: &p {net: *p}", "contains itself"),
    "aliases that explode": (
        "pair.yaml",
        "a0: &a0 [1,1,1,1,1,1,1,1,1,1]\n"
        + "".join(f"a{i}: &a{i} [{','.join(10 * [f'*a{i - 1}'])}]\n" for i in range(1, 9)),
        "more than 10000 entries",
    ),
}


@pytest.mark.parametrize("case", FILES)
def test_files_that_are_no_configuration(tmp_path, case):
    name, text, words = FILES[case]
    file = tmp_path / name
    file.write_text(text)
    with pytest.raises(ConfigError, match=words):
        from_config(file)


# --- errors


def prior(**arguments):
    return {**SHORTEST, "prior": arguments}


def mixture(**arguments):
    return prior(**{"class": "GaussianMixture", "components": 5, **arguments})


def net_of(part, **arguments):
    names = {"posterior": "DiagonalNormal", "likelihood": "Bernoulli"}
    return {**SHORTEST, part: {"class": names[part], "net": arguments}}


def without(mapping, *names):
    return {k: v for k, v in mapping.items() if k not in names}


LAYERS = {
    "class": "HierarchicalVAE",
    "prior": {"class": "StandardNormal", "latent_dim": 2},
    "conditionals": [{"class": "ConditionalNormal", "net": mlp(2, 8)}],
    "posteriors": [
        {"class": "DiagonalNormal", "net": mlp(6, 8)},
        {"class": "DiagonalNormal", "net": mlp(4, 4)},
    ],
    "likelihood": {"class": "Bernoulli", "net": mlp(4, 6)},
}

ERRORS = {
    # names of classes
    "no class": ({}, "model: class is missing; write which, such as class: VAE"),
    "a pair misspelt": ({**SHORTEST, "class": "Vae"}, "model: there is no 'Vae' .*mean 'VAE'"),
    "the abstract pair": ({"class": "Pair"}, "no 'Pair' among models; accepted: .*VAE"),
    "a part for a pair": (
        {"class": "priors.StandardNormal", "latent_dim": 2},
        "model: 'priors.StandardNormal' is no pair; accepted: .*VAE",
    ),
    "a class misspelt": (
        prior(**{"class": "GausianMixture"}),
        r"model\.prior: there is no 'GausianMixture' among priors; did you mean "
        r"'GaussianMixture'\? Accepted: .*VampPrior.*full path",
    ),
    "a class of another room": (
        prior(**{"class": "Bernoulli"}),
        r"model\.prior: there is no 'Bernoulli' among priors \(likelihoods\.Bernoulli is",
    ),
    "a class of another room, in full": (
        {**SHORTEST, "posterior": "priors.StandardNormal"},
        "model: VAE: posterior is called with 1 context tensors",
    ),
    "a class that is no name": (prior(**{"class": ["x"]}), r"model\.prior: class must be the name"),
    "a class with code": (prior(**{"class": "f(); g"}), r"model\.prior: class must be the name"),
    "an activation misspelt": (
        net_of("posterior", activation="Elu"),
        r"model\.posterior\.net\.activation: there is no activation 'Elu'; did you mean 'ELU'",
    ),
    "an activation that is a number": (
        net_of("posterior", activation=3),
        r"model\.posterior\.net\.activation must be the name of an activation .*got 3 \(int\)",
    ),
    "an activation that needs arguments": (
        net_of("posterior", activation="Threshold"),
        "there is no activation 'Threshold'",
    ),
    # names of arguments
    "an unknown argument": (
        mixture(componets=4),
        r"model\.prior\.componets: GaussianMixture has no 'componets'; did you mean "
        r"'components'\? Accepted: components, latent_dim, learn_weights",
    ),
    "an unknown part": (
        {**SHORTEST, "priors": "StandardNormal"},
        r"model\.priors: VAE has no 'priors'; did you mean 'prior'\? Accepted: event_shape, lat",
    ),
    "an argument of another pair": (
        {**SHORTEST, "num_classes": 3},
        r"model\.num_classes: VAE has no 'num_classes'; accepted: event_shape",
    ),
    "an unknown argument of a network": (
        net_of("likelihood", width=3),
        r"model\.likelihood\.net\.width: MLP has no 'width'; accepted: activation, hidden",
    ),
    "a key that is no string": ({1: 2}, r"model: keys must be strings, got 1 \(int\)"),
    "another key beside model": (
        {"model": SHORTEST, "training": {}},
        "'model' must stand alone, got also 'training'",
    ),
    "a model that is no mapping": ({"model": 3}, r"model must be a mapping .*got 3 \(int\)"),
    # missing
    "no likelihood": (
        without(SHORTEST, "likelihood"),
        r"model\.likelihood is missing: VAE needs it",
    ),
    "a missing argument": (
        prior(**{"class": "GaussianMixture"}),
        r"model\.prior\.components is missing: GaussianMixture needs it",
    ),
    "no latent_dim": (
        without(SHORTEST, "latent_dim"),
        r"model\.prior\.latent_dim is missing: .* or latent_dim of the pair",
    ),
    "no event_shape": (
        without(SHORTEST, "event_shape"),
        r"model\.posterior\.net\.in_features is missing: MLP needs it; give it, or event_shape",
    ),
    "no num_classes": (
        without(SEMI, "num_classes"),
        r"model\.num_classes is missing: SemiSupervisedVAE needs it",
    ),
    "no condition": (
        without(CONDITIONAL, "context_features"),
        r"in_features is missing: MLP needs it; give it, or num_classes or context_features of",
    ),
    "layers without networks": (
        {**LAYERS, "posteriors": ["DiagonalNormal", "DiagonalNormal"]},
        r"model\.posteriors\[0\]\.net is missing: DiagonalNormal .*\{class: MLP, in_features",
    ),
    "layers without widths": (
        {**LAYERS, "likelihood": {"class": "Bernoulli", "net": "MLP"}},
        r"model\.likelihood\.net\.in_features is missing: MLP needs it; give it$",
    ),
    "layers without a prior": (without(LAYERS, "prior"), r"model\.prior is missing: Hierarch"),
    # types and values
    "a string for a number": (
        mixture(components="many"),
        r"model\.prior\.components must be an integer, got 'many' \(str\)",
    ),
    "a fraction for an integer": (mixture(components=2.5), r"components must be an integer, got 2"),
    "true for an integer": (mixture(components=True), r"components must be an integer, got True"),
    "null for an integer": (mixture(components=None), r"components must be an integer, got null"),
    "a list for an integer": (mixture(components=[1]), r"components must be an integer, got \[1\]"),
    "a word for true or false": (
        mixture(learn_weights="perhaps"),
        r"model\.prior\.learn_weights must be true or false, got 'perhaps'",
    ),
    "a number for a list": (
        net_of("posterior", hidden=300),
        r"model\.posterior\.net\.hidden must be a list of integers, got 300",
    ),
    "a list with a word": (
        net_of("posterior", hidden=[300, "wide"]),
        r"model\.posterior\.net\.hidden must be a list of integers, got \[300, 'wide'\]",
    ),
    "none of the words": (
        {**SHORTEST, "likelihood": {"class": "Normal", "scale": "learnt"}},
        r"model\.likelihood\.scale must be a number or 'learned' or 'per-pixel', got 'learnt'",
    ),
    "three bounds": (
        prior(**{"class": "VampPrior", "pseudo_inputs": 3, "bounds": [0, 1, 2]}),
        r"model\.prior\.bounds must be a list of 2: a number, a number or null, got \[0, 1, 2\]",
    ),
    "values for a tensor": (
        prior(**{"class": "VampPrior", "pseudo_inputs": [[0.0] * 8] * 99}),
        r"model\.prior\.pseudo_inputs must be an integer, got \[\[0.0, .{1,60} \.\.\. \(list\)$",
    ),
    "a number for a part": ({**SHORTEST, "likelihood": 5}, r"model\.likelihood must be the name"),
    "a number for a network": (
        {**SHORTEST, "likelihood": {"class": "Bernoulli", "net": 7}},
        r"model\.likelihood\.net must be the name of a class, a mapping .*got 7 \(int\)",
    ),
    "a mapping for a list": (
        {**LAYERS, "conditionals": {"class": "ConditionalNormal"}},
        r"model\.conditionals must be a list of mappings, got \{",
    ),
    "an object": (
        {**SHORTEST, "latent_dim": object()},
        r"model\.latent_dim is <object.*, which a configuration cannot hold",
    ),
    "latent_dim of zero": ({**SHORTEST, "latent_dim": 0}, r"model\.latent_dim must be 1 or more"),
    "latent_dim in words": ({**SHORTEST, "latent_dim": "ten"}, r"model\.latent_dim must be an int"),
    "an empty event": ({**SHORTEST, "event_shape": []}, r"model\.event_shape must be 1 or more"),
    "an event in words": (
        {**SHORTEST, "event_shape": [1, "a"]},
        r"model\.event_shape must be an integer or a list of integers, got \[1, 'a'\]",
    ),
    # the constructors' own
    "zero components": (
        mixture(components=0),
        r"model\.prior: GaussianMixture: components must be 1 or more, got 0",
    ),
    "zero rank": (
        {**SHORTEST, "posterior": {"class": "LowRankNormal", "rank": 0}},
        r"model\.posterior: LowRankNormal: rank must be 1 or more",
    ),
    "a negative scale": (
        {**SHORTEST, "likelihood": {"class": "Normal", "scale": -1}},
        r"model\.likelihood: Normal: scale must be a positive number",
    ),
    "an unknown flow": (
        prior(**{"class": "Flow", "kind": "glow"}),
        r"model\.prior: Flow: kind must be one of",
    ),
    "both conditions": (
        {**CONDITIONAL, "num_classes": 3},
        "model: ConditionalVAE: give num_classes .* and not both",
    ),
    "layers that do not fit": (
        {**LAYERS, "prior": {"class": "StandardNormal", "latent_dim": 3}},
        r"model: HierarchicalVAE: ",
    ),
    # sizes that disagree
    "two sizes of the latents": (
        mixture(latent_dim=20),
        r"model\.prior\.latent_dim is 20, but model\.latent_dim = 3 makes it 3; leave one",
    ),
    "a prior and a posterior": (
        {
            **without(SHORTEST, "latent_dim"),
            "prior": {"class": "StandardNormal", "latent_dim": 10},
            "posterior": {"class": "DiagonalNormal", "net": {"out_features": 40}},
        },
        r"posterior\.net\.out_features is 40, but model\.prior\.latent_dim = 10 makes it 20",
    ),
    "a full mapping that disagrees": (
        {**resolve(SHORTEST), "posterior": {"class": "DiagonalNormal", "net": mlp(8, 8)}},
        r"posterior\.net\.out_features is 8, but model\.prior\.latent_dim = 3 makes it 6",
    ),
    "an encoder of another width": (
        net_of("posterior", in_features=9),
        r"model\.posterior\.net\.in_features is 9, but model\.event_shape = 8 makes it 8",
    ),
    "a decoder of another width": (
        net_of("likelihood", out_features=9),
        r"model\.likelihood\.net\.out_features is 9, but model\.event_shape = 8 makes it 8",
    ),
    "labels and latents": (
        {**SEMI, "likelihood": {"class": "Bernoulli", "net": {"in_features": 3}}},
        r"in_features is 3, but model\.latent_dim = 3, model\.num_classes = 4 makes it 7",
    ),
    "a classifier of another width": (
        {**SEMI, "classifier": {"class": "MLP", "out_features": 5}},
        r"model\.classifier\.net\.out_features is 5, but model\.num_classes = 4 makes it 4",
    ),
    "a flat network for images": (
        {**IMAGES, "posterior": {"class": "DiagonalNormal", "net": "MLP"}},
        r"model\.posterior\.net: MLP is a network of flat data, but model\.event_shape = "
        r"\[1, 6, 5\]; write event_shape: 30",
    ),
    "a convolutional network for flat data": (
        net_of("posterior", **{"class": "ConvEncoder"}),
        r"model\.posterior\.net: ConvEncoder is a network of images, but model\.event_shape = 8; ",
    ),
    "a size of layers": (
        {**LAYERS, "latent_dim": 3},
        r"model\.latent_dim: HierarchicalVAE has no 'latent_dim'; give each part its sizes",
    ),
    # references
    "a reference to nothing": (
        {**SHORTEST, "likelihood": "${decoder}"},
        r"model\.likelihood: \$\{decoder\} is no part of the pair; .* \$\{prior\}, \$\{posterior\}",
    ),
    "a reference to a number": (
        {**SHORTEST, "likelihood": "${prior.latent_dim}"},
        r"\$\{prior\.latent_dim\} is no part of the pair",
    ),
    "a reference that never ends": (
        {**SHORTEST, "likelihood": "${prior"},
        r"\$\{prior is no part of the pair",
    ),
    "a reference to itself": (
        prior(**{"class": "VampPrior", "pseudo_inputs": 3, "posterior": "${prior}"}),
        r"model\.prior\.posterior is part of itself",
    ),
    "a reference to a reference": (
        {**SHORTEST, "prior": "${likelihood}", "likelihood": "${prior}"},
        r"model\.(prior|likelihood): .* is itself a reference",
    ),
    # what may be named
    "os.system": (prior(**{"class": "os.system"}), r"'os\.system' is outside ppl_vae .*allow="),
    "builtins": (prior(**{"class": "builtins.eval"}), r"'builtins\.eval' is outside ppl_vae"),
    "torch": (prior(**{"class": "torch.hub.load"}), r"'torch\.hub\.load' is outside ppl_vae"),
    "a torch module": (net_of("posterior", **{"class": "torch.nn.Linear"}), r"outside ppl_vae"),
    "through the package": (
        prior(**{"class": "ppl_vae.data.loading.os.system"}),
        r"'ppl_vae\.data\.loading\.os\.system' is no public part of ppl_vae",
    ),
    "through a room": (
        prior(**{"class": "priors.mixture.torch.os.system"}),
        r"'priors\.mixture\.torch\.os\.system' is no public part of ppl_vae",
    ),
    "a module of a room": (
        prior(**{"class": "priors.mixture.GaussianMixture"}),
        r"is no public part of ppl_vae; did you mean 'priors\.GaussianMixture'",
    ),
    "what a room imports": (prior(**{"class": "priors.vamp"}), "no public part of ppl_vae"),
    "an abstract class": (
        prior(**{"class": "ppl_vae.ConditionalDistribution"}),
        "no public part of ppl_vae",
    ),
    "a function of the package": (
        prior(**{"class": "ppl_vae.config.from_config"}),
        "no public part of ppl_vae",
    ),
    "an attribute of every class": (
        prior(**{"class": "priors.__class__"}),
        "no public part of ppl_vae",
    ),
    "an activation outside": (
        net_of("posterior", activation="os.system"),
        r"model\.posterior\.net\.activation: 'os\.system' is outside ppl_vae",
    ),
    "an activation through torch": (
        net_of("posterior", activation="nn.init.torch.hub.load"),
        r"'nn\.init\.torch\.hub\.load' is outside ppl_vae",
    ),
    "a function of zuko": (
        prior(**{"class": "Flow", "kind": "zuko.flows.NAF"}),
        r"model\.prior: Flow: kind must be one of .*got 'zuko\.flows\.NAF'",
    ),
    "a class path of jsonargparse": (
        mixture(components={"class_path": "os.system", "init_args": {}}),
        r"model\.prior\.components must be an integer, got \{'class_path'",
    ),
    "a Python tag in a string": (
        mixture(components="!!python/object/apply:os.system ['true']"),
        r"model\.prior\.components must be an integer",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
@pytest.mark.usefixtures("as_users_see_it")
def test_errors(case):
    mapping, words = ERRORS[case]
    before, state = copy.copy(mapping), set(sys.modules)
    with pytest.raises(ConfigError, match=words) as caught:
        from_config(mapping)
    assert str(caught.value).startswith("model")
    assert mapping == before
    assert set(sys.modules) == state


@pytest.mark.usefixtures("as_users_see_it")
def test_what_is_no_mapping_is_refused():
    with pytest.raises(ConfigError, match=r"model must be a mapping .*got 3 \(int\)"):
        from_config(3)


def test_a_constructor_s_own_error_is_the_cause():
    with pytest.raises(ConfigError) as caught:
        from_config(mixture(components=0))
    assert isinstance(caught.value.__cause__, ValueError)


CONVERTED = {
    "a string that is an integer": (mixture(components="4"), ("prior", "components"), 4),
    "a list for a tuple": (
        prior(**{"class": "VampPrior", "pseudo_inputs": 3, "bounds": [-1, 1.5]}),
        ("prior", "bounds"),
        (-1, 1.5),
    ),
    "an integer for a number": (
        {**SEMI, "classification_weight": 2},
        ("classification_weight",),
        2,
    ),
    "a word": (
        {**SHORTEST, "likelihood": {"class": "Normal", "scale": "learned"}},
        ("likelihood", "scale"),
        "learned",
    ),
    "null where there may be none": (
        prior(**{"class": "VampPrior", "pseudo_inputs": 3, "bounds": None}),
        ("prior", "bounds"),
        None,
    ),
}


@pytest.mark.parametrize("case", CONVERTED)
def test_values_are_of_the_type_that_the_constructor_names(case):
    mapping, path, expected = CONVERTED[case]
    value = from_config(mapping)
    for name in path:
        value = getattr(value, name)
    assert value == expected
    assert isinstance(value, float if case == "an integer for a number" else type(expected))
    assert to_config(from_config(mapping)) == resolve(mapping)


# --- classes of one's own

OWN = """
from collections.abc import Callable
from pathlib import Path

import pyro.distributions as dist
import torch
from torch import nn
from ppl_vae.conditional import ConditionalDistribution, NeuralConditional
from ppl_vae import VAE

Path(__file__).with_suffix(".imported").touch()


class Wide(ConditionalDistribution):
    def __init__(self, latent_dim: int, scale: float = 2.0, label: int | str = 0):
        super().__init__()
        self.latent_dim = latent_dim
        self.scale = scale
        self.label = label

    def forward(self):
        return dist.Normal(torch.zeros(self.latent_dim), self.scale).to_event(1)

    class Inner(nn.Module):
        pass


class Posterior(NeuralConditional):
    def __init__(self, net: nn.Module, start=0.0, shift: torch.Tensor = None):
        super().__init__(net)
        self.start = start
        self.shift = shift

    @staticmethod
    def net_features(latent_dim):
        return latent_dim

    def forward(self, *context):
        return dist.Normal(self.start + self.outputs(*context), 1.0).to_event(1)


class First(Posterior):
    def forward(self, x):
        return super().forward(x[..., :4])


class Plain:
    pass


class Net(nn.Module):
    def __init__(self, in_features, out_features, activation: type[nn.Module] = nn.ReLU):
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.activation = activation
        self.layers = nn.Sequential(nn.Linear(in_features, out_features), activation())

    def forward(self, x):
        return self.layers(x)


class Swish(nn.Module):
    def forward(self, x):
        return x * x.sigmoid()


class Pair(VAE):
    pass


class Starred(nn.Module):
    def __init__(self, **kwargs):
        super().__init__()


def function():
    pass
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Return the name of a package of a user's on sys.path, and a file that it leaves."""
    package = tmp_path / "mypackage"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "parts.py").write_text(OWN)
    (package / "broken.py").write_text("1 / 0")
    (package / "needy.py").write_text("import nowhere_to_be_found")
    monkeypatch.syspath_prepend(tmp_path)
    yield package / "parts.imported"
    for name in [n for n in sys.modules if n.partition(".")[0] == "mypackage"]:
        del sys.modules[name]


OWN_PAIR = {
    **SHORTEST,
    "class": "mypackage.parts.Pair",
    "prior": {"class": "mypackage.parts.Wide", "scale": 3},
    "posterior": {
        "class": "mypackage.parts.Posterior",
        "net": {"class": "mypackage.parts.Net", "activation": "mypackage.parts.Swish"},
    },
    "likelihood": {"class": "Bernoulli", "net": {"class": "mypackage.parts.Net"}},
}


def test_classes_of_ones_own(own, tmp_path):
    pair = from_config(OWN_PAIR, allow=("mypackage",))
    parts = sys.modules["mypackage.parts"]
    assert isinstance(pair, parts.Pair)
    assert pair.prior().base_dist.scale[0] == 3
    assert (pair.posterior.net.in_features, pair.posterior.net.out_features) == (8, 3)
    assert (pair.likelihood.net.in_features, pair.likelihood.net.out_features) == (3, 8)
    assert pair.posterior.net.activation is parts.Swish
    full = to_config(pair)
    assert full == resolve(OWN_PAIR, allow=("mypackage",))
    assert full["prior"] == {
        "class": "mypackage.parts.Wide",
        "latent_dim": 3,
        "scale": 3.0,
        "label": 0,
    }
    assert full["posterior"]["shift"] is None
    file = tmp_path / "pair.yaml"
    file.write_text(dump(pair))
    assert shapes(from_config(file, allow={"mypackage"})) == shapes(pair)


@pytest.mark.parametrize("place", ["class", "prior", "posterior", "net", "activation"])
def test_nothing_is_imported_that_is_not_allowed(own, place):
    mapping = {
        "class": {**SHORTEST, "class": "mypackage.parts.Pair"},
        "prior": {**SHORTEST, "prior": "mypackage.parts.Wide"},
        "posterior": {**SHORTEST, "posterior": {"class": "mypackage.parts.Posterior"}},
        "net": net_of("likelihood", **{"class": "mypackage.parts.Net"}),
        "activation": net_of("likelihood", activation="mypackage.parts.Swish"),
    }[place]
    for allow in ((), ("my",), ("mypackage.parts",), ("other",)):
        with pytest.raises(ConfigError, match=r"'mypackage\.parts\..*allow=\('mypackage',\)\)"):
            from_config(mapping, allow=allow)
        assert not own.exists()
        assert "mypackage" not in sys.modules
    from_config(mapping, allow=("mypackage",))
    assert own.exists()


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize("label", [3, "3", "null", "[1]"])
def test_strings_stay_strings_where_a_string_may_be(label):
    mapping = prior(**{"class": "mypackage.parts.Wide", "label": label})
    back = yaml.safe_load(dump(resolve(mapping, allow=("mypackage",))))
    assert from_config(back, allow=("mypackage",)).prior.label == label


@pytest.mark.usefixtures("own")
def test_a_part_of_ones_own_may_prepare_what_its_network_sees():
    mapping = {
        **SHORTEST,
        "posterior": {"class": "mypackage.parts.First", "net": {"in_features": 4}},
    }
    assert from_config(mapping, allow=("mypackage",)).posterior.net.in_features == 4


OWN_ERRORS = {
    "no such module": ("mypackage.nothing.Wide", "is no class of the allowed package"),
    "no such class": ("mypackage.parts.Wider", "is no class of the allowed package"),
    "no such package": ("yourpackage.parts.Wide", "cannot be imported: No module named 'yourp"),
    "a function": ("mypackage.parts.function", "is no class of the allowed package"),
    "a module": ("mypackage.parts", "is no class of the allowed package"),
    "what it imports": ("mypackage.parts.torch.nn.Linear", "is no class of the allowed package"),
    "a class it imports": ("mypackage.parts.Path", "is no class of the allowed package"),
    "a part it imports": ("mypackage.parts.VAE", "is no class of the allowed package"),
    "a class that is no module": ("mypackage.parts.Plain", "must be a class of torch.nn.Module"),
    "its builtins": ("mypackage.parts.__builtins__.eval", "is no class of the allowed package"),
    "a method": ("mypackage.parts.Wide.forward", "is no class of the allowed package"),
    "a module that fails": ("mypackage.broken.Wide", "importing 'mypackage.broken' failed: div"),
    "a module that lacks one": ("mypackage.needy.Wide", "No module named 'nowhere_to_be_found'"),
    "arguments without names": ("mypackage.parts.Starred", r"takes \*\*kwargs"),
}


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize("case", OWN_ERRORS)
def test_allowed_packages_give_modules_of_their_own_only(case):
    name, words = OWN_ERRORS[case]
    with pytest.raises(ConfigError, match=f"^model.prior: .*{words}"):
        from_config({**SHORTEST, "prior": name}, allow=("mypackage", "yourpackage"))


@pytest.mark.usefixtures("own")
def test_a_class_within_a_class_can_be_named():
    with pytest.raises(ConfigError, match=r"model: Module \[Inner\] is missing the requ"):
        from_config({**SHORTEST, "prior": "mypackage.parts.Wide.Inner"}, allow=("mypackage",))


@pytest.mark.usefixtures("as_users_see_it")
def test_allow_is_not_one_string():
    with pytest.raises(TypeError, match=r"allow must be names of packages, such as \('x',\)"):
        from_config(SHORTEST, allow="x")


class Local(nn.Module):
    def __init__(self, out: int, made=None):
        super().__init__()
        self.out = out
        self.made = made
        self.layer = nn.Linear(2, out)

    def forward(self, z):
        return self.layer(z)


class Forgets(Local):
    def __init__(self, width):
        super().__init__(width)


def with_net(make):
    return pairs.vae().replace(likelihood=likelihoods.Bernoulli(make()))


def in_a_function():
    class Hidden(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 6)

        def forward(self, z):
            return self.layer(z)

    return Hidden()


UNWRITABLE = {
    "a lambda": (
        lambda: nets.MLP(2, 6, activation=lambda: nn.ELU()),
        r"model\.likelihood\.net\.activation is <function .*cannot hold; use a class of torch\.nn",
    ),
    "a torch module": (
        lambda: nn.Linear(2, 6),
        r"model\.likelihood\.net is a torch\.nn\.Linear, .*use a network of ppl_vae\.nets",
    ),
    "a tensor": (
        lambda: Local(6, torch.zeros(3)),
        r"model\.likelihood\.net\.made is a tensor of shape \(3,\).*holds no tensors",
    ),
    "an object": (lambda: Local(6, {1, 2}), r"net\.made is \{1, 2\} \(set\), which a conf"),
    "a class": (lambda: Local(6, nn.ELU), r"net\.made is a class, .*annotate the argument"),
    "an argument that is not kept": (
        lambda: Forgets(6),
        r"model\.likelihood\.net: Forgets: .*'width' cannot be read back; .*self\.width = width",
    ),
    "a class in a function": (in_a_function, r"in_a_function.*define the class at the top of"),
}


@pytest.mark.parametrize("case", UNWRITABLE)
def test_what_cannot_be_written_is_named(case):
    make, words = UNWRITABLE[case]
    with pytest.raises(ConfigError, match=words):
        to_config(with_net(make))


def test_a_class_of_the_package_that_is_not_public_is_named():
    class_ = type("Secret", (priors.StandardNormal,), {"__module__": "ppl_vae.priors.secret"})
    with pytest.raises(ConfigError, match=r"model\.prior: ppl_vae\.priors\.secret\.Secret is not"):
        to_config(pairs.vae().replace(prior=class_(2)))


# --- data


def binary_images(labels=True):
    values = torch.randint(2, (9, 1, 6, 5), dtype=torch.uint8)
    return Dataset(values, torch.arange(9) % 4 if labels else None)


WITHOUT_SHAPE = without(SHORTEST, "event_shape")


def test_data_give_the_event_shape():
    data = binary_images()
    assert from_config(WITHOUT_SHAPE, data=data).posterior.net.in_features == 30
    tensor = torch.rand(9, 8).round()
    assert from_config(WITHOUT_SHAPE, data=tensor).posterior.net.in_features == 8
    convolutional = {**WITHOUT_SHAPE, "likelihood": {"class": "Bernoulli", "net": "ConvDecoder"}}
    assert from_config(convolutional, data=data).posterior.net.image_shape == (1, 6, 5)
    assert from_config(IMAGES, data=data).posterior.net.image_shape == (1, 6, 5)


def test_anything_with_an_event_shape_gives_it():
    class Shape:
        event_shape = (2, 4)

    assert from_config(WITHOUT_SHAPE, data=Shape()).posterior.net.in_features == 8


@pytest.mark.parametrize("name", ["SemiSupervisedVAE", "ConditionalVAE"])
def test_data_give_the_number_of_classes(name):
    pair = from_config({**WITHOUT_SHAPE, "class": name}, data=binary_images())
    assert pair.num_classes == 4
    assert from_config({**SEMI, "event_shape": 30}, data=binary_images(False)).num_classes == 4


def test_a_vector_for_a_condition_is_not_taken_for_a_label():
    pair = from_config(without(CONDITIONAL, "event_shape"), data=binary_images())
    assert (pair.num_classes, pair.context_features) == (None, 2)


DATA_ERRORS = {
    "another shape": (
        {**SHORTEST, "event_shape": [1, 28, 28]},
        binary_images,
        ConfigError,
        r"model\.event_shape is \[1, 28, 28\], but the data have the shape \[1, 6, 5\]",
    ),
    "a network of another width": (
        {**WITHOUT_SHAPE, "posterior": {"class": "DiagonalNormal", "net": {"in_features": 9}}},
        binary_images,
        ConfigError,
        r"in_features is 9, but the data's event_shape = 30 makes it 30",
    ),
    "real values for a Bernoulli": (
        WITHOUT_SHAPE,
        lambda: torch.randn(5, 8),
        ValueError,
        "outside the support of the Bernoulli",
    ),
    "integers": (
        WITHOUT_SHAPE,
        lambda: torch.ones(5, 8, dtype=torch.uint8),
        TypeError,
        "floating-point",
    ),
    "no shape": (WITHOUT_SHAPE, lambda: [1.0], TypeError, "data must be a ppl_vae.data.Dataset"),
    "data for what is no pair": (
        SHORT["stacked"][0],
        binary_images,
        ConfigError,
        "model: StackedVAE takes no data",
    ),
}


@pytest.mark.parametrize("case", DATA_ERRORS)
def test_data_that_do_not_suit(case):
    mapping, data, error, words = DATA_ERRORS[case]
    with pytest.raises(error, match=words):
        from_config(mapping, data=data())


@pytest.mark.usefixtures("as_users_see_it")
def test_counts_are_refused_by_a_bernoulli():
    class Counts:
        event_shape = (2, 4)

        def in_parts(self):
            yield torch.zeros(3, 2, 4)
            yield torch.full((3, 2, 4), 5.0)

    counts = Counts()
    with pytest.raises(ValueError, match="outside the support of the Bernoulli"):
        from_config(WITHOUT_SHAPE, data=counts)
    from_config({**WITHOUT_SHAPE, "likelihood": "Poisson"}, data=counts)


# --- random configurations

NETS = st.one_of(
    st.none(),
    st.fixed_dictionaries(
        {"class": st.just("MLP")},
        optional={
            "hidden": st.lists(st.integers(1, 4), max_size=2),
            "activation": st.sampled_from(["ReLU", "Tanh", "nn.SiLU"]),
        },
    ),
    st.fixed_dictionaries({"class": st.just("GatedMLP"), "hidden": st.just([3])}),
)


def part(name, **arguments):
    return st.fixed_dictionaries({"class": st.just(name)}, optional=arguments)


RANDOM = st.fixed_dictionaries(
    {
        "class": st.sampled_from(["VAE", "ConditionalVAE", "SemiSupervisedVAE"]),
        "latent_dim": st.integers(2, 4),
        "event_shape": st.sampled_from([5, [5], [1, 4, 3]]),
        "num_classes": st.integers(2, 3),
        "prior": st.one_of(
            st.sampled_from(["StandardNormal", "priors.FullRankNormal"]),
            part("VampPrior", learn_weights=st.booleans(), bounds=st.just([0, 1])),
            part("GaussianMixture", learn_weights=st.booleans()),
        ),
        "posterior": st.one_of(
            part("DiagonalNormal", net=NETS), part("FullRankNormal", net=NETS), part("Flow")
        ),
        "likelihood": st.one_of(
            part("Bernoulli", net=NETS),
            part("Normal", net=NETS, scale=st.sampled_from([0.1, 2, "learned", "per-pixel"])),
            part("Categorical", levels=st.integers(2, 4)),
        ),
    },
    optional={"classification_weight": st.floats(0, 10)},
)


@given(mapping=RANDOM)
@settings(max_examples=8, deadline=None)
def test_any_configuration_comes_back(mapping):
    if mapping["class"] == "VAE":
        mapping = without(mapping, "num_classes")
    if mapping["class"] != "SemiSupervisedVAE":
        mapping = without(mapping, "classification_weight")
    mapping = copy.deepcopy(mapping)
    if isinstance(mapping["prior"], dict):
        required = {"VampPrior": "pseudo_inputs", "GaussianMixture": "components"}
        mapping["prior"][required[mapping["prior"]["class"]]] = 2
    if mapping["event_shape"] == [1, 4, 3]:
        for name in ("posterior", "likelihood"):
            mapping[name].pop("net", None)
    pair, full = from_config(mapping), resolve(mapping)
    assert to_config(pair) == full
    assert resolve(full) == full
    assert from_config(yaml.safe_load(dump(pair))).load_state_dict(pair.state_dict())


def test_what_is_public():
    assert config.__all__ == ["ConfigError", "dump", "from_config", "resolve", "to_config"]
    assert ppl_vae.config is config
