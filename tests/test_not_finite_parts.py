"""NaN in weights or in a context is told as such, with the part and the parameter."""

import pyro.distributions as dist
import pytest
import torch
from pairs import (
    CODE_POSTERIORS,
    CODE_PRIORS,
    LIKELIHOODS,
    POSTERIORS,
    PRIORS,
    D,
    Z,
    binary,
    code_vae,
    net,
    observations,
    vae,
)

from ppl_vae import VAE, columns, evaluation, posteriors, priors
from ppl_vae.conditional import NeuralConditional
from ppl_vae.estimators import ImportanceWeightedELBO

pytestmark = pytest.mark.usefixtures("as_users_see_it")
LEARNED = [name for name in PRIORS if name not in ("standard", "vamp, fixed inputs")]


def spoil(part):
    """Put NaN into the last parameter of a part, and return its name."""
    name, parameter = list(part.named_parameters())[-1]
    with torch.no_grad():
        parameter.fill_(torch.nan)
    return name


@pytest.mark.parametrize("call", ["elbo_terms", "log_likelihood", "estimator"])
@pytest.mark.parametrize("name", POSTERIORS)
def test_a_posterior_of_nan_is_named(name, call):
    assert_named(vae(posterior=name), "posterior", "posteriors", call, binary())


@pytest.mark.parametrize("call", ["elbo_terms", "log_likelihood", "estimator"])
@pytest.mark.parametrize("name", LIKELIHOODS)
def test_a_likelihood_of_nan_is_named(name, call):
    assert_named(vae(likelihood=name), "likelihood", "likelihoods", call, observations(name))


@pytest.mark.parametrize("call", ["elbo_terms", "log_likelihood", "estimator", "generate"])
@pytest.mark.parametrize("name", LEARNED)
def test_a_prior_of_nan_is_named(name, call):
    part = "posterior" if name.startswith("vamp") else "prior"
    assert_named(vae(prior=name), part, f"{part}s", call, binary())


@pytest.mark.parametrize("call", ["elbo_terms", "estimator"])
@pytest.mark.parametrize("name", [*CODE_PRIORS, *CODE_POSTERIORS])
def test_a_discrete_part_of_nan_is_named(name, call):
    part = "posterior" if name in CODE_POSTERIORS else "prior"
    pair = code_vae(**{part: name})
    if name in ("binary", "one-hot", "vectors"):
        return  # without parameters, or with the posterior's
    assert_named(pair, part, f"{part}s", call, binary())


def assert_named(pair, part, room, call, x):
    calls = {
        "elbo_terms": lambda: evaluation.elbo_terms(pair, x),
        "log_likelihood": lambda: evaluation.log_likelihood(pair, x, num_samples=3),
        "estimator": lambda: ImportanceWeightedELBO(2)(pair.model, pair.guide)(x),
        "generate": lambda: pair.generate(3),
    }
    name = spoil(getattr(pair, part))
    with pytest.raises(ValueError, match=rf"^{room}\.\w+: its parameter '{name}' is NaN"):
        calls[call]()


def test_finite_weights_that_overflow_are_told_so():
    pair = vae(likelihood="normal")
    with torch.no_grad():
        first, _, last, _ = pair.posterior.parameters()
        first.fill_(3e38)  # the hidden units are infinite, and their sum is infinity minus infinity
        last.copy_((-1.0) ** torch.arange(last.numel()).reshape(last.shape))
    with pytest.raises(
        ValueError, match=r"^posteriors\.DiagonalNormal: the network's output is invalid"
    ):
        pair.encode(torch.ones(2, D))


class Words(NeuralConditional):
    """p(x | z) of two words, each of three, one-hot."""

    def forward(self, *context):
        logits = self.outputs(*context).unflatten(-1, (2, 3))
        return dist.OneHotCategorical(logits=logits).to_event(1)


@pytest.mark.parametrize("program", ["model", "guide", "encode", "impute"])
def test_one_hot_words_cannot_be_masked_and_say_so(program):
    flat = torch.nn.Sequential(torch.nn.Flatten(-2), net(D, 2 * Z))
    pair = VAE(
        prior=priors.StandardNormal(Z),
        posterior=posteriors.DiagonalNormal(flat),
        likelihood=Words(net(Z, D)),
    )
    x = torch.eye(3)[torch.tensor([[0, 1], [2, 2]])]
    pair.encode(x)
    with pytest.raises(NotImplementedError, match="mask: the Words likelihood does not factorise"):
        getattr(pair, program)(x, mask=torch.ones_like(x, dtype=torch.bool))


def test_missing_entries_that_a_network_reads_are_no_fault():
    table = [columns.Normal(), columns.Normal()]
    encoder = columns.Encoder(
        net(columns.num_features(table), posteriors.Flow.net_features(Z)), table
    )
    posterior = posteriors.Flow(encoder, Z)
    x = torch.tensor([[0.5, torch.nan]])
    assert posterior(x).sample().isfinite().all()
    with pytest.raises(ValueError, match=r"its context of shape \(1, 2\) is NaN or infinite at 1"):
        posterior(torch.tensor([[torch.inf, torch.nan]]))
    name = spoil(posterior)
    with pytest.raises(ValueError, match=f"its parameter '{name}' is NaN"):
        posterior(x)
