"""Semi-supervised MNIST: M2 and M1+M2 with 100 to 3,000 labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ppl_vae.data import SemiSupervised
from ppl_vae.models import Pair, SemiSupervisedVAE, StackedVAE
from ppl_vae.reproduction import measurements
from ppl_vae.reproduction.cs236 import pair_of
from ppl_vae.reproduction.datasets import mnist, shifted
from ppl_vae.reproduction.table import Published, Row, Table
from ppl_vae.reproduction.training import Training

CROSS_ENTROPY = 100.0
"""Weight of the labels' mean cross-entropy beside the mean NELBO, as in table cs236."""
BATCH = 100

LABELS = (100, 600, 1000, 3000)
# Accuracies in percent.
KINGMA: Mapping[str, float] = {"M2": 88.03, "M1+M2": 96.67}  # with 100 labels
PYRO: Mapping[int, float] = {100: 93.2, 600: 94.4, 1000: 94.9, 3000: 95.8}


def labelled_items(labels: int, training: Training) -> Tensor:
    """Return the items whose labels are shown, as many of each class, drawn by the seed."""
    per_class = training.choose(labels // 10, smoke=2)
    return training.data.train.labelled_subset(per_class, training.seed)


def train_m2(labels: int, training: Training, *, shifts: bool = False) -> Pair:
    """Train M2 for 30,000 steps of 100 unlabelled and 100 labelled images, perhaps moved."""
    pair = training.pair(
        pair_of(
            50,
            **{"class": "SemiSupervisedVAE"},
            classifier={"class": "MLP", "hidden": [500], "activation": "ReLU"},
            classification_weight=100 * CROSS_ENTROPY,  # of labelled data, whose weight is 0.01
        )
    )
    train = training.data.train.augmented(shifted) if shifts else training.data.train
    steps = SemiSupervised(
        train,
        labelled_items(labels, training),
        batch_size=BATCH,
        labelled_batch_size=BATCH,
        labelled_weight=0.01,
        seed=training.seed,
    )
    training.fit(pair, steps, steps=training.choose(30_000, smoke=3))
    return pair


@dataclass(frozen=True)
class LatentBatches:
    """Batches (z_1, y) of M1's latents, drawn anew: half without labels, y = -1, half with.

    Args:
        stacked: whose M1 is trained.
        images: grey values, ``(N, pixels)``, binarised anew at each draw.
        labelled: the items with labels.
        y: the labels of all items.
    """

    stacked: StackedVAE
    images: Tensor
    labelled: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.images) // BATCH

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for items in torch.randperm(len(self.images))[: len(self) * BATCH].split(BATCH):
            shown = self.labelled[torch.randint(len(self.labelled), (BATCH,))]
            x = torch.bernoulli(self.images[torch.cat([items, shown])])
            y = torch.cat([torch.full((BATCH,), -1), self.y[shown]])
            yield self.stacked.latents(x), y


def train_m1_and_m2(labels: int, training: Training) -> Any:
    """Train M1 on all images, or load that of another row, then M2 on its latents."""
    train, latent_dim = training.data.train, 50
    first = training.pair(pair_of(latent_dim))
    steps = training.choose(30_000, smoke=3)
    training.fit(first, train, stage="M1", shared=True, steps=steps, batch_size=BATCH)
    net = {"class": "MLP", "hidden": [500], "activation": "Softplus"}
    second = training.pair(
        {
            "class": "SemiSupervisedVAE",
            "latent_dim": 50,
            "event_shape": [latent_dim],
            "num_classes": train.num_classes,
            "prior": "StandardNormal",
            "classifier": {**net, "activation": "ReLU"},
            "posterior": {"class": "DiagonalNormal", "net": net},
            "likelihood": {"class": "Normal", "net": net, "scale": "per-pixel"},
            # The mean over a batch counts each half by one half.
            "classification_weight": CROSS_ENTROPY,
        },
        of_data=False,
    )
    assert isinstance(second, SemiSupervisedVAE)
    stacked = StackedVAE(first=first, second=second)  # type: ignore[arg-type]
    assert train.labels is not None
    batches = LatentBatches(
        stacked, train.tensor(binarise="none"), labelled_items(labels, training), train.labels
    )
    training.fit(second, batches, stage="M2", steps=steps)
    return stacked


def _row(model: str, labels: int) -> Row:
    known = {"accuracy, %": Published(KINGMA[model], source="1")}
    return Row(
        name=f"{model}, {labels:,} labels",
        train=partial(train_m2 if model == "M2" else train_m1_and_m2, labels),
        measure={"accuracy": measurements.accuracy},
        published=known if labels == 100 else {},
    )


SHIFTED = Row(
    name="M2 with shifts, 100 labels",
    train=partial(train_m2, 100, shifts=True),
    measure={"accuracy": measurements.accuracy},
    published={"accuracy, %": Published(KINGMA["M2"], source="1")},
    whole="the paper shifts no images",
)

SEMI_SUPERVISED = Table(
    name="semi-supervised",
    title="M2 and M1+M2 with 100, 600, 1,000 and 3,000 labels",
    data=mnist,
    rows=(*(_row(model, labels) for model in KINGMA for labels in LABELS), SHIFTED),
    sources={"1": "Kingma et al. 2014, arXiv 1406.5298: errors of 11.97 and 3.33 %"},
    protocol="MNIST, binarised anew at each step; each seed shows other labels, as many of each "
    "class. M2: encoder and decoder of two layers of 300 ELU units, a classifier of 500 ReLU "
    "units, z of 50, 30,000 steps of 100 unlabelled and 100 labelled images, Adam at 1e-3; the "
    "labels' mean cross-entropy has a weight of 100. M1+M2: M1 is such a VAE, z of 50, trained on "
    "all images, one for each seed; M2, one layer of 500 units in each network, is trained on "
    "draws of its latents for 30,000 steps. With shifts: each training image, labelled or not, is "
    "moved at random by up to two pixels each way before it is binarised. Nothing is selected on "
    "test labels, and no validation set is used. Accuracy on grey values of the test set. The "
    "paper's networks and weights differ. Pyro's tutorial has "
    + ", ".join(f"{accuracy} % with {labels:,}" for labels, accuracy in PYRO.items())
    + " for M2.",
    minutes=160,
)
