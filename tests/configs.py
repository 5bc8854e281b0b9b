"""Configurations that the tests start from."""

SHORTEST = {"class": "VAE", "latent_dim": 3, "event_shape": 8, "likelihood": "Bernoulli"}
IMAGES = {**SHORTEST, "event_shape": [1, 6, 5]}
SEMI = {**SHORTEST, "class": "SemiSupervisedVAE", "num_classes": 4}
CONDITIONAL = {**SHORTEST, "class": "ConditionalVAE", "context_features": 2}
STACKED = {
    "class": "StackedVAE",
    "first": {**SHORTEST, "prior": {"class": "VampPrior", "pseudo_inputs": 4}},
    "second": {**SEMI, "latent_dim": 2, "event_shape": 3, "likelihood": "Normal"},
}


def mlp(width_in, width_out, hidden=(300, 300), activation="ELU"):
    return {
        "class": "MLP",
        "in_features": width_in,
        "out_features": width_out,
        "hidden": list(hidden),
        "activation": activation,
    }


def prior(**arguments):
    return {**SHORTEST, "prior": arguments}


def mixture(**arguments):
    return prior(**{"class": "GaussianMixture", "components": 5, **arguments})


def net_of(part, **arguments):
    names = {"posterior": "DiagonalNormal", "likelihood": "Bernoulli"}
    return {**SHORTEST, part: {"class": names[part], "net": arguments}}


def without(mapping, *names):
    return {k: v for k, v in mapping.items() if k not in names}


def shapes(module):
    return {name: t.shape for name, t in module.state_dict().items()}
