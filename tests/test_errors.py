"""Invalid input raises an error that names the argument, the value and what was expected."""

import copy

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import C, D, Z, binary, net, ssvae, vae
from pyro.infer import SVI, Trace_ELBO
from torch import nn

from ppl_vae import (
    VAE,
    ConditionalDistribution,
    SemiSupervisedVAE,
    data,
    estimators,
    evaluation,
    likelihoods,
    nets,
    posteriors,
    priors,
    training,
)

pytestmark = pytest.mark.usefixtures("as_users_see_it")


def parts(**changes):
    return {**vae().parts(), **changes}


class Scalars(ConditionalDistribution):
    """A prior that leaves .to_event(1) out."""

    def forward(self):
        return dist.Normal(torch.zeros(Z), 1.0)


CONSTRUCTION = {
    "zero components": (
        lambda: priors.GaussianMixture(Z, components=0),
        ValueError,
        "components must be 1 or more, got 0",
    ),
    "components of a wrong type": (
        lambda: priors.GaussianMixture(Z, components=2.5),
        TypeError,
        r"components must be an integer.*2\.5 \(float\)",
    ),
    "latent_dim of zero": (
        lambda: priors.StandardNormal(0),
        ValueError,
        "latent_dim must be 1 or more, got 0",
    ),
    "a width of zero": (lambda: nets.MLP(0, 3), ValueError, "in_features must be 1 or more, got 0"),
    "K of zero": (
        lambda: estimators.ImportanceWeightedELBO(0),
        ValueError,
        "num_particles must be 1 or more, got 0",
    ),
    "an unknown gradient": (
        lambda: estimators.ImportanceWeightedELBO(2, gradient="magic"),
        ValueError,
        "gradient must be one of .*'magic'",
    ),
    "a negative scale": (
        lambda: likelihoods.Normal(net(Z, D), scale=-1.0),
        ValueError,
        r"scale must be a positive number.*-1\.0",
    ),
    "a function for a network": (
        lambda: posteriors.DiagonalNormal(lambda x: x),
        TypeError,
        r"net must be a torch\.nn\.Module",
    ),
    "a bare network for a posterior": (
        lambda: VAE(**parts(posterior=net(D, 2 * Z))),
        TypeError,
        r"posterior must return a pyro\.distributions object.*wrap a network",
    ),
    "a module that is no prior": (
        lambda: vae().replace(prior=nn.Identity()),
        TypeError,
        "was called with 0 context tensors",
    ),
    "a class in the place of a prior": (
        lambda: vae().replace(prior=priors.StandardNormal),
        TypeError,
        r"got the class StandardNormal; make an object of it, StandardNormal\(\.\.\.\)",
    ),
    "a prior whose dimensions are a batch": (
        lambda: vae().replace(prior=Scalars()),
        ValueError,
        r"prior must have .* event shape, got batch shape \(2,\) .*add \.to_event\(1\)",
    ),
    "a prior of another dimension": (
        lambda: vae().replace(prior=priors.StandardNormal(Z + 1)),
        ValueError,
        r"VAE: likelihood Bernoulli is incompatible.*shape \(1, 3\).*expected 2 features",
    ),
    "a posterior of another dimension": (
        lambda: VAE(**parts(posterior=posteriors.DiagonalNormal(net(D, 2 * Z + 2)))),
        ValueError,
        r"prior and posterior must have the same latent dimensions.*\(2,\).*\(3,\)",
    ),
    "a posterior with an odd output": (
        lambda: VAE(**parts(posterior=posteriors.DiagonalNormal(net(D, 3)))),
        ValueError,
        "an even number of features",
    ),
    "an encoder of another width": (
        lambda: VAE(**parts(posterior=posteriors.DiagonalNormal(nets.MLP(D + 1, 2 * Z)))),
        ValueError,
        r"VAE: posterior DiagonalNormal is incompatible.*shape \(1, 6\).*expected 7 features",
    ),
    "event_dim that does not fit": (
        lambda: VAE(**parts(likelihood=likelihoods.Bernoulli(net(Z, D), event_dim=2))),
        ValueError,
        "keep the leading dimensions.*event_dim=1 for flat",
    ),
    "an unknown part": (
        lambda: vae().replace(decoder=net(Z, D)),
        TypeError,
        "unknown part 'decoder'; the parts are prior, posterior, likelihood",
    ),
    "zero classes": (
        lambda: SemiSupervisedVAE(**{**ssvae().parts(), "num_classes": 0}),
        ValueError,
        "num_classes must be 1 or more",
    ),
    "a classifier of another width": (
        lambda: SemiSupervisedVAE(**{**ssvae().parts(), "classifier": net(D, C + 1)}),
        ValueError,
        r"classifier must return logits of shape \(batch, 3\)",
    ),
    "a negative classification weight": (
        lambda: ssvae(alpha=-1.0),
        ValueError,
        "classification_weight must be finite and at least 0",
    ),
}


