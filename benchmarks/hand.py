"""The hand-written columns: no probabilistic programming, only what the row asks for.

They are meant to be hard to beat. Each is one batched pass; constants that cancel are left out; x's
part of a first layer is computed once and not for each label; the density of a mixture is a matrix
product. Compiled, all of a step but the optimiser is one graph, with torch's own random numbers
(``fallback_random``), which took less time here than those that Inductor writes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from rows import CLASSIFICATION_WEIGHT, Column, Problem, adam, one_by_one
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
        cost = F.binary_cross_entropy_with_logits(self.decoder(z), x, reduction="sum")
        kl = 0.5 * (loc.square() + scale.square() - 2 * scale.log() - 1).sum()
        return (cost + kl) / len(x)

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return μ and σ of q(z | x)."""
        loc, unconstrained = self.encoder(x).chunk(2, -1)
        return loc, F.softplus(unconstrained) + MIN_SCALE


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
        cost = F.binary_cross_entropy_with_logits(self.decoder(z), x, reduction="sum")
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
        return log_w + log_bernoulli(x, self.decoder(z))


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
        log_q_y = self.classifier(x).log_softmax(-1)
        # All rows (y, x): the n of the first part for each label, then the second part.
        first, out = self.encoder[0], self.encoder[2]
        of_x = F.linear(x, first.weight[:, : self.pixels], first.bias)
        of_y = first.weight[:, self.pixels :].mT
        rows = torch.cat([(of_x[:n] + of_y.unsqueeze(1)).flatten(0, 1), of_x[n:] + of_y[y]])
        loc, unconstrained = out(F.softplus(rows)).chunk(2, -1)
        scale = F.softplus(unconstrained) + MIN_SCALE
        z = loc + scale * torch.randn_like(loc)
        kl = 0.5 * (loc.square() + scale.square() - 2 * scale.log() - 1).sum(-1)
        first, out = self.decoder[0], self.decoder[2]
        of_z = F.linear(z, first.weight[:, : self.latent], first.bias)
        of_y = first.weight[:, self.latent :].mT
        every_y = torch.cat([of_y.repeat_interleave(n, 0), of_y[y]])
        logits = out(F.softplus(of_z + every_y))
        enumerated, seen = logits[: classes * n].view(classes, n, -1), logits[classes * n :]
        log_p = torch.cat([log_bernoulli(x[:n], enumerated).flatten(), log_bernoulli(x[n:], seen)])
        cost = kl - log_p + math.log(classes)
        q_y = log_q_y[:n].exp()
        unlabelled = (q_y * (cost[: classes * n].view(classes, n).mT + log_q_y[:n])).sum() / n
        cross_entropy = F.nll_loss(log_q_y[n:], y)
        return unlabelled + cost[classes * n :].mean() + CLASSIFICATION_WEIGHT * cross_entropy


def log_bernoulli(x: Tensor, logits: Tensor) -> Tensor:
    """Return log p(x) of 0 and 1, summed over the last dimension; x repeats as it has to."""
    cost = F.binary_cross_entropy_with_logits(logits, x.expand(logits.shape), reduction="none")
    return -cost.sum(-1)


def eager(problem: Problem) -> Column:
    """Hand-written PyTorch, one operation after another."""
    return _column(problem, None)


def compiled(problem: Problem) -> Column:
    """Hand-written PyTorch, compiled whole."""
    return _column(problem, _compiled)


def compiled_single(problem: Problem) -> Column | None:
    """The same with the mixture's quadratic forms in float32, which is less exact."""
    if problem.row.kind != "gmvae":
        return None
    module = MixtureVAE(problem, torch.float32)
    return Column(_steps(module, _compiled(module), problem.rate))


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
}


def _compiled(function: Callable) -> Callable:
    return torch.compile(function, dynamic=False, options={"fallback_random": True})


def _column(problem: Problem, transform: Callable | None) -> Column:
    transform = transform or (lambda function: function)
    if problem.row.kind == "likelihood":
        return Column(_likelihood(problem, transform), reference=True)
    module = LOSSES[problem.row.kind](problem)
    return Column(_steps(module, transform(module), problem.rate), reference=True)


def _steps(module: nn.Module, loss_of: Callable[[Tensor], Tensor], rate: float) -> Callable:
    optimizer = adam(module.parameters(), rate)

    def step(index: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(index)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return one_by_one(step)


def _likelihood(problem: Problem, transform: Callable) -> Callable:
    """Return -log p(x) by importance sampling, of so many rows at once that they stay in cache."""
    module = ImportanceWeighted(problem)
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
