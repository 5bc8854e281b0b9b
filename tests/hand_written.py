"""Densities and sums written by hand, and the draws that they are compared on."""

import math

import torch
from pyro import poutine
from pyro.infer import Trace_ELBO


def draws(pair, *args):
    """The latents that Trace_ELBO draws at seed 1, by site."""
    torch.manual_seed(1)
    nodes = poutine.trace(pair.guide).get_trace(*args).nodes
    return {name: site["value"] for name, site in nodes.items() if name.startswith("z")}


def elbo(pair, *args):
    torch.manual_seed(1)
    return -Trace_ELBO().loss(pair.model, pair.guide, *args)


def normal(z, outputs):
    loc, raw = outputs.chunk(2, -1)
    scale = torch.log1p(raw.exp()) + 1e-4
    return (-0.5 * ((z - loc) / scale) ** 2 - scale.log() - 0.5 * math.log(2 * math.pi)).sum(-1)


def standard(z):
    return (-0.5 * z**2 - 0.5 * math.log(2 * math.pi)).sum(-1)


def bernoulli(x, logits):
    return (x * logits - torch.log1p(logits.exp())).sum(-1)
