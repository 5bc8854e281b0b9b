"""What is exported of a pair: functions of tensors, with names for what goes in and comes out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pyro.distributions import Delta
from torch import Tensor, nn
from torch.distributions import Distribution

from ppl_vae.distributions.counts import ZeroInflatedNegativeBinomial
from ppl_vae.models import VAE, ConditionalVAE, HierarchicalVAE, Pair, SemiSupervisedVAE

Outputs = dict[str, Tensor]


@dataclass(frozen=True)
class Program:
    """A function of a pair.

    Args:
        inputs: their names, in order.
        meaning: what it computes.
        function: of tensors whose first dimension is the batch; returns tensors by name.
    """

    inputs: tuple[str, ...]
    meaning: str
    function: Callable[..., Outputs]


class ProgramModule(nn.Module):
    """A program as a module that returns a tuple, as ``torch.export`` takes it."""

    def __init__(self, pair: nn.Module, program: Program) -> None:
        super().__init__()
        self.pair = pair
        self.program = program

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the program's outputs, in their order."""
        return tuple(self.program.function(*inputs).values())


def programs_of(pair: Pair) -> dict[str, Program]:
    """Return the programs of a pair, by name."""
    if isinstance(pair, HierarchicalVAE):
        return _of_layers(pair)
    if isinstance(pair, SemiSupervisedVAE):
        return _of_labels(pair)
    if isinstance(pair, ConditionalVAE):
        return _of_conditions(pair)
    if isinstance(pair, VAE):
        return _of_latents(pair)
    raise TypeError(
        f"export: pair must be a VAE, ConditionalVAE, SemiSupervisedVAE or HierarchicalVAE, got a "
        f"{type(pair).__name__}"
    )


def inputs_of(pair: Pair, number: int) -> dict[str, Tensor]:
    """Draw inputs of a pair's programs from its model: data, latents and conditions by name."""
    any_pair: Any = pair
    like = next(t for t in pair.parameters() if t.is_floating_point())
    found: dict[str, Tensor] = {}
    if isinstance(pair, ConditionalVAE):
        if pair.num_classes is not None:
            found["c"] = torch.randint(pair.num_classes, (number,), device=like.device)
        else:
            assert pair.context_features is not None
            # Positive, as size factors are.
            found["c"] = torch.rand(number, pair.context_features).to(like) + 0.5
        found["x"] = pair.generate(found["c"])
        found["z"] = pair.posterior(found["x"], _condition(pair, found["c"], number)).sample()
    elif isinstance(pair, SemiSupervisedVAE):
        found["y"] = torch.randint(pair.num_classes, (number,), device=like.device)
        found["x"] = pair.generate(number, found["y"])
        one_hot = pair.labels.one_hot(found["y"], like.dtype)
        found["z"] = pair.posterior(found["x"], one_hot).sample()
    elif isinstance(pair, HierarchicalVAE):
        found["x"] = pair.generate(number)
        for i, z in enumerate(pair.encode(found["x"]), start=1):
            found[f"z{i}"] = z
    else:
        found["x"] = any_pair.generate(number)
        found["z"] = pair.posterior(found["x"]).sample()
    return found


def parameters_of(p: Distribution) -> Outputs:
    """Return the mean of a distribution, and its parameters by their names in Pyro.

    Its mean is left out where a parameter is the mean; NotImplementedError if it has none in closed
    form.
    """
    elements: Any = p
    while isinstance(getattr(elements, "base_dist", None), torch.distributions.Distribution):
        elements = elements.base_dist
    mean = p.mean
    found = {"mean": mean}
    for name, value in _own_parameters(elements).items():
        if value is not mean:
            # A scale that is the same for all data is repeated: every output has a batch.
            found[name] = value.expand_as(mean) if _fits(value, mean, p) else value
    return {name: value.contiguous() for name, value in found.items()}


def _own_parameters(p: Any) -> Outputs:
    """Return the parameters that a distribution was made with, by name, but its mean."""
    if isinstance(p, Delta):
        return {}  # the point is the mean
    if isinstance(p, ZeroInflatedNegativeBinomial):
        return {"total_count": p.base.total_count, "gate_logits": p.gate_logits}
    # Of several parametrisations the one that it was made with.
    values = {name: vars(p).get(name) for name in p.arg_constraints}
    return {n: value for n, value in values.items() if isinstance(value, Tensor) and value.dim()}


def _fits(value: Tensor, mean: Tensor, p: Distribution) -> bool:
    """Return whether a parameter is one of each element, unlike the weights of a mixture."""
    if value.dim() != mean.dim():
        return value.dim() < mean.dim() and value.shape != p.batch_shape
    # Not of the batch: it is any size.
    return all(a in (1, b) for a, b in zip(value.shape[1:], mean.shape[1:], strict=True))


def _likelihood_parameters(pair: Pair, p: Distribution) -> Outputs:
    """Return `parameters_of` p(x | z), and of a table also the best guess of each cell."""
    likelihood: Any = pair.likelihood
    found = parameters_of(p)
    if hasattr(likelihood, "estimate"):
        found["best_guess"] = likelihood.estimate(likelihood.statistics(p))
    return found