@pytest.mark.parametrize("case", CONSTRUCTION)
def test_construction(case):
    make, error, message = CONSTRUCTION[case]
    with pytest.raises(error, match=message):
        make()


def with_value(value):
    x = binary()
    x[2, 3] = value
    return x


OBSERVATIONS = {
    "wrong feature width": (lambda: torch.ones(7, D + 1), ValueError, r"\(batch, 6\).*\(7, 7\)"),
    "one column against many": (lambda: torch.ones(7, 1), ValueError, r"\(batch, 6\).*\(7, 1\)"),
    "no batch dimension": (lambda: torch.ones(D), ValueError, r"\(batch, 6\).*\(6,\)"),
    "images for flat data": (lambda: torch.ones(7, 1, 2, 3), ValueError, r"\(7, 1, 2, 3\)"),
    "an empty batch": (lambda: torch.ones(0, D), ValueError, "at least one datum"),
    "integer pixels": (
        lambda: torch.ones(7, D, dtype=torch.uint8),
        TypeError,
        r"floating-point.*uint8.*x\.float\(\).*ppl_vae\.data\.Dataset",
    ),
    "real-valued pixels": (
        lambda: torch.rand(7, D),
        ValueError,
        r"outside the support of the Bernoulli.*7 of 7.*binarise",
    ),
    "values outside the support": (
        lambda: with_value(2.0),
        ValueError,
        "outside the support of the Bernoulli.*1 of 7.*from 0 to 2",
    ),
    "NaN": (lambda: with_value(torch.nan), ValueError, "1 non-finite values"),
    "infinity": (lambda: with_value(torch.inf), ValueError, "1 non-finite values"),
}


@pytest.mark.parametrize("program", ["model", "guide", "svi", "iw", "evaluation"])
@pytest.mark.parametrize("case", OBSERVATIONS)
def test_observations(case, program):
    make, error, message = OBSERVATIONS[case]
    pair, x = vae(), make()
    before = copy.deepcopy(pair.state_dict())
    random_state = torch.get_rng_state()
    calls = {
        "model": lambda: pair.model(x),
        "guide": lambda: pair.guide(x),
        "svi": lambda: SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO()).step(
            x
        ),
        "iw": lambda: estimators.ImportanceWeightedELBO(3)(pair.model, pair.guide)(x),
        "evaluation": lambda: evaluation.elbo_terms(pair, x),
    }
    with pytest.raises(error, match=message):
        calls[program]()
    assert not list(pyro.get_param_store().keys())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(v, before[k]) for k, v in pair.state_dict().items())
    assert all(p.grad is None for p in pair.parameters())


def test_nan_is_refused_under_a_normal_likelihood_too():
    pair = vae(likelihood="normal")
    with pytest.raises(ValueError, match="1 non-finite values"):
        pair.model(with_value(torch.nan))


LABELS = {
    "too large": (lambda: torch.tensor([0, 1, 2, 3, 0, 0, 0]), ValueError, "from 0 to 3"),
    "below -1": (lambda: torch.tensor([0, 1, 2, -2, 0, 0, 0]), ValueError, "from -2 to 2"),
    "floats": (lambda: torch.zeros(7), TypeError, "integer labels from 0 to 2.*float32"),
    "booleans": (lambda: torch.zeros(7, dtype=torch.bool), TypeError, "bool"),
    "one-hot": (lambda: torch.zeros(7, C, dtype=torch.long), ValueError, r"\(7,\).*\(7, 3\)"),
    "another length": (lambda: torch.zeros(6, dtype=torch.long), ValueError, r"\(7,\).*\(6,\)"),
}


