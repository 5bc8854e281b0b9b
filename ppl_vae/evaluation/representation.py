"""What the latents say about labels that they were not given."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ppl_vae.errors import describe, number, positive_int
from ppl_vae.evaluation.arguments import Array, Data, arguments
from ppl_vae.evaluation.checks import check_labels, known_labels
from ppl_vae.evaluation.estimate import Estimate
from ppl_vae.evaluation.latents import BLOCK, data_blocks, latent_at, run_latents
from ppl_vae.evaluation.seeding import seeded
from ppl_vae.module_modes import evaluating
from ppl_vae.protocols import ModelAndGuide, check_pair


@dataclass(frozen=True)
class Clustering:
    """How well clusters agree with labels.

    Args:
        accuracy: share of the data whose cluster is the one matched to their label, under the
            one-to-one matching of clusters and labels that makes it greatest. With more clusters
            than labels, the data of those left over all count as wrong.
        nmi: normalised mutual information I(k; y) / ((H(k) + H(y)) / 2), from 0 to 1. It rises by
            itself with the number of clusters.
        ari: adjusted Rand index, 1 for perfect agreement and 0 on average by chance.
        matching: for each cluster that has one, its label.
        ami: adjusted mutual information (I - E I) / ((H(k) + H(y)) / 2 - E I), E over clusters and
            labels of the same sizes at random: 1 for perfect agreement and 0 on average by chance.
        clusters: how many clusters hold data.
        classes: how many labels there are.
        greatest_accuracy: what ``accuracy`` cannot exceed: the share of data in so many of the
            largest clusters as there are labels; 1 unless there are more clusters than labels.
    """

    accuracy: Estimate
    nmi: float
    ari: float
    matching: dict[int, int]
    ami: float
    clusters: int
    classes: int
    greatest_accuracy: float

    def __str__(self) -> str:
        most = ""
        if self.clusters > self.classes:
            most = f" of at most {100 * self.greatest_accuracy:.1f} %"
        return (
            f"clustering accuracy {100 * self.accuracy.mean:.1f} %{most} with {self.clusters} "
            f"clusters for {self.classes} classes, NMI {self.nmi:.3f}, AMI {self.ami:.3f}, "
            f"ARI {self.ari:.3f}"
        )


def clustering(assignments: Tensor, labels: Int[Tensor, " batch"]) -> Clustering:
    """Compare clusters with labels.

    Source: accuracy by the Hungarian method, Xie et al. 2016 (arXiv 1511.06335), equation 10; the
    adjusted Rand index, Hubert & Arabie 1985; adjusted mutual information, Vinh et al. 2010 (JMLR
    11), with the mean of the entropies.

    Args:
        assignments: the cluster of each datum, integers of shape ``(N,)``, or probabilities of
            shape ``(N, clusters)`` of which the greatest counts, as :func:`responsibilities`
            returns.
        labels: integers, shape ``(N,)``; data whose label is -1 are left out, and are not in the
            ``count`` of the accuracy.

    Raises:
        TypeError: if assignments or labels are of the wrong kind.
        ValueError: if their numbers differ.

    Example:
        >>> result = clustering(torch.tensor([2, 2, 0, 0]), torch.tensor([0, 0, 1, 1]))
        >>> result.accuracy.mean
        1.0
    """
    from scipy.optimize import linear_sum_assignment  # scipy: scikit-learn depends on it
    from sklearn import metrics

    owner = "clustering"
    if not isinstance(assignments, Tensor):
        raise TypeError(f"{owner}: assignments must be a tensor, got {describe(assignments)}")
    if not assignments.dim():
        raise ValueError(
            f"{owner}: assignments must have an entry for each datum, got {describe(assignments)}"
        )
    if assignments.is_floating_point():
        if assignments.dim() != 2 or not assignments.isfinite().all():
            raise ValueError(
                f"{owner}: assignments must be integers of shape (N,), or finite probabilities of "
                f"shape (N, clusters), got {describe(assignments)}"
            )
        assignments = assignments.argmax(-1)
    known = known_labels(owner, labels, assignments).cpu()
    check_labels(owner, assignments, labels, name="assignments")
    k, y = assignments.cpu().long()[known], labels.cpu().long()[known]
    clusters, k = k.unique(return_inverse=True)
    classes, y = y.unique(return_inverse=True)
    table = torch.zeros(len(clusters), len(classes), dtype=torch.long)
    table.index_put_((k, y), torch.ones_like(k), accumulate=True)
    rows, columns = linear_sum_assignment(table.numpy(), maximize=True)
    match = torch.full((len(clusters),), -1)
    match[torch.from_numpy(rows)] = torch.from_numpy(columns)
    sizes = table.sum(1).sort(descending=True).values
    matched = {
        int(clusters[row]): int(classes[column]) for row, column in enumerate(match) if column >= 0
    }
    return Clustering(
        Estimate.of(match[k] == y),
        float(metrics.normalized_mutual_info_score(y.numpy(), k.numpy())),
        float(metrics.adjusted_rand_score(y.numpy(), k.numpy())),
        matched,
        ami=float(metrics.adjusted_mutual_info_score(y.numpy(), k.numpy())),
        clusters=len(clusters),
        classes=len(classes),
        greatest_accuracy=int(sizes[: len(classes)].sum()) / len(k),
    )


@torch.no_grad()
def responsibilities(
    pair: ModelAndGuide,
    x: Data,
    *context: Array,
    mask: Array | None = None,
    num_samples: int = 10,
    site: str | None = None,
    seed: int = 0,
) -> Float[Tensor, "batch components"]:
    """Return E_q(z|x) p(k | z), the share of each component of a mixture prior in each datum.

    Source: Jiang et al. 2017 (arXiv 1611.05148), who assign clusters by it.

    Args:
        pair: a pair whose prior is a mixture, such as ``priors.GaussianMixture`` or
            ``priors.VampPrior``.
        x: the data, as in :func:`ppl_vae.evaluation.elbo_terms`.
        context: further arguments of the programs, such as labels, of N entries each.
        mask: boolean, of x's shape, True where x is observed; everything if not given.
        num_samples: draws z ~ q(z | x) per datum.
        site: the latent's name, needed where there are several.
        seed: of the draws; the global random state stays as it was.

    Raises:
        TypeError: if the prior is no mixture.
        ValueError: if x does not suit the pair.
        NotImplementedError: if q or p of the latent depends on another latent.
    """
    owner = "responsibilities"
    check_pair(owner, pair)
    num_samples = positive_int(owner, "num_samples", num_samples)
    results = []
    given = arguments(owner, pair, x, context, mask)
    with evaluating(pair.model, pair.guide), seeded(owner, seed):
        for args, kwargs in data_blocks(given, BLOCK):
            latent = latent_at(owner, run_latents(owner, pair, args, kwargs), site)
            prior: Any = latent.p
            if latent.before_in_guide or latent.before_in_model:
                raise NotImplementedError(
                    f"{owner}: latent {latent.name!r} depends on another latent; in a "
                    f"HierarchicalVAE name the top layer of a top-down guide"
                )
            if not hasattr(prior, "component_distribution"):
                raise TypeError(
                    f"{owner}: the prior must be a mixture, such as priors.GaussianMixture, got "
                    f"{type(prior).__name__}"
                )
            shares: list[Tensor] = []
            for z in latent.q.sample(torch.Size([num_samples])):
                log_prob = prior.component_distribution.log_prob(z.unsqueeze(-2))
                shares.append((prior.mixture_distribution.logits + log_prob).softmax(-1))
            results.append(torch.stack(shares).mean(0))
    return torch.cat(results)


def linear_probe(
    z_train: Float[Tensor, "train latent"],
    y_train: Int[Tensor, " train"],
    z_test: Float[Tensor, "test latent"],
    y_test: Int[Tensor, " test"],
) -> Estimate:
    """Return the test accuracy of logistic regression on standardised latents.

    Args:
        z_train: latents such as ``pair.encode(x)``, shape ``(N, D)``.
        y_train: their labels, shape ``(N,)``; data whose label is -1 are left out, of the test
            data too.
        z_test: latents of other data.
        y_test: their labels.

    Raises:
        ValueError: if latents are not finite, or labels and latents disagree in number.
    """
    from sklearn.linear_model import LogisticRegression

    return _accuracy(
        "linear_probe", LogisticRegression(max_iter=1000), z_train, y_train, z_test, y_test
    )


def nearest_neighbours(
    z_train: Float[Tensor, "train latent"],
    y_train: Int[Tensor, " train"],
    z_test: Float[Tensor, "test latent"],
    y_test: Int[Tensor, " test"],
    *,
    neighbours: int = 10,
) -> Estimate:
    """Return the test accuracy of the vote of the nearest training latents, as they are.

    Distances are Euclidean and in the units of z: a dimension that the model does not use still
    counts, if its posterior mean moves.

    Args:
        z_train: latents such as ``pair.encode(x)``, shape ``(N, D)``.
        y_train: their labels, shape ``(N,)``; data whose label is -1 are left out, of the test
            data too.
        z_test: latents of other data.
        y_test: their labels.
        neighbours: how many vote.

    Raises:
        ValueError: if latents are not finite, labels and latents disagree in number, or there are
            fewer training data than neighbours.
    """
    from sklearn.neighbors import KNeighborsClassifier

    owner = "nearest_neighbours"
    neighbours = positive_int(owner, "neighbours", neighbours)
    classifier = KNeighborsClassifier(neighbours)
    return _accuracy(owner, classifier, z_train, y_train, z_test, y_test, standardise=False)


def accuracy_interval(
    accuracy: int | float | Estimate, n: int, *, level: int | float = 0.95
) -> tuple[float, float]:
    r"""Return Wilson's confidence interval of an accuracy on n data.

    (p + c²/2n ± c √(p (1-p)/n + c²/4n²)) / (1 + c²/n) with c the normal quantile of (1 + level)/2.
    Unlike p ± c standard errors it stays within 0 and 1 and does not vanish at p = 1.

    Source: Wilson 1927; Brown, Cai & DasGupta 2001, section 3.1.1.

    Args:
        accuracy: the share of correct predictions p, from 0 to 1.
        n: number of test data.
        level: of confidence.

    Raises:
        ValueError: if the accuracy is not from 0 to 1, or the level not between them.

    Example:
        >>> low, high = accuracy_interval(0.9, 100)
        >>> round(low, 3), round(high, 3)
        (0.826, 0.945)
    """
    owner = "accuracy_interval"
    n = positive_int(owner, "n", n)
    p = number(
        owner,
        "accuracy",
        accuracy.mean if isinstance(accuracy, Estimate) else accuracy,
        least=0,
        most=1,
        fix="divide percent by 100",
    )
    level = number(owner, "level", level, above=0, below=1, fix="divide percent by 100")
    c = NormalDist().inv_cdf((1 + level) / 2)
    centre = p + c * c / (2 * n)
    half = c * math.sqrt(p * (1 - p) / n + c * c / (4 * n * n))
    # At p = 0 and p = 1 an end is there but for rounding.
    low, high = ((centre + side * half) / (1 + c * c / n) for side in (-1, 1))
    return max(low, 0.0), min(high, 1.0)


def _accuracy(
    owner: str,
    classifier: Any,
    z_train: Tensor,
    y_train: Tensor,
    z_test: Tensor,
    y_test: Tensor,
    *,
    standardise: bool = True,
) -> Estimate:
    """Return the test accuracy of a classifier of scikit-learn."""
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    z_train, y_train = _labelled(owner, "z_train", z_train, z_train, y_train)
    z_test, y_test = _labelled(owner, "z_test", z_test, z_train, y_test)
    neighbours = getattr(classifier, "n_neighbors", 0)
    if neighbours > len(z_train):
        raise ValueError(
            f"{owner}: neighbours must be at most the {len(z_train)} training data, got "
            f"{neighbours}"
        )
    if len(y_train.unique()) < 2:
        raise ValueError(f"{owner}: y_train must hold two different labels or more, got one")
    model = make_pipeline(StandardScaler(), classifier) if standardise else classifier
    model.fit(z_train.numpy(), y_train.numpy())
    return Estimate.of(torch.from_numpy(model.predict(z_test.numpy())) == y_test)


def _labelled(owner: str, name: str, z: Tensor, like: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the latents that have a label, and these, on the CPU.

    Raises an error unless z holds latents of as many dimensions as others, and y labels.
    """
    if not isinstance(z, Tensor):
        raise TypeError(f"{owner}: {name} must be a tensor, got {describe(z)}")
    if z.dim() != 2 or z.shape[1] != like.shape[1] or not z.isfinite().all():
        raise ValueError(
            f"{owner}: {name} must be finite and of shape (N, latent_dim), the same latent_dim "
            f"in training and test, got {describe(z)}"
        )
    known = known_labels(owner, y, z, name=name.replace("z_", "y_")).cpu()
    return z.detach().cpu().double()[known], y.cpu()[known]
