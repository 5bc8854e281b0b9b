"""Agreement of latents with labels that the pair was not given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ppl_vae.errors import describe, positive_int
from ppl_vae.evaluation.estimate import Estimate
from ppl_vae.evaluation.inputs import Array, Data, input_blocks, program_inputs
from ppl_vae.evaluation.labels import check_labels, known_labels
from ppl_vae.evaluation.latents import BLOCK, run_latent
from ppl_vae.evaluation.results import Result
from ppl_vae.module_modes import evaluating
from ppl_vae.process_state import seeded
from ppl_vae.protocols import ModelAndGuide


@dataclass(frozen=True, repr=False)
class Clustering(Result):
    """The agreement of clusters with labels.

    Args:
        accuracy: fraction of data whose cluster is matched to their label, under the best
            one-to-one matching of clusters and labels; data of unmatched clusters count as wrong.
        nmi: normalised mutual information I(k; y) / ((H(k) + H(y)) / 2), from 0 to 1, which tends
            to rise with the number of clusters.
        ari: adjusted Rand index, 1 for perfect agreement and 0 on average by chance.
        matching: the label of each matched cluster.
        ami: adjusted mutual information (I - E I) / ((H(k) + H(y)) / 2 - E I), E over random
            permutations: 1 for perfect agreement and 0 on average by chance.
        clusters: the number of clusters that hold data.
        classes: the number of labels.
        greatest_accuracy: the upper bound of ``accuracy``: the fraction of data in as many of the
            largest clusters as there are labels, 1 unless there are more clusters than labels.
    """

    accuracy: Estimate
    nmi: float
    ari: float
    matching: dict[int, int]
    ami: float
    clusters: int
    classes: int
    greatest_accuracy: float

    def _rows(self) -> dict[str, object]:
        accuracy = f"{100 * self.accuracy.mean:.1f} %"
        if self.clusters > self.classes:
            accuracy += f" of at most {100 * self.greatest_accuracy:.1f} %"
        numbers = f"{self.clusters} clusters for {self.classes} classes"
        return {
            "clustering accuracy": f"{accuracy} with {numbers}",
            "NMI": f"{self.nmi:.3f}",
            "AMI": f"{self.ami:.3f}",
            "ARI": f"{self.ari:.3f}",
        }

    def __str__(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in self._rows().items())


def clustering(assignments: Tensor, labels: Int[Tensor, " batch"]) -> Clustering:
    """Compare clusters with labels.

    Source: accuracy by the Hungarian method, Xie et al. 2016 (arXiv 1511.06335), equation 10; the
    adjusted Rand index, Hubert & Arabie 1985; adjusted mutual information, Vinh et al. 2010 (JMLR
    11), with the mean of the entropies.

    Args:
        assignments: the cluster of each datum, integers of shape ``(N,)``, or probabilities of
            shape ``(N, clusters)``, such as :func:`responsibilities`, whose argmax is taken.
        labels: integers, shape ``(N,)``; data whose label is -1 are left out, and are not in the
            ``count`` of the accuracy.

    Raises:
        TypeError: if assignments or labels are of the wrong type.
        ValueError: if their numbers differ.

    Example:
        >>> result = clustering(torch.tensor([2, 2, 0, 0]), torch.tensor([0, 0, 1, 1]))
        >>> result.accuracy.mean
        1.0
    """
    from scipy.optimize import linear_sum_assignment  # a dependency of scikit-learn
    from sklearn import metrics

    owner = "clustering"
    expected = "assignments must be a tensor, integers (N,) or finite probabilities (N, clusters)"
    if not isinstance(assignments, Tensor):
        raise TypeError(f"{owner}: {expected}, got {describe(assignments)}")
    rank, soft = assignments.dim(), assignments.is_floating_point()
    if not rank or (soft and not (rank == 2 and assignments.isfinite().all())):
        raise ValueError(f"{owner}: {expected}, got {describe(assignments)}")
    if soft:
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
    both = y.numpy(), k.numpy()
    return Clustering(
        Estimate.of(match[k] == y),
        float(metrics.normalized_mutual_info_score(*both)),
        float(metrics.adjusted_rand_score(*both)),
        matched,
        ami=float(metrics.adjusted_mutual_info_score(*both)),
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
    """Return E_q(z|x) p(k | z), the responsibility of each component of a mixture prior.

    Source: Jiang et al. 2017 (arXiv 1611.05148), who use it as cluster assignment.

    Args:
        pair: a pair whose prior is a mixture, such as ``priors.GaussianMixture`` or
            ``priors.VampPrior``.
        x, context, mask: the data, as in :func:`ppl_vae.evaluation.elbo_terms`.
        num_samples: draws z ~ q(z | x) per datum.
        site: the latent's name, required if there are several.
        seed: of the draws; the global random state is unchanged.

    Raises:
        TypeError: if the prior is not a mixture.
        ValueError: if x is incompatible with the pair.
        NotImplementedError: if q or p of the latent depends on another latent.
    """
    owner = "responsibilities"
    num_samples = positive_int(owner, "num_samples", num_samples)
    results = []
    inputs = program_inputs(owner, pair, x, context, mask)
    with evaluating(pair.model, pair.guide), seeded(owner, seed):
        for args, kwargs in input_blocks(inputs, BLOCK):
            latent = run_latent(owner, pair, args, kwargs, site)
            prior: Any = latent.p
            latent.check_independent(owner)
            if not hasattr(prior, "component_distribution"):
                raise TypeError(
                    f"{owner}: the prior must be a mixture, such as priors.GaussianMixture, got "
                    f"{type(prior).__name__}"
                )
            of_draws: list[Tensor] = []
            for z in latent.q.sample(torch.Size([num_samples])):
                log_prob = prior.component_distribution.log_prob(z.unsqueeze(-2))
                of_draws.append((prior.mixture_distribution.logits + log_prob).softmax(-1))
            results.append(torch.stack(of_draws).mean(0))
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
        y_train: their labels, shape ``(N,)``; data whose label is -1, also of the test set, are
            left out.
        z_test, y_test: the same of other data.

    Raises:
        ValueError: if latents are not finite, or labels and latents differ in number.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    return _test_accuracy("linear_probe", classifier, z_train, y_train, z_test, y_test)


def nearest_neighbours(
    z_train: Float[Tensor, "train latent"],
    y_train: Int[Tensor, " train"],
    z_test: Float[Tensor, "test latent"],
    y_test: Int[Tensor, " test"],
    *,
    neighbours: int = 10,
) -> Estimate:
    """Return the test accuracy of a k-nearest-neighbour vote on latents.

    Distances are Euclidean on unscaled latents, in which inactive dimensions count as well.

    Args:
        z_train, y_train, z_test, y_test: as in :func:`linear_probe`.
        neighbours: the number of neighbours.

    Raises:
        ValueError: if latents are not finite, labels and latents differ in number, or there are
            fewer training data than neighbours.
    """
    from sklearn.neighbors import KNeighborsClassifier

    owner = "nearest_neighbours"
    neighbours = positive_int(owner, "neighbours", neighbours)
    classifier = KNeighborsClassifier(neighbours)
    return _test_accuracy(owner, classifier, z_train, y_train, z_test, y_test)


def _test_accuracy(
    owner: str, classifier: Any, z_train: Tensor, y_train: Tensor, z_test: Tensor, y_test: Tensor
) -> Estimate:
    """Return the test accuracy of a scikit-learn classifier."""
    z_train, y_train = _labelled(owner, "z_train", z_train, z_train, y_train)
    z_test, y_test = _labelled(owner, "z_test", z_test, z_train, y_test)
    neighbours = getattr(classifier, "n_neighbors", 0)
    if neighbours > len(z_train):
        raise ValueError(
            f"{owner}: neighbours must be at most the {len(z_train)} training data, got "
            f"{neighbours}"
        )
    if len(y_train.unique()) < 2:
        raise ValueError(f"{owner}: y_train must have at least two distinct labels, got one")
    classifier.fit(z_train.numpy(), y_train.numpy())
    return Estimate.of(torch.from_numpy(classifier.predict(z_test.numpy())) == y_test)


def _labelled(owner: str, name: str, z: Tensor, like: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the labelled latents and their labels on the CPU, checked against other latents."""
    if not isinstance(z, Tensor):
        raise TypeError(f"{owner}: {name} must be a tensor, got {describe(z)}")
    if z.dim() != 2 or z.shape[1] != like.shape[1] or not z.isfinite().all():
        raise ValueError(
            f"{owner}: {name} must be finite and of shape (N, latent_dim), the same latent_dim "
            f"in training and test, got {describe(z)}"
        )
    known = known_labels(owner, y, z, name=name.replace("z_", "y_")).cpu()
    return z.detach().cpu().double()[known], y.cpu()[known]
