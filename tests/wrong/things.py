"""Small right things, of which the wrong calls are made: pairs, data, networks, files."""

from functools import partial
from pathlib import Path

import numpy as np
import pyro
import torch
from lightning_fabric import Fabric
from pairs import C, D, Z, net, ssvae, vae
from pyro.infer import Trace_ELBO
from sklearn.neighbors import KNeighborsClassifier
from torch import nn

import ppl_vae
from ppl_vae import (
    VAE,
    ConditionalVAE,
    HierarchicalVAE,
    SemiSupervisedVAE,
    StackedVAE,
    data,
    estimators,
    evaluation,
    explorer,
    io,
    likelihoods,
    nets,
    plots,
    posteriors,
    priors,
    report,
    testing,
    training,
)
from ppl_vae.distributions.flow import zuko


def conditional(**width):
    n = C if "num_classes" in width else 2
    return ConditionalVAE(
        prior=priors.StandardNormal(Z),
        posterior=posteriors.DiagonalNormal(net(D + n, 2 * Z)),
        likelihood=likelihoods.Bernoulli(net(Z + n, D)),
        **width,
    )


def layers(**changes):
    """Return the parts of a HierarchicalVAE, some of them changed."""
    parts = {
        "prior": priors.StandardNormal(2),
        "conditionals": [priors.ConditionalNormal(net(2, 2 * 3))],
        "posteriors": [
            posteriors.DiagonalNormal(net(D, 2 * 3)),
            posteriors.DiagonalNormal(net(3, 2 * 2)),
        ],
        "likelihood": likelihoods.Bernoulli(net(3, D)),
    }
    return {**parts, **changes}


def vectors(latent_dim=2, codes=4, code_dim=3, **options):
    """Return a quantised posterior of 2 vectors."""
    return posteriors.VectorQuantised(
        net(D, 6), latent_dim, codes=codes, code_dim=code_dim, **options
    )


class ThreePriors(nn.Module):
    """A batch of three priors."""

    def forward(self):
        return pyro.distributions.Normal(torch.zeros(3, Z), 1.0).to_event(1)


def spoilt(part):
    """Return a pair with NaN in the last parameter of a part."""
    pair = vae(prior="diagonal normal")
    with torch.no_grad():
        list(getattr(pair, part).parameters())[-1].fill_(torch.nan)
    return pair


def with_batch_norm():
    encoder = nn.Sequential(nn.Linear(D, 4), nn.BatchNorm1d(4), nn.Linear(4, 2 * Z))
    return vae().replace(posterior=posteriors.DiagonalNormal(nets.KeepLeading(encoder, 1)))


def converted(pair):
    """Take a step with a pair, convert it, and take another."""
    optimizer = torch.optim.Adam(pair.parameters(), lr=1e-3)
    step = training.compile_step(pair, estimators.AnalyticKLELBO(), optimizer)
    x = torch.ones(7, D)
    step(x)
    pair.double()
    step(x.double())


def things(folder: Path):
    """Return the names that a wrong call is written with; files go to a folder."""
    x = (torch.arange(7 * D).reshape(7, D) % 3 == 0).float()
    y = torch.tensor([0, 1, 2, 0, 1, 2, 0])
    (folder / "file").write_text("no folder")
    pair = vae()
    kept = {"x": x, "y": y, "vae": pair, "ssvae": ssvae(), "net": net, "out": folder}
    fit = partial(training.fit, progress=False)
    return {
        **kept,
        "vamp": vae("vamp"),
        "of_labels": conditional(num_classes=C),
        "of_vectors": conditional(context_features=2),
        "hvae": HierarchicalVAE(**layers()),
        "parts": lambda **changes: {n: p for n, p in pair.parts().items() if p} | changes,
        "ss_parts": lambda **changes: {**kept["ssvae"].parts(), **changes},
        "layers": layers,
        "flows": zuko.flows,
        "ThreePriors": ThreePriors,
        "spoilt": spoilt,
        "vectors": vectors,
        "converted": converted,
        "training_pair": vae,
        "with_batch_norm": with_batch_norm,
        "with_": lambda value: x.index_put((torch.tensor(2), torch.tensor(3)), torch.tensor(value)),
        "c": torch.zeros(7, 2),
        "dataset": data.Dataset(x, y),
        "grey": data.Dataset(x / 3, y),
        "factors": data.Factors(torch.stack([y, y % 2], 1), ("kind", "place")),
        "neighbours": KNeighborsClassifier(1),
        "z": torch.arange(14.0).reshape(7, 2),
        "IW": estimators.ImportanceWeightedELBO,
        "Adam": partial(torch.optim.Adam, lr=1e-3),
        "fit": lambda *args, **kwargs: fit(*args, **{"steps": 1, **kwargs}),
        "compile_step": training.compile_step,
        "EarlyStopping": training.EarlyStopping,
        "NAN": float("nan"),
        **{o.__name__: o for o in (VAE, ConditionalVAE, HierarchicalVAE, SemiSupervisedVAE)},
        **{o.__name__: o for o in (StackedVAE, Fabric, Trace_ELBO, Path, partial)},
        **{"C": C, "D": D, "Z": Z, "np": np, "torch": torch, "nn": nn, "pyro": pyro},
        **{m.__name__.rpartition(".")[2]: m for m in (io, data, estimators, evaluation)},
        **{m.__name__.rpartition(".")[2]: m for m in (explorer, report)},
        **{m.__name__.rpartition(".")[2]: m for m in (likelihoods, nets, testing, plots)},
        **{m.__name__.rpartition(".")[2]: m for m in (posteriors, priors, ppl_vae)},
    }
