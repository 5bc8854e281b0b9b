"""The hand-written columns: no probabilistic programming, only what the row asks for.

They are meant to be hard to beat. Each is one batched pass; constants that cancel are left out; x's
part of a first layer is computed once and not for each label; the density of a mixture is a matrix
product. Compiled, all of a step but the optimiser is one graph, with torch's own random numbers
(``fallback_random``), which took less time here than those that Inductor writes.

``eager`` and ``compiled`` are the ordinary columns, which ratios are to. The others differ from
``compiled`` in one thing each, to show what it brings.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from rows import (
    CLASSIFICATION_WEIGHT,
    Column,
    Problem,
    Unavailable,
    adam,
    layers_of,
    one_by_one,
)
from torch import Tensor, nn
from torch.nn import functional as F

MIN_SCALE = 1e-4
LIKELIHOOD_ROWS = 1000


class VAE(nn.Module):
    """The VAE with the KL in closed form."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.images = problem.images
        self.encoder = problem.network("encoder")
        self.decoder = problem.network("decoder")

    def forward(self, index: Tensor) -> Tensor:
        """Return minus the ELBO of a batch, in nats per datum."""
        x = torch.bernoulli(self.images[index])
        loc, scale = self.posterior(x)
        z = loc + scale * torch.randn_like(loc)
        cost = F.binary_cross_entropy_with_logits(self.decode(z), x, reduction="sum")
        kl = 0.5 * (loc.square() + scale.square() - 2 * scale.log() - 1).sum()
        return (cost + kl) / len(x)

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return μ and σ of q(z | x)."""
        loc, unconstrained = self.encode(x).chunk(2, -1)
        return loc, F.softplus(unconstrained) + MIN_SCALE

    def encode(self, x: Tensor) -> Tensor:
        """Return the output of the encoder."""
        return self.encoder(x)

    def decode(self, z: Tensor) -> Tensor:
        """Return the logits of p(x | z)."""
        return self.decoder(z)


class MixtureVAE(VAE):
    """The VAE with a mixture prior of uniform weights, and the KL by one draw.

    The quadratic forms are differences of large numbers, and are summed in float64; ``dtype`` is
    that of this sum.
    """

    def __init__(self, problem: Problem, dtype: torch.dtype = torch.float64) -> None:
        super().__init__(problem)
        loc, unconstrained = problem.components
        self.loc = nn.Parameter(loc.clone())
        self.unconstrained = nn.Parameter(unconstrained.clone())
        self.dtype = dtype

    def forward(self, index: Tensor) -> Tensor:
        """Return minus the ELBO of a batch, in nats per datum."""
        x = torch.bernoulli(self.images[index])
        loc, scale = self.posterior(x)
        epsilon = torch.randn_like(loc)
        z = loc + scale * epsilon
        cost = F.binary_cross_entropy_with_logits(self.decode(z), x, reduction="sum")
        # log N(z; μ_c, σ_c²) and log q(z | x) without their log 2π.
        log_q = -(scale.log() + 0.5 * epsilon.square()).sum()
        return (cost + log_q - self.log_prior(z).sum()) / len(x)

    def log_prior(self, z: Tensor) -> Tensor:
        """Return log p(z), but for the constant."""
        scale = F.softplus(self.unconstrained) + MIN_SCALE
        loc, precision, z = self.loc.to(self.dtype), scale.to(self.dtype).pow(-2), z.to(self.dtype)
        constant = -(0.5 * loc.square() * precision).sum(-1) - scale.log().sum(-1)
        of_each = torch.cat([-0.5 * precision, loc * precision], -1)
        joint = torch.addmm(constant, torch.cat([z.square(), z], -1), of_each.mT)
        return joint.float().logsumexp(-1) - math.log(len(loc))


class ImportanceWeighted(VAE):
    """The importance-weighted bound of K particles."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.particles = problem.row.particles

    def forward(self, index: Tensor) -> Tensor:
        """Return minus the bound of a batch, in nats per datum."""
        x = torch.bernoulli(self.images[index])
        loc, scale = self.posterior(x)
        log_w = self.log_weights(x, loc, scale, self.particles)
        return math.log(self.particles) - log_w.logsumexp(0).mean()

    def log_weights(self, x: Tensor, loc: Tensor, scale: Tensor, particles: int) -> Tensor:
        """Return log w, shape ``(particles, batch)``."""
        epsilon = torch.randn(particles, *loc.shape)
        z = loc + scale * epsilon
        # (z - μ) / σ is ε, so that the gradient along the path and the direct one are together.
        log_w = 0.5 * (epsilon.square() - z.square()).sum(-1) + scale.log().sum(-1)
        return log_w + log_bernoulli(x, self.decode(z))


