"""The columns of ppl_vae: pairs and estimators as the documentation has them."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from functools import partial
from itertools import count

import pyro
import torch
from pyro.infer import ELBO
from rows import (
    CLASSIFICATION_WEIGHT,
    Column,
    Layers,
    Problem,
    Unavailable,
    adam,
    layers_of,
    one_by_one,
)
from torch import Tensor, nn

from ppl_vae import (
    VAE,
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
from ppl_vae.compilation import NotCompiledWarning
from ppl_vae.uniform_draws import uniform


def pair_of(problem: Problem) -> VAE | SemiSupervisedVAE:
    """Return the pair of a row, with the weights of the start."""
    row = problem.row
    parts = {
        "prior": _prior(problem),
        "posterior": posteriors.DiagonalNormal(_network(problem, "encoder")),
        "likelihood": likelihoods.Bernoulli(_network(problem, "decoder")),
    }
    if row.kind != "ssvae":
        return VAE(**parts)
    return SemiSupervisedVAE(
        **parts,
        classifier=_network(problem, "classifier"),
        num_classes=row.classes,
        classification_weight=CLASSIFICATION_WEIGHT,
    )


def estimator_of(problem: Problem) -> ELBO:
    """Return the estimator of a row."""
    kind = problem.row.kind
    if kind == "iwae":
        return estimators.ImportanceWeightedELBO(problem.row.particles)
    if kind == "gmvae":
        return estimators.ImportanceWeightedELBO(1)
    return estimators.AnalyticKLELBO()


def inputs_of(problem: Problem, index: Tensor) -> tuple[Tensor, ...]:
    """Return what a step is called with: indices, and the labels of those that have them."""
    if problem.row.kind != "ssvae":
        return (index,)
    return index, problem.labels[index[problem.row.batch :]]


def prepare_of(
    problem: Problem, draw: Callable[[Tensor], Tensor] = torch.bernoulli
) -> Callable[..., tuple]:
    """Return what makes these into the programs' arguments, or into two parts of them."""
    images, n = problem.images, problem.row.batch
    if problem.row.kind != "ssvae":
        return lambda index: (draw(images[index]),)

    def prepare(index: Tensor, y: Tensor) -> tuple[data.Part, data.Part]:
        x = draw(images[index])
        return data.Part("unlabelled", (x[:n],), 1.0), data.Part("labelled", (x[n:], y), 1.0)

    return prepare


def drawn_as_data(p: Tensor) -> Tensor:
    """Return images as a ``data.Dataset`` draws those of its batches."""
    return uniform(p.shape).lt_(p)


def plain(problem: Problem) -> Column:
    """ppl_vae by the module route, as it is."""
    if problem.row.kind == "likelihood":
        return Column(_likelihood(problem))
    pair, estimator = pair_of(problem), estimator_of(problem)
    prepare = prepare_of(problem, drawn_as_data)
    optimizer = adam(pair.parameters(), problem.rate)

    def mean_loss(*args: Tensor) -> Tensor:
        return estimator.differentiable_loss(pair.model, pair.guide, *args) * (1 / len(args[0]))

    def step(index: Tensor) -> Tensor:
        optimizer.zero_grad()
        batch = prepare(*inputs_of(problem, index))
        if isinstance(batch[0], data.Part):
            loss = sum(part.weight * mean_loss(*part.args) for part in batch)
        else:
            loss = mean_loss(*batch)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return Column(_unvalidated(one_by_one(step)), _weights(pair))


def compiled(problem: Problem, **options: str) -> Column:
    """ppl_vae by ``training.compile_step``."""
    if problem.row.kind == "likelihood":
        if "compile" not in inspect.signature(evaluation.log_likelihood).parameters:
            raise Unavailable("log_likelihood has no compile=")
        return Column(_likelihood(problem, compile=True))
    if not hasattr(training, "compile_step"):
        raise Unavailable("training.compile_step is not there")
    pair = pair_of(problem)
    optimizer = adam(pair.parameters(), problem.rate)
    step = training.compile_step(
        pair, estimator_of(problem), optimizer, prepare=prepare_of(problem), **options
    )
    run = one_by_one(lambda index: step(*inputs_of(problem, index)))
    return Column(_strict(run), _weights(pair))


def bfloat16(problem: Problem) -> Column:
    """The same with networks in bfloat16."""
    if problem.row.kind == "likelihood":
        raise Unavailable("evaluated in full precision")
    if "precision" not in inspect.signature(training.compile_step).parameters:
        raise Unavailable("compile_step has no precision=")
    return compiled(problem, precision="bf16-mixed")


def _unvalidated(run: Callable) -> Callable:
    """Return a run that looks at no values: for all but the first batch of a training."""

    def without(indices: Tensor) -> list:
        with pyro.validation_enabled(False):
            return run(indices)

    return without


def _strict(run: Callable) -> Callable:
    """Return a run that fails where steps cannot be compiled, and would be run as they are."""

    def without(indices: Tensor) -> list:
        with warnings.catch_warnings():
            warnings.simplefilter("error", NotCompiledWarning)
            return run(indices)

    return without


def _likelihood(problem: Problem, **options: bool) -> Callable:
    pair, seeds = pair_of(problem), count()

    def step(index: Tensor) -> Tensor:
        x = torch.bernoulli(problem.images[index])
        result = evaluation.log_likelihood(
            pair, x, num_samples=problem.row.particles, seed=next(seeds), **options
        )
        return -result.log_px.mean()

    return _unvalidated(one_by_one(step))


def _weights(pair: VAE | SemiSupervisedVAE) -> Callable[[], dict[str, Layers]]:
    return partial(layers_of, encoder=pair.posterior, decoder=pair.likelihood)


def _network(problem: Problem, name: str) -> nets.MLP:
    weights = [weight for weight, _ in problem.layers[name]]
    network = nets.MLP(
        weights[0].shape[1],
        weights[-1].shape[0],
        hidden=[len(weight) for weight in weights[:-1]],
        activation=getattr(nn, problem.row.activation),
    )
    problem.load(name, network)
    return network


def _prior(problem: Problem) -> nn.Module:
    row = problem.row
    if row.kind != "gmvae":
        return priors.StandardNormal(row.latent)
    mixture = priors.GaussianMixture(row.latent, components=row.components)
    with torch.no_grad():
        mixture.loc.copy_(problem.components[0])
        mixture.unconstrained_scale.copy_(problem.components[1])
    return mixture
