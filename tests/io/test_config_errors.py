"""Errors about configurations that are invalid or incompatible with data name the path."""

import copy
import sys

import pytest
import torch
from configs import (
    CONDITIONAL,
    IMAGES,
    SEMI,
    SHORTEST,
    STACKED,
    mixture,
    mlp,
    net_of,
    prior,
    without,
)

from ppl_vae.data import Dataset
from ppl_vae.io.config import ConfigError, from_config, to_config
from ppl_vae.io.config.resolver import resolve

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
    "no class": ({}, "model: class is missing; give one, such as class: VAE"),
    "a pair misspelt": ({**SHORTEST, "class": "Vae"}, "model: there is no 'Vae' .*mean 'VAE'"),
    "the abstract pair": ({"class": "Pair"}, "no 'Pair' among models; accepted: .*VAE"),
    "a part for a pair": (
        {"class": "priors.StandardNormal", "latent_dim": 2},
        "model: 'priors.StandardNormal' is not a pair; accepted: .*VAE",
    ),
    "a class misspelt": (
        prior(**{"class": "GausianMixture"}),
        r"model\.prior: there is no 'GausianMixture' among priors; did you mean "
        r"'GaussianMixture'\? Accepted: .*VampPrior.*full path",
    ),
    "a class of another room": (
        prior(**{"class": "Poisson"}),
        r"model\.prior: there is no 'Poisson' among priors \(likelihoods\.Poisson is",
    ),
    "a class of another room, in full": (
        {**SHORTEST, "posterior": "priors.StandardNormal"},
        "model: VAE: posterior .* with 1 context tensors",
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
        "'model' must be alone, got also 'training'",
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
        r"model\.likelihood\.net\.in_features is missing: MLP needs it; give it, an integer$",
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
        r"model\.likelihood\.scale must be a number or 'learned' or 'parameter' or 'per-pixel', "
        r"got 'learnt'",
    ),
    "three bounds": (
        prior(**{"class": "VampPrior", "pseudo_inputs": 3, "bounds": [0, 1, 2]}),
        r"model\.prior\.bounds must be a list of 2: a number, a number or 'data' or null, "
        r"got \[0, 1, 2\]",
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
        "model: ConditionalVAE: give either num_classes .* or context_features",
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
        r"model\.posterior\.net: MLP is a network for flat data, but model\.event_shape = "
        r"\[1, 6, 5\]; use a ConvEncoder .* or flat networks for both and event_shape: 30",
    ),
    "a convolutional network for flat data": (
        net_of("posterior", **{"class": "ConvEncoder"}),
        r"model\.posterior\.net: ConvEncoder is a network for images, but model\.event_shape = 8; ",
    ),
    "a size of layers": (
        {**LAYERS, "latent_dim": 3},
        r"model\.latent_dim: HierarchicalVAE has no 'latent_dim'; give the sizes of each part",
    ),
    # references
    "a reference to nothing": (
        {**SHORTEST, "likelihood": "${decoder}"},
        r"\$\{decoder\} is not a part of the pair; .* \$\{prior\}, \$\{posterior\}",
    ),
    "a reference to a number": (
        {**SHORTEST, "likelihood": "${prior.latent_dim}"},
        r"\$\{prior\.latent_dim\} is not a part of the pair",
    ),
    "a reference that never ends": (
        {**SHORTEST, "likelihood": "${prior"},
        r"\$\{prior is not a part of the pair",
    ),
    "a reference to itself": (
        prior(**{"class": "VampPrior", "pseudo_inputs": 3, "posterior": "${prior}"}),
        r"model\.prior\.posterior is a circular reference",
    ),
    "a reference to a reference": (
        {**SHORTEST, "prior": "${likelihood}", "likelihood": "${prior}"},
        r"model\.(prior|likelihood): .* refers to another reference",
    ),
    # what may be named
    "os.system": (prior(**{"class": "os.system"}), r"'os\.system' is outside ppl_vae .*allow="),
    "builtins": (prior(**{"class": "builtins.eval"}), r"'builtins\.eval' is outside ppl_vae"),
    "torch": (prior(**{"class": "torch.hub.load"}), r"'torch\.hub\.load' is outside ppl_vae"),
    "a torch module": (net_of("posterior", **{"class": "torch.nn.Linear"}), r"outside ppl_vae"),
    "through the package": (
        prior(**{"class": "ppl_vae.data.loading.os.system"}),
        r"'ppl_vae\.data\.loading\.os\.system' is not a public class of ppl_vae",
    ),
    "through a room": (
        prior(**{"class": "priors.mixture.torch.os.system"}),
        r"'priors\.mixture\.torch\.os\.system' is not a public class of ppl_vae",
    ),
    "a module of a room": (
        prior(**{"class": "priors.mixture.GaussianMixture"}),
        r"is not a public class of ppl_vae; did you mean 'priors\.GaussianMixture'",
    ),
    "what a room imports": (prior(**{"class": "priors.vamp"}), "not a public class of ppl_vae"),
    "an abstract class": (
        prior(**{"class": "ppl_vae.ConditionalDistribution"}),
        "not a public class of ppl_vae",
    ),
    "a function of the package": (
        prior(**{"class": "ppl_vae.io.config.from_config"}),
        "not a public class of ppl_vae",
    ),
    "an attribute of every class": (
        prior(**{"class": "priors.__class__"}),
        "not a public class of ppl_vae",
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
    "a class path": (
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
def test_invalid_configurations_name_the_path(case):
    mapping, words = ERRORS[case]
    before, state = copy.copy(mapping), set(sys.modules)
    with pytest.raises(ConfigError, match=words) as caught:
        from_config(mapping)
    assert str(caught.value).startswith("model")
    assert mapping == before
    assert set(sys.modules) == state


@pytest.mark.usefixtures("as_users_see_it")
def test_configurations_that_are_not_mappings_are_refused():
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
def test_values_are_converted_to_the_type_hints(case):
    mapping, path, expected = CONVERTED[case]
    value = from_config(mapping)
    for name in path:
        value = getattr(value, name)
    assert value == expected
    assert isinstance(value, float if case == "an integer for a number" else type(expected))
    assert to_config(from_config(mapping)) == resolve(mapping)


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
        STACKED,
        binary_images,
        ConfigError,
        "model: StackedVAE takes no data",
    ),
}


@pytest.mark.parametrize("case", DATA_ERRORS)
def test_incompatible_data_are_refused(case):
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