@pytest.mark.parametrize("program", ["model", "guide", "reconstruct"])
@pytest.mark.parametrize("case", LABELS)
def test_labels(case, program):
    make, error, message = LABELS[case]
    pair, x = ssvae(), binary()
    with pytest.raises(error, match=message):
        getattr(pair, program)(x, make())
    assert not list(pyro.get_param_store().keys())


def test_generate_wants_every_label():
    with pytest.raises(ValueError, match="y must hold a label"):
        ssvae().generate(2, torch.tensor([0, -1]))


def test_a_network_that_flattens_wrongly_is_named():
    class Flattens(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(Z, D)

        def forward(self, z):
            return self.linear(z).view(7, D)

    # one datum at a time, as construction tries it, already shows the mistake
    with pytest.raises(ValueError, match=r"network Flattens.*any number of leading dimensions"):
        vae().replace(likelihood=likelihoods.Bernoulli(Flattens()))


def test_accuracy_wants_as_many_labels_as_data():
    with pytest.raises(ValueError, match=r"labels of shape \(7,\).*shape \(6,\)"):
        evaluation.accuracy(ssvae(), binary(), torch.zeros(6, dtype=torch.long))


CHECKS = {
    "grey values, to be binarised": ("bernoulli", torch.rand(9, D), None),
    "counts under a Bernoulli": ("bernoulli", 3 * torch.ones(9, D), "Poisson or NegativeBinomial"),
    "counts": ("poisson", 3 * torch.ones(9, D), None),
    "real values as counts": ("poisson", torch.rand(9, D) + 0.1, "outside the support"),
    "grey values": ("continuous bernoulli", torch.rand(9, D), None),
    "off the grid of levels": ("categorical", torch.rand(9, D), r"k / 4 for k = 0"),
    "another width": ("normal", torch.rand(9, D + 1), r"expected x of shape \(batch, 6\)"),
}


@pytest.mark.parametrize("case", CHECKS)
def test_checking_a_data_set(case):
    likelihood, values, message = CHECKS[case]
    pair = vae(likelihood=likelihood)
    if message is None:
        pair.check(data.from_tensor(values))
    else:
        with pytest.raises(ValueError, match=message):
            pair.check(data.from_tensor(values))
    if case == "grey values, to be binarised":
        with pytest.raises(ValueError, match="outside the support"):
            pair.check(values)  # a tensor is what it is


def by_svi(pair, x):
    SVI(pair.model, pair.guide, pyro.optim.Adam({}), WEIGHTED).step(x)


WEIGHTED = estimators.ImportanceWeightedELBO(2)
RUNS = {
    "terms": evaluation.elbo_terms,
    "log_likelihood": lambda pair, x: evaluation.log_likelihood(pair, x, num_samples=2),
    "encode": lambda pair, x: pair.encode(x),
    "estimator": lambda pair, x: WEIGHTED(pair.model, pair.guide)(x),
    "analytic": lambda pair, x: estimators.AnalyticKLELBO().loss(pair.model, pair.guide, x),
    "svi": by_svi,
    "fit": lambda pair, x: training.fit(pair, [x], steps=1, progress=False),
    "step": lambda pair, x: training.compile_step(
        pair, WEIGHTED, torch.optim.Adam(pair.parameters())
    )(x),
}


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("x", [torch.zeros(3, D + 1), torch.full((3, D), 0.5)], ids=["wide", "½"])
def test_pyros_table_of_shapes_is_removed_from_our_errors(run, x):
    with pytest.raises(ValueError, match="x") as error:
        RUNS[run](vae(), x)
    assert str(error.value).count("\n") <= 1


def test_pyros_table_of_shapes_stays_in_users_errors():
    def program(x):
        with pyro.plate("data", len(x)):
            raise ValueError("of my own")

    with pytest.raises(ValueError, match=r"(?s)of my own.*Trace Shapes") as error:
        WEIGHTED.loss(program, program, torch.zeros(3))
    assert str(error.value.__cause__.__cause__ or error.value.__cause__).startswith("of my own")
