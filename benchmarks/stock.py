"""The column of stock Pyro: model and guide as its examples write them, SVI and ``pyro.optim``."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import ELBO, SVI, RenyiELBO, Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO
from pyro.infer.importance import vectorized_importance_weights
from pyro.optim import Adam
from rows import CLASSIFICATION_WEIGHT, Column, Problem, layers_of, one_by_one
from torch import Tensor, nn
from torch.nn import functional as F


class VAE(nn.Module):
    """The VAE, with a standard normal or a mixture prior."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.latent = problem.row.latent
        self.encoder = problem.network("encoder")
        self.decoder = problem.network("decoder")
        self.components = None
        if problem.row.kind == "gmvae":
            loc, unconstrained = problem.components
            self.loc = nn.Parameter(loc.clone())
            self.unconstrained = nn.Parameter(unconstrained.clone())
            self.components = len(loc)

    def prior(self, x: Tensor) -> dist.Distribution:
        """Return p(z)."""
        if self.components is None:
            shape = (len(x), self.latent)
            return dist.Normal(x.new_zeros(shape), x.new_ones(shape)).to_event(1)
        normals = dist.Normal(self.loc, F.softplus(self.unconstrained) + 1e-4).to_event(1)
        weights = dist.Categorical(logits=x.new_zeros(self.components))
        return dist.MixtureSameFamily(weights, normals)

    def model(self, x: Tensor) -> None:
        """Run p(z) p(x | z)."""
        pyro.module("decoder", self.decoder)
        if self.components is not None:
            pyro.param("loc", self.loc)
            pyro.param("unconstrained", self.unconstrained)
        with pyro.plate("data", len(x)):
            z = pyro.sample("latent", self.prior(x))
            pyro.sample("obs", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        """Run q(z | x)."""
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", len(x)):
            loc, unconstrained = self.encoder(x).chunk(2, -1)
            pyro.sample("latent", dist.Normal(loc, F.softplus(unconstrained) + 1e-4).to_event(1))


class SemiSupervised(nn.Module):
    """M2; data with labels and without in one program, so that both make one step."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.classes, self.latent = problem.row.classes, problem.row.latent
        self.encoder = problem.network("encoder")
        self.decoder = problem.network("decoder")
        self.classifier = problem.network("classifier")

    def model(self, x: Tensor, labelled: Tensor, y: Tensor) -> None:
        """Run p(y) p(z) p(x | z, y) for both parts."""
        pyro.module("decoder", self.decoder)
        pyro.module("classifier", self.classifier)
        p_y = dist.OneHotCategorical(logits=x.new_zeros(self.classes))
        with pyro.plate("unlabelled", len(x)), poutine.scale(scale=1 / len(x)):
            self.generate("", x, pyro.sample("y", p_y))
        with pyro.plate("labelled", len(y)), poutine.scale(scale=1 / len(y)):
            self.generate("labelled_", labelled, pyro.sample("labelled_y", p_y, obs=y))
            q_y = dist.OneHotCategorical(logits=self.classifier(labelled))
            with poutine.scale(scale=CLASSIFICATION_WEIGHT):
                pyro.sample("classification", q_y, obs=y)

    def generate(self, part: str, x: Tensor, y: Tensor) -> None:
        """Run p(z) p(x | z, y)."""
        shape = (len(x), self.latent)
        z = pyro.sample(f"{part}z", dist.Normal(x.new_zeros(shape), x.new_ones(shape)).to_event(1))
        logits = self.decoder(_together(z, y))
        pyro.sample(f"{part}x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(self, x: Tensor, labelled: Tensor, y: Tensor) -> None:
        """Run q(y | x) q(z | x, y), and q(z | x, y) where y is given."""
        pyro.module("encoder", self.encoder)
        pyro.module("classifier", self.classifier)
        with pyro.plate("unlabelled", len(x)), poutine.scale(scale=1 / len(x)):
            q_y = dist.OneHotCategorical(logits=self.classifier(x))
            unknown = pyro.sample("y", q_y, infer={"enumerate": "parallel"})
            self.infer("", x, unknown)
        with pyro.plate("labelled", len(y)), poutine.scale(scale=1 / len(y)):
            self.infer("labelled_", labelled, y)

    def infer(self, part: str, x: Tensor, y: Tensor) -> None:
        """Run q(z | x, y)."""
        loc, unconstrained = self.encoder(_together(x, y)).chunk(2, -1)
        q_z = dist.Normal(loc, F.softplus(unconstrained) + 1e-4).to_event(1)
        pyro.sample(f"{part}z", q_z)


def svi(problem: Problem) -> Column:
    """Stock Pyro."""
    row, images, labels = problem.row, problem.images, problem.labels
    if row.kind == "likelihood":
        return Column(_likelihood(problem))
    pyro.clear_param_store()
    if row.kind == "ssvae":
        pair, optimizer = SemiSupervised(problem), Adam({"lr": problem.rate})
        steps = SVI(pair.model, pair.guide, optimizer, TraceEnum_ELBO(max_plate_nesting=1))

        def step(index: Tensor) -> float:
            x = torch.bernoulli(images[index])
            y = F.one_hot(labels[index[row.batch :]], row.classes).to(x.dtype)
            return steps.step(x[: row.batch], x[row.batch :], y)

        return Column(one_by_one(step))
    estimator = {
        "vae": TraceMeanField_ELBO,
        "gmvae": Trace_ELBO,
        # With one plate, of the batch's size, its bound is that of each datum.
        "iwae": partial(RenyiELBO, 0, row.particles, max_plate_nesting=1, vectorize_particles=True),
    }[row.kind]()
    return _steps(problem, estimator)


def example(problem: Problem) -> Column:
    """The VAE with the estimator that Pyro's example has: the KL by the draw of z."""
    pyro.clear_param_store()
    return _steps(problem, Trace_ELBO())


def _steps(problem: Problem, estimator: ELBO) -> Column:
    vae, images = VAE(problem), problem.images
    steps = SVI(vae.model, vae.guide, Adam({"lr": problem.rate}), estimator)
    return Column(
        one_by_one(lambda index: steps.step(torch.bernoulli(images[index])) / len(index)),
        partial(layers_of, encoder=vae.encoder, decoder=vae.decoder),
    )


def _likelihood(problem: Problem) -> Callable:
    """Return -log p(x), one datum after another: Pyro's weights are those of a whole batch."""
    vae, images, samples = VAE(problem), problem.images, problem.row.particles

    @torch.no_grad()
    def step(index: Tensor) -> float:
        total = 0.0
        for x in torch.bernoulli(images[index]).split(1):
            log_w, _, _ = vectorized_importance_weights(
                vae.model, vae.guide, x, num_samples=samples, max_plate_nesting=1
            )
            total += math.log(samples) - log_w.logsumexp(0).item()
        return total / len(index)

    return one_by_one(step)


def _together(x: Tensor, y: Tensor) -> Tensor:
    """Return x and y concatenated, for each of the values of y that are enumerated."""
    leading = torch.broadcast_shapes(x.shape[:-1], y.shape[:-1])
    return torch.cat([x.expand(*leading, x.shape[-1]), y.expand(*leading, y.shape[-1])], -1)
