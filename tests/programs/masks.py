"""Masks and scales."""

import pyro
import torch
from programs.program import ENUMERATED, nothing, parameters, program, tensor
from pyro import distributions as dist
from pyro import poutine
from pyro.poutine import handlers

X = tensor(0.3, -1.2, 0.8)
SEEN = torch.tensor([True, False, True])
TABLE = tensor([0.3, -1.2, 0.8], [1.1, 0.4, -0.5])
ENTRIES = torch.tensor([[True, False, True], [False, False, True]])


def normal_pair(observe, latent=None, plate="data"):
    """z ~ N(0, 1), and something observed given it."""
    p = parameters(slope=(), loc=(), scale=())
    latent = latent or (lambda fn: pyro.sample("z", fn))

    def model(x):
        with pyro.plate(plate, len(x)):
            z = latent(dist.Normal(0.0, 1.0))
            observe(dist.Normal(p.slope * z, 1.0), x)

    def guide(x):
        with pyro.plate(plate, len(x)):
            latent(dist.Normal(p.loc * x, p.scale.exp()))

    return model, guide, p


@program(X)
def masked_observations():
    def observe(fn, x):
        with poutine.mask(mask=SEEN):
            pyro.sample("x", fn, obs=x)

    return normal_pair(observe)


@program(X)
def mask_of_a_distribution():
    return normal_pair(lambda fn, x: pyro.sample("x", fn.mask(SEEN), obs=x))


@program(X)
def masked_latent():
    def latent(fn):
        with handlers.mask(mask=SEEN):
            return pyro.sample("z", fn)

    return normal_pair(lambda fn, x: pyro.sample("x", fn, obs=x), latent)


@program(X)
def masked_program():
    model, guide, p = normal_pair(lambda fn, x: pyro.sample("x", fn, obs=x))
    return poutine.mask(model, mask=SEEN), poutine.mask(guide, mask=SEEN), p


@program(X)
def observations_masked_out():
    return normal_pair(lambda fn, x: pyro.sample("x", fn.mask(False), obs=x))


@program(TABLE, plate="columns")
def masked_entries_of_an_inner_plate():
    p = parameters(column=3, slope=())

    def model(x):
        with pyro.plate("columns", 3, dim=-1):
            c = pyro.sample("c", dist.Normal(0.0, 1.0))
            with pyro.plate("rows", 2, dim=-2), poutine.mask(mask=ENTRIES):
                pyro.sample("x", dist.Normal(p.slope * c, 1.0), obs=x)

    def guide(x):
        with pyro.plate("columns", 3, dim=-1):
            pyro.sample("c", dist.Normal(p.column, 0.5))

    return model, guide, p


@program(TABLE, plate="columns")
def masked_labels_of_an_inner_plate():
    p = parameters(column=3, weights=2, means=2)

    def model(x):
        with pyro.plate("columns", 3, dim=-1):
            c = pyro.sample("c", dist.Normal(0.0, 1.0))
            with pyro.plate("rows", 2, dim=-2), poutine.mask(mask=ENTRIES):
                y = pyro.sample("y", dist.Categorical(logits=p.weights), infer=ENUMERATED)
                pyro.sample("x", dist.Normal(p.means[y] + c, 1.0), obs=x)

    def guide(x):
        with pyro.plate("columns", 3, dim=-1):
            pyro.sample("c", dist.Normal(p.column, 0.5))

    return model, guide, p


@program(X)
def masked_mixture():
    p = parameters(weights=2, means=2)

    def model(x):
        with pyro.plate("data", len(x)), poutine.mask(mask=SEEN):
            y = pyro.sample("y", dist.Categorical(logits=p.weights), infer=ENUMERATED)
            pyro.sample("x", dist.Normal(p.means[y], 1.0), obs=x)

    return model, nothing, p


@program(X, refused_whole="inner plate 'data'")
def masked_label_in_the_guide():
    p = parameters(weights=2, means=2, slope=2)

    def model(x):
        with pyro.plate("data", len(x)), poutine.mask(mask=SEEN):
            y = pyro.sample("y", dist.Categorical(logits=p.weights), infer=ENUMERATED)
            pyro.sample("x", dist.Normal(p.means[y], 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)), poutine.mask(mask=SEEN):
            fn = dist.Categorical(logits=x.unsqueeze(-1) * p.slope)
            pyro.sample("y", fn, infer=ENUMERATED)

    return model, guide, p


@program(X)
def scaled_latent():
    def latent(fn):
        with poutine.scale(scale=0.3):
            return pyro.sample("z", fn)

    return normal_pair(lambda fn, x: pyro.sample("x", fn, obs=x), latent)


@program(X)
def scales_of_data():
    def observe(fn, x):
        with poutine.scale(scale=tensor(1.0, 0.5, 2.0)):
            pyro.sample("x", fn, obs=x)

    return normal_pair(observe)


@program(X)
def scaled_program():
    model, guide, p = normal_pair(lambda fn, x: pyro.sample("x", fn, obs=x))
    return poutine.scale(model, scale=2.0), poutine.scale(guide, scale=2.0), p


@program(X, unlike_pyro="raises where scales differ")
def scaled_observations_of_a_mixture():
    p = parameters(weights=2, means=2)

    def model(x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(logits=p.weights), infer=ENUMERATED)
            with poutine.scale(scale=0.5):
                pyro.sample("x", dist.Normal(p.means[y], 1.0), obs=x)

    return model, nothing, p


@program(X, refused_whole="inner plate 'data'")
def scaled_label_in_the_guide():
    p = parameters(weights=2, means=2, slope=2)

    def model(x):
        with pyro.plate("data", len(x)):
            with poutine.scale(scale=0.5):
                y = pyro.sample("y", dist.Categorical(logits=p.weights), infer=ENUMERATED)
            pyro.sample("x", dist.Normal(p.means[y], 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)), poutine.scale(scale=0.5):
            fn = dist.Categorical(logits=x.unsqueeze(-1) * p.slope)
            pyro.sample("y", fn, infer=ENUMERATED)

    return model, guide, p


@program(X)
def scale_and_mask():
    def observe(fn, x):
        with poutine.mask(mask=SEEN), poutine.scale(scale=0.5):
            pyro.sample("x", fn, obs=x)

    return normal_pair(observe)


@program(TABLE, plate="columns", unlike_pyro="raises where scales differ")
def scaled_labels_of_an_inner_plate():
    p = parameters(column=3, weights=2, means=2)

    def model(x):
        with pyro.plate("columns", 3, dim=-1):
            c = pyro.sample("c", dist.Normal(0.0, 1.0))
            with pyro.plate("rows", 2, dim=-2), poutine.scale(scale=0.7):
                y = pyro.sample("y", dist.Categorical(logits=p.weights), infer=ENUMERATED)
                with poutine.scale(scale=0.5):
                    pyro.sample("x", dist.Normal(p.means[y] + c, 1.0), obs=x)

    def guide(x):
        with pyro.plate("columns", 3, dim=-1):
            pyro.sample("c", dist.Normal(p.column, 0.5))

    return model, guide, p


@program(X, unlike_pyro="raises where scales differ")
def scaled_and_masked_label():
    p = parameters(weights=2, means=2)

    def model(x):
        with pyro.plate("data", len(x)), poutine.mask(mask=SEEN):
            with poutine.scale(scale=0.5):
                y = pyro.sample("y", dist.Categorical(logits=p.weights), infer=ENUMERATED)
            pyro.sample("x", dist.Normal(p.means[y], 1.0), obs=x)

    return model, nothing, p