class SemiSupervised(nn.Module):
    """M2: data without labels, y enumerated, and data with, in one pass."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        row = problem.row
        self.images, self.labels = problem.images, problem.labels
        self.unlabelled, self.classes, self.pixels = row.batch, row.classes, row.pixels
        self.latent = row.latent
        self.encoder = problem.network("encoder")
        self.decoder = problem.network("decoder")
        self.classifier = problem.network("classifier")

    def forward(self, index: Tensor) -> Tensor:
        """Return the objective in nats per datum: the means over both parts, and the labels'."""
        x, y = torch.bernoulli(self.images[index]), self.labels[index[self.unlabelled :]]
        n, classes = self.unlabelled, self.classes
        log_q_y = self.classify(x).log_softmax(-1)
        loc, unconstrained = self.encode(x, y).chunk(2, -1)
        scale = F.softplus(unconstrained) + MIN_SCALE
        z = loc + scale * torch.randn_like(loc)
        kl = 0.5 * (loc.square() + scale.square() - 2 * scale.log() - 1).sum(-1)
        logits = self.decode(z, y)
        enumerated, seen = logits[: classes * n].view(classes, n, -1), logits[classes * n :]
        log_p = torch.cat([log_bernoulli(x[:n], enumerated).flatten(), log_bernoulli(x[n:], seen)])
        cost = kl - log_p + math.log(classes)
        q_y = log_q_y[:n].exp()
        unlabelled = (q_y * (cost[: classes * n].view(classes, n).mT + log_q_y[:n])).sum() / n
        cross_entropy = F.nll_loss(log_q_y[n:], y)
        return unlabelled + cost[classes * n :].mean() + CLASSIFICATION_WEIGHT * cross_entropy

    def classify(self, x: Tensor) -> Tensor:
        """Return the logits of q(y | x)."""
        return self.classifier(x)

    def encode(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the encoder's output of all rows (y, x): n for each label, then the others."""
        n = self.unlabelled
        first, out = self.encoder[0], self.encoder[2]
        of_x = F.linear(x, first.weight[:, : self.pixels], first.bias)
        of_y = first.weight[:, self.pixels :].mT
        rows = torch.cat([(of_x[:n] + of_y.unsqueeze(1)).flatten(0, 1), of_x[n:] + of_y[y]])
        return out(F.softplus(rows))

    def decode(self, z: Tensor, y: Tensor) -> Tensor:
        """Return the logits of p(x | z, y) of the same rows."""
        first, out = self.decoder[0], self.decoder[2]
        of_z = F.linear(z, first.weight[:, : self.latent], first.bias)
        of_y = first.weight[:, self.latent :].mT
        every_y = torch.cat([of_y.repeat_interleave(self.unlabelled, 0), of_y[y]])
        return out(F.softplus(of_z + every_y))


def log_bernoulli(x: Tensor, logits: Tensor) -> Tensor:
    """Return log p(x) of 0 and 1, summed over the last dimension; x repeats as it has to."""
    cost = F.binary_cross_entropy_with_logits(logits, x.expand(logits.shape), reduction="none")
    return -cost.sum(-1)


def eager(problem: Problem) -> Column:
    """Hand-written PyTorch, one operation after another."""
    return _column(problem, None)


def compiled(problem: Problem) -> Column:
    """Hand-written PyTorch, compiled whole."""
    return _column(problem, compiled_as_is)


def compiled_single(problem: Problem) -> Column:
    """The same with the mixture's quadratic forms in float32, which is less exact."""
    if problem.row.kind != "gmvae":
        raise Unavailable
    return _column(problem, compiled_as_is, MixtureVAE(problem, torch.float32))


def mapped(problem: Problem) -> Column:
    """The same, after one call that has the constants of torch's log1p in memory.

    With AVX-512, log1p and what is made of it (softplus, log-sigmoid, the Bernoulli's density) load
    a constant for the lanes that hold -0. As long as none did, the page of the library with that
    constant is not in memory, and the processor takes a microcode assist at each such load.
    """
    torch.log1p(torch.tensor([-0.0]))
    return compiled(problem)


def our_densities(problem: Problem) -> Column:
    """The same with softplus and the Bernoulli's density as graphs of ppl_vae compute them."""
    return _column(problem, compiled_as_ours)


def bfloat16(problem: Problem) -> Column:
    """The same with networks under autocast, and all else in full precision."""
    module = LOSSES[problem.row.kind](problem)
    for name in NETWORKS:
        if hasattr(module, name):
            setattr(module, name, _autocast(getattr(module, name)))
    return _column(problem, compiled_as_is, module)


def rounding(problem: Problem) -> float:
    """Return the standard deviation of a loss's error by rounding to bfloat16, in nats per datum.

    Autocast rounds each weight θ to θ (1 + δ), |δ| ≤ ε / 2, where ε = 2⁻⁷ is the distance from 1 to
    the next number. With δ uniform and independent, of variance ε² / 12 (at most: what is above a
    power of 2 has less), the mean loss L is off by a variance of ε² / 12 Σ (θ ∂L/∂θ)², to first
    order. Weights are the same at all steps, so that this does not average out. What rounds
    activations does: it differs from datum to datum and from step to step, and so is in the
    standard errors that are estimated from losses.
    """
    few = replace(problem, row=replace(problem.row, particles=min(problem.row.particles, 50)))
    module = LOSSES[problem.row.kind](few)
    module(problem.batches(1, torch.Generator().manual_seed(0))[0]).backward()
    weights = [weight for network in module.children() for weight in network.parameters()]
    squares = sum((weight.detach() * weight.grad).square().sum().item() for weight in weights)
    return torch.finfo(torch.bfloat16).eps * math.sqrt(squares / 12)


def train(problem: Problem, steps: int) -> None:
    """Train the weights of a problem in their place, as a VAE."""
    module = VAE(problem)
    random = torch.Generator().manual_seed(0)
    run = _steps(module, module, problem.rate)
    row = problem.row
    for _ in range(steps):
        run(torch.randint(len(problem.images), (1, max(row.batch, 100)), generator=random))
    for name in ("encoder", "decoder"):
        linear = [m for m in getattr(module, name) if isinstance(m, nn.Linear)]
        for layer, (weight, bias) in zip(linear, problem.layers[name], strict=True):
            weight.copy_(layer.weight.detach())
            bias.copy_(layer.bias.detach())


LOSSES: dict[str, Callable[[Problem], nn.Module]] = {
    "vae": VAE,
    "gmvae": MixtureVAE,
    "iwae": ImportanceWeighted,
    "ssvae": SemiSupervised,
    "likelihood": ImportanceWeighted,
}
NETWORKS = ("encode", "decode", "classify")


def compiled_as_is(function: Callable) -> Callable:
    return torch.compile(function, dynamic=False, options={"fallback_random": True})


def compiled_as_ours(function: Callable) -> Callable:
    """Return a function compiled with the elementary functions of ppl_vae in torch's place."""
    try:
        from ppl_vae.compilation.decompositions import decompositions
    except ImportError as error:
        raise Unavailable("no ppl_vae.compilation.decompositions") from error
    from torch._inductor.compile_fx import compile_fx
    from torch._inductor.decomposition import select_decomp_table

    def either(ours: Callable, theirs: Callable | None) -> Callable:
        def decomposed(*args: Any, **kwargs: Any) -> Any:
            found = ours(*args, **kwargs)
            if found is NotImplemented and theirs is not None:
                return theirs(*args, **kwargs)
            return found

        return decomposed

    table = select_decomp_table()
    table |= {name: either(ours, table.get(name)) for name, ours in decompositions().items()}
    backend = partial(compile_fx, decompositions=table, config_patches={"fallback_random": True})
    return torch.compile(function, dynamic=False, backend=backend)


def _autocast(network: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def run(*inputs: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return network(*inputs).float()

    return run


def _column(
    problem: Problem, transform: Callable | None, module: nn.Module | None = None
) -> Column:
    transform = transform or (lambda function: function)
    module = module or LOSSES[problem.row.kind](problem)
    if problem.row.kind == "likelihood":
        return Column(_likelihood(problem, module, transform))
    run = _steps(module, transform(module), problem.rate)
    return Column(run, partial(layers_of, encoder=module.encoder, decoder=module.decoder))


def _steps(module: nn.Module, loss_of: Callable[[Tensor], Tensor], rate: float) -> Callable:
    optimizer = adam(module.parameters(), rate)

    def step(index: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(index)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return one_by_one(step)


def _likelihood(problem: Problem, module: nn.Module, transform: Callable) -> Callable:
    """Return -log p(x) by importance sampling, of so many rows at once that they stay in cache."""
    samples = problem.row.particles
    chunk = min(samples, max(1, LIKELIHOOD_ROWS // problem.row.batch))
    whole, rest = divmod(samples, chunk)

    def log_sum(x: Tensor, loc: Tensor, scale: Tensor, particles: int) -> Tensor:
        return module.log_weights(x, loc, scale, particles).logsumexp(0)

    parts = [transform(partial(log_sum, particles=chunk))] * whole
    if rest:
        parts.append(transform(partial(log_sum, particles=rest)))

    @torch.no_grad()
    def step(index: Tensor) -> Tensor:
        x = torch.bernoulli(problem.images[index])
        loc, scale = module.posterior(x)
        sums = torch.stack([part(x, loc, scale) for part in parts])
        return math.log(samples) - sums.logsumexp(0).mean()

    return one_by_one(step)
