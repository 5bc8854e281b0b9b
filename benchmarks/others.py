"""The columns of other libraries, where they are installed."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from rows import CLASSIFICATION_WEIGHT, Column, Layers, Problem, Unavailable, layers_of
from torch import Tensor
from torch.nn import functional as F


def numpyro(problem: Problem) -> Column:
    """NumPyro: the steps of a turn, binarisation and all, jitted as one loop."""
    row = problem.row
    try:
        import jax
        from jax import numpy as jnp
        from numpyro import optim
        from numpyro.infer import (
            SVI,
            RenyiELBO,
            Trace_ELBO,
            TraceEnum_ELBO,
            TraceMeanField_ELBO,
        )

        if row.kind == "ssvae":
            import funsor  # noqa: F401  (enumeration needs it)
    except ImportError as error:
        raise Unavailable(f"no {error.name}") from error
    images, labels = (jnp.asarray(part.numpy()) for part in (problem.images, problem.labels))
    estimator = {
        "vae": TraceMeanField_ELBO,
        "gmvae": Trace_ELBO,
        "ssvae": partial(TraceEnum_ELBO, max_plate_nesting=1),
    }.get(row.kind, partial(RenyiELBO, 0, num_particles=row.particles))
    pair = _SemiSupervised(problem) if row.kind == "ssvae" else _VAE(problem)
    svi = SVI(pair.model, pair.guide, optim.Adam(problem.rate), estimator())

    def arguments(x: Any, index: Any) -> tuple:
        if row.kind != "ssvae":
            return (x,)
        return x[: row.batch], x[row.batch :], labels[index[row.batch :]]

    def step(carry: Any, index: Any) -> Any:
        state, key = carry
        key, of_data = jax.random.split(key)
        x = jax.random.bernoulli(of_data, images[index]).astype(images.dtype)
        # The programs of data with labels and without are scaled to nats per datum.
        nats = 1 if row.kind == "ssvae" else len(x)
        if row.kind == "likelihood":
            return (state, key), svi.evaluate(state._replace(rng_key=of_data), x) / nats
        state, loss = svi.update(state, *arguments(x, index))
        return (state, key), loss / nats

    steps = jax.jit(lambda carry, indices: jax.lax.scan(step, carry, indices))
    first = jnp.arange(row.in_a_step)
    state = svi.init(jax.random.key(0), *arguments(images[first].round(), first))
    carry = (state, jax.random.key(1))

    def run(indices: Tensor) -> Any:
        nonlocal carry
        carry, losses = steps(carry, jnp.asarray(indices.numpy()))
        return losses.block_until_ready()

    def weights() -> dict[str, Layers]:
        found = svi.get_params(carry[0])
        return {
            name: [(_tensor(weight).T, _tensor(bias)) for weight, bias in found[name]]
            for name in ("encoder", "decoder")
        }

    return Column(run, weights)


class _VAE:
    """The pair in NumPyro."""

    def __init__(self, problem: Problem) -> None:
        import jax
        import numpyro as npyro
        from jax import numpy as jnp

        self.jax, self.jnp, self.npyro, self.dist = jax, jnp, npyro, npyro.distributions
        self.row = problem.row
        self.activation = getattr(jax.nn, problem.row.activation.lower())
        self.layers = {
            name: [(jnp.asarray(w.numpy().T), jnp.asarray(b.numpy())) for w, b in pairs]
            for name, pairs in problem.layers.items()
        }
        self.components = tuple(jnp.asarray(part.numpy()) for part in problem.components)

    def model(self, x: Any) -> None:
        """Run p(z) p(x | z)."""
        with self.npyro.plate("data", len(x)):
            z = self.npyro.sample("z", self.prior())
            self.npyro.sample("x", self.bernoulli("decoder", z), obs=x)

    def guide(self, x: Any) -> None:
        """Run q(z | x)."""
        with self.npyro.plate("data", len(x)):
            self.npyro.sample("z", self.normal("encoder", x))

    def prior(self) -> Any:
        """Return p(z)."""
        if self.row.kind != "gmvae":
            return self.dist.Normal(self.jnp.zeros(self.row.latent), 1.0).to_event(1)
        loc = self.npyro.param("loc", self.components[0])
        unconstrained = self.npyro.param("unconstrained", self.components[1])
        scale = self.jax.nn.softplus(unconstrained) + 1e-4
        weights = self.dist.Categorical(logits=self.jnp.zeros(len(loc)))
        return self.dist.MixtureSameFamily(weights, self.dist.Normal(loc, scale).to_event(1))

    def normal(self, name: str, x: Any) -> Any:
        """Return the normal that a network gives."""
        loc, unconstrained = self.jnp.split(self.network(name, x), 2, -1)
        return self.dist.Normal(loc, self.jax.nn.softplus(unconstrained) + 1e-4).to_event(1)

    def bernoulli(self, name: str, z: Any) -> Any:
        """Return the Bernoulli distribution that a network gives."""
        return self.dist.Bernoulli(logits=self.network(name, z)).to_event(1)

    def network(self, name: str, x: Any) -> Any:
        """Return the output of a network."""
        *hidden, (last, last_bias) = self.npyro.param(name, self.layers[name])
        for weight, bias in hidden:
            x = self.activation(x @ weight + bias)
        return x @ last + last_bias


class _SemiSupervised(_VAE):
    """M2 in NumPyro; data with labels and without in one program, so that both make one step."""

    def model(self, x: Any, labelled: Any, y: Any) -> None:
        """Run p(y) p(z) p(x | z, y) for both parts."""
        p_y = self.dist.Categorical(logits=self.jnp.zeros(self.row.classes))
        with self.npyro.plate("unlabelled", len(x)), self.scaled(1 / len(x)):
            self.generate("", x, self.npyro.sample("y", p_y))
        with self.npyro.plate("labelled", len(y)), self.scaled(1 / len(y)):
            self.generate("labelled_", labelled, self.npyro.sample("labelled_y", p_y, obs=y))
            with self.scaled(CLASSIFICATION_WEIGHT):
                self.npyro.sample("classification", self.label(labelled), obs=y)

    def guide(self, x: Any, labelled: Any, y: Any) -> None:
        """Run q(y | x) q(z | x, y), and q(z | x, y) where y is given."""
        with self.npyro.plate("unlabelled", len(x)), self.scaled(1 / len(x)):
            unknown = self.npyro.sample("y", self.label(x), infer={"enumerate": "parallel"})
            self.npyro.sample("z", self.normal("encoder", self.together(x, unknown)))
        with self.npyro.plate("labelled", len(y)), self.scaled(1 / len(y)):
            self.npyro.sample("labelled_z", self.normal("encoder", self.together(labelled, y)))

    def generate(self, part: str, x: Any, y: Any) -> None:
        """Run p(z) p(x | z, y)."""
        z = self.npyro.sample(f"{part}z", self.prior())
        p_x = self.bernoulli("decoder", self.together(z, y))
        self.npyro.sample(f"{part}x", p_x, obs=x)

    def label(self, x: Any) -> Any:
        """Return q(y | x)."""
        return self.dist.Categorical(logits=self.network("classifier", x))

    def together(self, x: Any, y: Any) -> Any:
        """Return x and y, one-hot, concatenated, for each of the values of y."""
        one_hot = self.jax.nn.one_hot(y, self.row.classes)
        leading = self.jnp.broadcast_shapes(x.shape[:-1], one_hot.shape[:-1])
        parts = [self.jnp.broadcast_to(v, (*leading, v.shape[-1])) for v in (x, one_hot)]
        return self.jnp.concatenate(parts, -1)

    def scaled(self, weight: float) -> Any:
        """Return what weighs the sites within."""
        return self.npyro.handlers.scale(scale=weight)


def pythae(problem: Problem) -> Column:
    """The VAE of pythae, by an epoch of its trainer for a turn."""
    row = problem.row
    if row.kind != "vae":
        raise Unavailable(
            "pythae's IWAE returns a surrogate in the place of the bound"
            if row.kind == "iwae"
            else "pythae has no such model"
        )
    try:
        from pythae.data.datasets import BaseDataset
        from pythae.models import VAE, VAEConfig
        from pythae.models.nn import BaseDecoder, BaseEncoder
        from pythae.trainers import BaseTrainer, BaseTrainerConfig
    except ImportError as error:
        raise Unavailable(f"no {error.name}") from error

    logging.getLogger("pythae").setLevel(logging.ERROR)

    # The library reads an encoder's results by attribute and a decoder's by key.
    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.network = problem.network("encoder")

        def forward(self, x: Tensor) -> SimpleNamespace:
            loc, unconstrained = self.network(x).chunk(2, -1)
            scale = F.softplus(unconstrained) + 1e-4
            return SimpleNamespace(embedding=loc, log_covariance=2 * scale.log())

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.network = problem.network("decoder")

        def forward(self, z: Tensor) -> dict[str, Tensor]:
            return {"reconstruction": self.network(z).sigmoid()}

    class Loader:
        """The batches of a turn, in the place of the trainer's loader."""

        dataset = problem.images
        indices = torch.zeros(0, row.batch, dtype=torch.long)

        def __iter__(self) -> Iterator[dict[str, Tensor]]:
            return ({"data": torch.bernoulli(problem.images[index])} for index in self.indices)

        def __len__(self) -> int:
            return len(self.indices)

    config = VAEConfig(input_dim=(row.pixels,), latent_dim=row.latent, reconstruction_loss="bce")
    vae = VAE(config, Encoder(), Decoder())
    few = problem.images[: row.batch].round()
    folder = tempfile.TemporaryDirectory()
    training = BaseTrainerConfig(
        output_dir=folder.name,
        learning_rate=problem.rate,
        per_device_train_batch_size=row.batch,
        no_cuda=True,
    )
    trainer = BaseTrainer(vae, BaseDataset(few, torch.zeros(len(few))), training_config=training)
    trainer.prepare_training()
    trainer.callback_handler.callbacks = []  # a progress bar
    loader = trainer.train_loader = Loader()

    def run(indices: Tensor) -> list[float]:
        loader.indices = indices
        return [trainer.train_step(epoch=1)] * len(indices)

    networks = {"encoder": vae.encoder, "decoder": vae.decoder}
    return Column(run, partial(layers_of, **networks))


def _tensor(array: Any) -> Tensor:
    return torch.from_numpy(np.array(array))
