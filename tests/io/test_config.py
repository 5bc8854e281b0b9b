"""Configurations are completed, and round trips are exact."""

import copy
import json
import textwrap

import pairs
import pytest
import torch
import yaml
from configs import (
    CONDITIONAL,
    IMAGES,
    SEMI,
    SHORTEST,
    STACKED,
    mlp,
    shapes,
    without,
)
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
    likelihoods,
    nets,
    posteriors,
    priors,
)
from ppl_vae.io import config
from ppl_vae.io.config import dump, from_config, to_config
from ppl_vae.io.config.names import find, name_of
from ppl_vae.io.config.resolver import resolve


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
    "binary latents": (
        {
            **SHORTEST,
            "prior": {"class": "Autoregressive", "hidden": [5]},
            "posterior": {"class": "RelaxedBernoulli", "temperature": 0.3},
        },
        lambda: vae(
            priors.Autoregressive(3, hidden=(5,)),
            posteriors.RelaxedBernoulli(nets.MLP(8, 3), temperature=0.3),
            likelihoods.Bernoulli(nets.MLP(3, 8)),
        ),
    ),
    "one-hot latents": (
        {
            **SHORTEST,
            "prior": "Categorical",
            "posterior": {"class": "OneHotCategorical", "categories": 4},
        },
        lambda: vae(
            priors.Categorical(3, 4),
            posteriors.OneHotCategorical(nets.MLP(8, 12), 4),
            likelihoods.Bernoulli(nets.MLP(12, 8)),
        ),
    ),
    "one-hot latents, categories at the prior": (
        {
            **SHORTEST,
            "prior": {"class": "CategoricalMixture", "categories": 4, "components": 5},
            "posterior": "RelaxedOneHotCategorical",
        },
        lambda: vae(
            priors.CategoricalMixture(3, 4, components=5),
            posteriors.RelaxedOneHotCategorical(nets.MLP(8, 12), 4),
            likelihoods.Bernoulli(nets.MLP(12, 8)),
        ),
    ),
    "vectors of a codebook": (
        {
            **SHORTEST,
            "prior": "Codebook",
            "posterior": {"class": "VectorQuantised", "codes": 4, "code_dim": 5},
        },
        lambda: with_own_posterior(
            priors.Codebook,
            posteriors.VectorQuantised(nets.MLP(8, 15), 3, codes=4, code_dim=5),
            likelihoods.Bernoulli(nets.MLP(15, 8)),
        ),
    ),
    "vectors of a codebook, a prior over codes": (
        {
            **SHORTEST,
            "prior": {"class": "Codebook", "codes_prior": "Autoregressive"},
            "posterior": {"class": "VectorQuantised", "codes": 4, "code_dim": 5},
        },
        lambda: with_own_posterior(
            lambda q: priors.Codebook(q, priors.Autoregressive(3, 4)),
            posteriors.VectorQuantised(nets.MLP(8, 15), 3, codes=4, code_dim=5),
            likelihoods.Bernoulli(nets.MLP(15, 8)),
        ),
    ),
    "stacked": (
        STACKED,
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


@pytest.mark.parametrize("case", SHORT)
def test_short_configurations_build_what_python_would(case):
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


def test_the_example_of_the_documentation():
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
        "posterior": {"class": "DiagonalNormal", "net": mlp(784, 20), "min_scale": 1e-4},
        "likelihood": {"class": "Bernoulli", "net": mlp(10, 784), "event_dim": 1},
        "missingness": None,
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


@pytest.mark.parametrize("room", [priors, posteriors, likelihoods])
@pytest.mark.parametrize("slot", ["prior", "posterior", "likelihood", "missingness", "mine"])
def test_names_are_read_as_they_were_written(room, slot):
    for short in ("Bernoulli", "Categorical"):
        cls = getattr(room, short)
        assert find(name_of(cls, slot, "model"), slot, "model", ()) is cls


@pytest.mark.parametrize("case", ALL)
def test_a_configuration_builds_the_pair_again(case, tmp_path):
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


def test_references_may_point_into_lists():
    full = to_config(hierarchical("top-down", vamp=True))
    assert full["prior"]["posterior"] == "${posteriors[1]}"
    assert full["posteriors"][0]["conditional"] == "${conditionals[0]}"
    pair = from_config(full)
    assert pair.prior.posterior is pair.posteriors[1]
    assert pair.posteriors[0].conditional is pair.conditionals[0]
    full["prior"]["posterior"] = "${posteriors.1}"
    assert from_config(full).prior.posterior is not None


def test_a_shared_module_is_written_where_it_is_nearest_to_the_pair():
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
def test_random_configurations_round_trip(mapping):
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


def test_the_public_names():
    assert config.__all__ == ["ConfigError", "dump", "from_config", "to_config"]
    assert ppl_vae.io.config is config
