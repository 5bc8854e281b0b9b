"""Held-out log-likelihood and clusters of single cells: likelihoods of counts times priors.

    PPL_VAE_DATA=../shared/data .venv/bin/python benchmarks/counts.py

trains conditional VAEs on ``counts/mouse_bladder.h5`` (2,100 cells of the Mouse Cell Atlas, 16
types, as published with scDeepCluster), on the genes that vary most among the training cells. The
size factor is the observed library size of these genes, so that all numbers are log p(x | l) in
nats per cell; networks, split, optimiser and stopping are the same for all. scVI of scvi-tools is
trained beside them on the same cells, with the same layers, latents and size factor, where it is
installed. Results go to ``counts.json`` and ``counts.md`` under ``benchmarks/results``; models that
are there already, trained with the same settings, are not trained again.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
from scipy import sparse
from sklearn.cluster import KMeans
from sklearn.model_selection import train_test_split
from torch import nn

from ppl_vae import ConditionalVAE, evaluation, likelihoods, nets, posteriors, priors, training
from ppl_vae.data import Dataset, from_counts
from ppl_vae.estimators import linear_warm_up

RESULTS = Path(__file__).parent / "results"
COMPONENTS = 20


@dataclass(frozen=True)
class Settings:
    """What all models have in common."""

    genes: int = 1000
    latent_dim: int = 10
    hidden: int = 128
    batch_size: int = 128
    rate: float = 1e-3
    steps: int = 20_000
    warm_up: int = 200
    validate_every: int = 200
    patience: int = 10
    num_samples: int = 500


TINY = Settings(12, 2, 8, 16, 1e-3, 4, 2, 2, 2, 30)
PRIORS: dict[str, Callable[[int], nn.Module]] = {
    "standard normal": priors.StandardNormal,
    f"mixture of {COMPONENTS}": lambda z: priors.GaussianMixture(z, components=COMPONENTS),
    "spline flow": lambda z: priors.Flow(z, "spline", transforms=3, hidden=(64,)),
}
LIKELIHOODS: dict[str, Any] = {
    "NB": likelihoods.NegativeBinomial,
    "ZINB": likelihoods.ZeroInflatedNegativeBinomial,
}


@dataclass(frozen=True)
class Cells:
    """Cells to train, to stop early and to test with, and all of them."""

    train: Dataset
    validation: Dataset
    test: Dataset
    every: Dataset


def bladder(folder: Path) -> tuple[sparse.csr_matrix, np.ndarray]:
    """Read counts and cell types."""
    import h5py

    with h5py.File(folder / "counts" / "mouse_bladder.h5") as file:
        x, y = file["X"][()], file["Y"][()]
    return sparse.csr_matrix(np.rint(x).astype(np.int32)), y.astype(np.int64)


def made_up(cells: int = 120, genes: int = 30, types: int = 3) -> tuple[Any, np.ndarray]:
    """Draw cells of a few types, for tests."""
    rng = np.random.default_rng(0)
    y = np.arange(cells) % types
    share = rng.dirichlet(np.ones(genes), types)[y]
    x = rng.poisson(rng.gamma(2.0, share * rng.integers(100, 900, (cells, 1)) / 2.0))
    return sparse.csr_matrix(x), y


def divided(x: Any, y: np.ndarray, genes: int, seed: int) -> Cells:
    """Divide cells 8 : 1 : 1 by type, and choose genes by the training cells alone.

    The genes are those whose log(1 + 10⁴ x / l) varies most. Cells without any of them are left
    out: they have no size factor.
    """
    rest, test = train_test_split(np.arange(len(y)), test_size=0.1, stratify=y, random_state=seed)
    train, validation = train_test_split(rest, test_size=1 / 9, stratify=y[rest], random_state=seed)
    normal = x[train].multiply(1e4 / x[train].sum(1)).tocsr().log1p()
    variance = normal.power(2).mean(0) - np.square(normal.mean(0))
    chosen = np.sort(np.argsort(-np.asarray(variance).ravel())[:genes])
    x = x[:, chosen]
    filled = np.asarray(x.sum(1)).ravel() > 0
    parts = [i[filled[i]] for i in (train, validation, test, np.arange(len(y)))]
    return Cells(*(from_counts(x[i], y[i], name="cells") for i in parts))


def pair_of(likelihood: str, prior: str, settings: Settings) -> ConditionalVAE:
    """Return an untrained pair; the context is the log library size alone."""
    genes, z, width = settings.genes, settings.latent_dim, (settings.hidden,)
    kind = LIKELIHOODS[likelihood]
    outputs = kind.net_shape((genes,))[0]
    encoder = nets.MLP(genes + 1, 2 * z, hidden=width, activation=nn.ReLU)
    return ConditionalVAE(
        prior=PRIORS[prior](z),
        posterior=posteriors.DiagonalNormal(nets.Log1p(encoder)),
        likelihood=kind(
            nets.MLP(z, outputs, hidden=width, activation=nn.ReLU),
            "per-element",
            elements=genes,
            size_factor="context",
        ),
        context_features=1,
    )


def agreement(z: np.ndarray, labels: torch.Tensor, seed: int) -> dict[str, float]:
    """Return the agreement of k-means clusters, as many as there are types, with the types."""
    types = len(labels.unique())
    assigned = KMeans(types, n_init=10, random_state=seed).fit_predict(z)
    found = evaluation.clustering(torch.from_numpy(assigned).long(), labels)
    return {"nmi": found.nmi, "ari": found.ari}


def ours(likelihood: str, prior: str, cells: Cells, settings: Settings, seed: int) -> dict:
    """Train a pair and return its numbers."""
    torch.manual_seed(seed)
    pair = pair_of(likelihood, prior, settings)
    fitted = training.fit(
        pair,
        cells.train,
        steps=settings.steps,
        batch_size=settings.batch_size,
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=settings.rate),
        beta=linear_warm_up(settings.warm_up),
        validation=cells.validation,
        validate_every=settings.validate_every,
        stopping=training.EarlyStopping(settings.patience),
        seed=seed,
        progress=False,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="log_likelihood: Pareto")  # it is in the table
        found = evaluation.log_likelihood(
            pair, cells.test, num_samples=settings.num_samples, seed=seed
        )
    return {
        "log_px": -found.nll.mean,
        "standard_error": found.nll.standard_error,
        "monte_carlo_error": found.monte_carlo_error,
        "unreliable": found.unreliable,
        **agreement(pair.encode(cells.every).numpy(), cells.every.labels, seed),
        "best_step": fitted.best_step,
    }


def scvi_model(likelihood: str, cells: Cells, settings: Settings, seed: int) -> dict:
    """Train scVI and return its numbers; its prior is the standard normal.

    It has the same layers, without dropout and normalisation, and stops by the same rule in epochs,
    with its last weights. Raises ImportError without scvi-tools.
    """
    import anndata
    import scvi

    scvi.settings.seed = seed

    def table(*parts: Dataset) -> Any:
        return anndata.AnnData(sparse.vstack([sparse.csr_matrix(p.tensor()) for p in parts]))

    held = table(cells.train, cells.validation)
    scvi.model.SCVI.setup_anndata(held)
    model = scvi.model.SCVI(
        held,
        n_hidden=settings.hidden,
        n_latent=settings.latent_dim,
        n_layers=1,
        dropout_rate=0.0,
        gene_likelihood=likelihood.lower(),
        use_batch_norm="none",
    )
    per_epoch = -(-len(cells.train) // settings.batch_size)
    model.train(
        max_epochs=settings.steps // per_epoch + 1,
        accelerator="cpu",
        train_size=len(cells.train) / len(held),
        shuffle_set_split=False,
        batch_size=settings.batch_size,
        early_stopping=True,
        early_stopping_patience=settings.patience * settings.validate_every // per_epoch,
        plan_kwargs={
            "lr": settings.rate,
            "eps": 1e-8,  # as in torch; theirs is 0.01
            "weight_decay": 0.0,
            "n_epochs_kl_warmup": settings.warm_up // per_epoch,
        },
        enable_progress_bar=False,
    )
    log_px = np.asarray(
        model.get_marginal_ll(
            table(cells.test), n_mc_samples=settings.num_samples, return_mean=False
        )
    )
    return {
        "log_px": float(log_px.mean()),
        "standard_error": float(log_px.std(ddof=1) / len(log_px) ** 0.5),
        **agreement(model.get_latent_representation(table(cells.every)), cells.every.labels, seed),
    }


def run(
    path: Path,
    source: tuple[Any, np.ndarray],
    settings: Settings,
    seeds: Iterable[int],
    only: str = "",
) -> dict:
    """Train what is not in the file yet, write each model's numbers, and return all."""
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    if found.get("settings") != asdict(settings):
        found = {"settings": asdict(settings), "models": {}}
    for seed in seeds:
        cells = divided(*source, settings.genes, seed)
        found["cells"] = {
            "train": len(cells.train),
            "validation": len(cells.validation),
            "test": len(cells.test),
        }
        jobs: dict[str, Callable[[], dict]] = {}
        for likelihood in LIKELIHOODS:
            for prior in PRIORS:
                jobs[f"{likelihood}, {prior}"] = partial(
                    ours, likelihood, prior, cells, settings, seed
                )
            jobs[f"{likelihood}, scVI"] = partial(scvi_model, likelihood, cells, settings, seed)
        for name, job in jobs.items():
            key = f"{name}, seed {seed}"
            if key in found["models"] or only not in key:
                continue
            try:
                found["models"][key] = job()
            except ImportError as error:
                print(f"{key}: {error}", file=sys.stderr)
                continue
            print(f"{key}: {found['models'][key]['log_px']:.2f} nats", file=sys.stderr, flush=True)
            path.write_text(json.dumps(found, indent=1) + "\n")
    return found