def _log_prob(pair: Pair, p: Distribution, x: Tensor) -> Outputs:
    """Return log p(x | z) in nats per datum; of a table without the cells that are NaN."""
    observation = pair.observation
    if not observation.guide_reads_missing:
        return {"log_prob": p.log_prob(x)}
    mask = ~x.isnan()
    return {"log_prob": observation.masked(p, mask).log_prob(observation.filled(x, mask))}


_ENCODER = "the parameters of q(z | {})"
_DECODER = "the parameters of p(x | {}); mean is E[x | {}]"
_LOG_PROB = "log p(x | {}), nats per datum"


def _of_latents(pair: VAE) -> dict[str, Program]:
    return {
        "encoder": Program(
            ("x",), _ENCODER.format("x"), lambda x: parameters_of(pair.posterior(x))
        ),
        "decoder": Program(
            ("z",),
            _DECODER.format("z", "z"),
            lambda z: _likelihood_parameters(pair, pair.likelihood(z)),
        ),
        "log_prob": Program(
            ("x", "z"), _LOG_PROB.format("z"), lambda x, z: _log_prob(pair, pair.likelihood(z), x)
        ),
    }


def _condition(pair: ConditionalVAE, c: Tensor, number: int) -> Tensor:
    return pair.model.condition.features_of(c, number, pair)


def _of_conditions(pair: ConditionalVAE) -> dict[str, Program]:
    def p_x(z: Tensor, c: Tensor) -> Distribution:
        p: Distribution = pair.likelihood(z, _condition(pair, c, z.shape[0]))
        return p

    return {
        "encoder": Program(
            ("x", "c"),
            _ENCODER.format("x, c"),
            lambda x, c: parameters_of(pair.posterior(x, _condition(pair, c, x.shape[0]))),
        ),
        "decoder": Program(
            ("z", "c"),
            _DECODER.format("z, c", "z, c"),
            lambda z, c: _likelihood_parameters(pair, p_x(z, c)),
        ),
        "log_prob": Program(
            ("x", "z", "c"),
            _LOG_PROB.format("z, c"),
            lambda x, z, c: _log_prob(pair, p_x(z, c), x),
        ),
    }


def _of_labels(pair: SemiSupervisedVAE) -> dict[str, Program]:
    def encoder(x: Tensor, y: Tensor) -> Outputs:
        most_probable = pair.classifier(x).probs.argmax(-1)
        one_hot = pair.labels.one_hot(torch.where(y < 0, most_probable, y), x.dtype)
        return parameters_of(pair.posterior(x, one_hot))

    def p_x(z: Tensor, y: Tensor) -> Distribution:
        p: Distribution = pair.likelihood(z, pair.labels.one_hot(y, z.dtype))
        return p

    return {
        "classifier": Program(
            ("x",),
            "the probabilities q(y | x)",
            lambda x: {"probs": pair.classifier(x).probs},
        ),
        "encoder": Program(
            ("x", "y"),
            f"{_ENCODER.format('x, y')}; y = -1 is the most probable label",
            encoder,
        ),
        "decoder": Program(
            ("z", "y"),
            _DECODER.format("z, y", "z, y"),
            lambda z, y: _likelihood_parameters(pair, p_x(z, y)),
        ),
        "log_prob": Program(
            ("x", "z", "y"),
            _LOG_PROB.format("z, y"),
            lambda x, z, y: _log_prob(pair, p_x(z, y), x),
        ),
    }


def _of_layers(pair: HierarchicalVAE) -> dict[str, Program]:
    number = len(pair.posteriors)
    layers = tuple(f"z{i}" for i in range(1, number + 1))
    seen = layers if pair.skip_connections else layers[:1]

    def encoder(x: Tensor) -> Outputs:
        found: dict[str, Outputs] = {}

        def value(site: str, q: Distribution) -> Tensor:
            found[site] = parameters_of(q)
            return found[site]["mean"]

        pair.guide.latents(x, value)
        return {f"{z}_{name}": found[z][name] for z in layers for name in found[z]}

    def p_x(*latents: Tensor) -> Distribution:
        return pair.model.likelihood_given(list(latents))

    def conditional(layer: int) -> Callable[..., Outputs]:
        return lambda z: parameters_of(pair.conditionals[layer](z))

    given = ", ".join(seen)
    above: Mapping[str, Program] = {
        f"conditional{i + 1}": Program(
            (layers[i + 1],),
            f"the parameters of p({layers[i]} | {layers[i + 1]})",
            conditional(i),
        )
        for i in range(number - 1)
    }
    return {
        "encoder": Program(
            ("x",),
            f"the parameters of the guide's {', '.join(layers)}, each at the mean of the one "
            f"before it",
            encoder,
        ),
        **above,
        "decoder": Program(
            seen,
            _DECODER.format(given, given),
            lambda *z: _likelihood_parameters(pair, p_x(*z)),
        ),
        "log_prob": Program(
            ("x", *seen), _LOG_PROB.format(given), lambda x, *z: _log_prob(pair, p_x(*z), x)
        ),
    }