def table_of(found: dict) -> str:
    """Return the results as a Markdown table: means over seeds, ± standard deviations."""
    rows: dict[str, list[dict]] = {}
    for key, numbers in found["models"].items():
        rows.setdefault(key.rpartition(", seed")[0], []).append(numbers)
    lines = [
        "| model | log p(x given l), nats per cell | NMI | ARI |",
        "|---|---|---|---|",
    ]
    for name, several in rows.items():
        spread = partial(_mean_and_deviation, several)
        lines.append(
            f"| {name} | {spread('log_px', 1)} | {spread('nmi', 3)} | {spread('ari', 3)} |"
        )
    return "\n".join(lines) + "\n"


def _mean_and_deviation(several: list[dict], name: str, digits: int) -> str:
    values = [one[name] for one in several]
    text = f"{mean(values):.{digits}f}"
    return text if len(values) < 2 else f"{text} ± {stdev(values):.{digits}f}"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=3, help="splits and first weights")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the folder of the results")
    parser.add_argument("--only", default="", help="models with this in their names, as scVI")
    parser.add_argument("--tiny", action="store_true", help="seconds, on made-up cells: a test")
    given = parser.parse_args(arguments)
    if given.tiny:
        source, settings = made_up(), TINY
    else:
        source, settings = bladder(Path(os.environ["PPL_VAE_DATA"])), Settings()
    found = run(given.out / "counts.json", source, settings, range(given.seeds), given.only)
    table = table_of(found)
    (given.out / "counts.md").write_text(table)
    print(table, end="")


if __name__ == "__main__":
    main()
