"""Scores of how far each dimension of a code stands for one known factor: MIG, DCI, SAP."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution

from ppl_vae.data import Dataset, Factors
from ppl_vae.errors import describe, integer, positive_int, quoted, seed_of
from ppl_vae.evaluation.code_information import CodeInformation, of_codes, of_posteriors
from ppl_vae.evaluation.code_predictors import Attributes, Predictions, folds_of, predictions
from ppl_vae.evaluation.estimate import Estimate
from ppl_vae.evaluation.inputs import Array, Data, input_blocks, program_inputs, progress_bar
from ppl_vae.evaluation.latents import (
    BLOCK,
    MixtureMarginals,
    marginals,
    no_marginals,
    run_latent,
)
from ppl_vae.evaluation.results import Result
from ppl_vae.module_modes import evaluating
from ppl_vae.process_state import seeded
from ppl_vae.protocols import ModelAndGuide
from ppl_vae.tensors import as_tensor

GROUPS = 50
"""Groups of data of which one is left out at a time, for standard errors."""
INFORMED = 0.01
"""A code with at most so many nats more than with shuffled factors counts as one without any."""


@dataclass(frozen=True, repr=False)
class Disentanglement(Result):
    """Scores of a code of D dimensions for K known factors; each is 1 for a perfect code.

    A score that is undefined is NaN, and ``undefined`` says why: two dimensions are compared in
    MIG, SAP and completeness, two factors in modularity and DCI disentanglement.

    Standard errors are over data, by the jackknife: of ``disentanglement`` and ``completeness``
    over the folds, of the others over 50 groups of data, q(z) and histograms being fixed.

    Args:
        factors: their names.
        mig: mutual information gap: the mean over factors of (I(z_a; v_k) - I(z_b; v_k)) / H(v_k),
            where z_a and z_b say most about v_k. 0 if two codes say as much; NaN for D = 1.
        modularity: the mean over codes of 1 - Σ_l I(z_j; v_l)² / (I(z_j; v_k)² (K - 1)), where the
            code says most about v_k and l are the others. Codes that say at most 0.01 nats more
            than about shuffled factors are left out; NaN if all do, and for K = 1.
        sap: separated attribute predictability: the mean over factors of the difference between the
            best two codes as single predictors of it; NaN for D = 1.
        disentanglement: of DCI: 1 - H(k | j) / log K, the entropy of the importances of code j for
            the factors, averaged with its share of all importances as weight; NaN for K = 1, and if
            no code has any importance, as constant ones.
        completeness: of DCI: 1 - H(j | k) / log D, the entropy of the importances of the codes for
            factor k, averaged over factors, 0 for one that no code is of importance for; NaN for
            D = 1.
        informativeness: of DCI: the accuracy of the predictions, averaged over factors; of data on
            which the classifier was not fitted.
        chance: the accuracy of always predicting the most frequent value.
        information: I(z_j; v_k) in nats, shape ``(D, K)``; 0 where its estimate is negative.
        shuffled_information: the same with the factors shuffled among the data: what so many data
            have by chance.
        entropy: H(v_k) in nats, shape ``(K,)``.
        importances: of code j for factor k, mean over folds, shape ``(D, K)``.
        attributes: what code j alone says about factor k, of SAP, shape ``(D, K)``.
    """

    factors: tuple[str, ...]
    mig: Estimate
    modularity: Estimate
    sap: Estimate
    disentanglement: Estimate
    completeness: Estimate
    informativeness: Estimate
    chance: float
    information: Float[Tensor, "codes factors"]
    shuffled_information: Float[Tensor, "codes factors"]
    entropy: Float[Tensor, " factors"]
    importances: Float[Tensor, "codes factors"]
    attributes: Float[Tensor, "codes factors"]

    @property
    def undefined(self) -> dict[str, str]:
        """The scores that are NaN, by their names, with the reason."""
        one_code = "one dimension, and it compares two" if len(self.information) == 1 else ""
        one_factor = "one factor, and it compares two" if len(self.factors) == 1 else ""
        reasons = {
            "mig": one_code,
            "modularity": one_factor or "no dimension has information on a factor",
            "sap": one_code,
            "disentanglement": one_factor or "no dimension is of importance for a factor",
            "completeness": one_code,
        }
        return {name: why for name, why in reasons.items() if math.isnan(getattr(self, name).mean)}

    def _rows(self) -> dict[str, object]:
        undefined = {name: f"undefined: {why}" for name, why in self.undefined.items()}
        best = ", ".join(
            f"{name} {best:.2f} of {most:.2f} in z[{at}]"
            for name, best, at, most in zip(
                self.factors,
                self.information.amax(0).tolist(),
                self.information.argmax(0).tolist(),
                self.entropy.tolist(),
                strict=True,
            )
        )
        informed = f"{self.informativeness}, by chance {self.chance:.2f}"
        return {
            "mutual information gap": undefined.get("mig", self.mig),
            "modularity": undefined.get("modularity", self.modularity),
            "SAP": undefined.get("sap", self.sap),
            "DCI disentanglement": undefined.get("disentanglement", self.disentanglement),
            "DCI completeness": undefined.get("completeness", self.completeness),
            "DCI informativeness": informed,
            "most informed, in nats": best,
        }


def disentanglement(
    pair: ModelAndGuide,
    x: Data,
    *context: Array,
    mask: Array | None = None,
    factors: Factors | None = None,
    num_samples: int = 1,
    site: str | None = None,
    classifier: Any = None,
    folds: int = 5,
    seed: int = 0,
    progress: bool = False,
) -> Disentanglement:
    r"""Score how far each latent dimension stands for one known factor of the data.

    The mutual information is that of the stochastic code z_j ~ q(z_j | x),

        I(z_j; v_k) = E [ log q(z_j | v_k) - log q(z_j) ],

    where q(z_j) is the mixture of the posteriors of all N data and q(z_j | v_k) that of the data
    with the same value of v_k, N² densities per draw and dimension: no histogram. It is exact, up
    to the draws, where the data are all there are. Where they are a sample, I is too large, and
    the more so the narrower the posteriors: compare ``shuffled_information``.

    DCI and SAP are of the means E_q(z|x)[z], or of the mean of the draws if it is unknown.
    Unobserved labels are set to their most probable value.

    Source: MIG, Chen et al. 2018 (arXiv 1802.04942), section 4.1; modularity, Ridgeway & Mozer 2018
    (arXiv 1802.05312); DCI, Eastwood & Williams 2018 (ICLR); SAP, Kumar et al. 2018 (arXiv
    1711.00848), section 3, but for the scale of categorical factors, whose balanced accuracy a
    counts as (a - c) / (1 - c), 0 or more, with the accuracy c of chance.

    Args:
        pair: any model/guide pair with a continuous latent whose posterior depends on x alone.
        x, context, mask: the data, as in :func:`ppl_vae.evaluation.elbo_terms`.
        factors: of the data; by default those of a ``Dataset``, such as
            :func:`ppl_vae.data.sprites` makes.
        num_samples: draws z ~ q(z | x) per datum.
        site: the latent's name, required if there are several.
        classifier: of scikit-learn, with ``feature_importances_`` or ``coef_``, unfitted: predicts
            each factor for DCI. By default 20 trees with leaves of 5 data or more; their
            importances are those of all dimensions at every split.
        folds: of the data; predictions for one are of classifiers fitted on the others.
        seed: of draws, folds and trees; the global random state is unchanged.
        progress: show a progress bar.

    Raises:
        ValueError: if there are no factors, one has a single value, or x is incompatible with the
            pair.
        NotImplementedError: if q depends on another latent, or its marginals have no closed form,
            as those of a flow; then use :func:`disentanglement_of_codes` on draws.

    Example:
        >>> from ppl_vae import VAE, data, likelihoods, nets, posteriors, priors
        >>> images = data.sprites(size=16, scales=2, orientations=1, positions=4)
        >>> vae = VAE(
        ...     prior=priors.StandardNormal(5),
        ...     posterior=posteriors.DiagonalNormal(nets.MLP(256, 10)),
        ...     likelihood=likelihoods.Bernoulli(nets.MLP(5, 256)),
        ... )
        >>> scores = disentanglement(vae, images)  # doctest: +SKIP
    """
    owner = "disentanglement"
    num_samples = positive_int(owner, "num_samples", num_samples)
    folds = integer(owner, "folds", folds, 2)
    seed = seed_of(owner, seed)
    inputs = program_inputs(owner, pair, x, context, mask)
    if isinstance(x, Dataset) and x.factors is not None:
        if factors is not None:
            raise TypeError(f"{owner}: factors must not be given with {x!r}, which has its own")
        factors = x.factors
    known = _checked(owner, factors, len(inputs), folds)
    bar = progress_bar(owner, "disentanglement", len(inputs) * num_samples, progress)
    q: list[Distribution | MixtureMarginals] = []
    draws, means = [], []
    with bar, torch.no_grad(), evaluating(pair.model, pair.guide), seeded(owner, seed):
        for args, kwargs in input_blocks(inputs, BLOCK):
            latent = run_latent(owner, pair, args, kwargs, site)
            if latent.before_in_guide:
                latent.check_independent(owner)
            if why := no_marginals(latent.q, "posterior"):
                fix = "use disentanglement_of_codes on pair.encode(x) or on draws"
                raise NotImplementedError(f"{owner}: {why}; {fix}")
            of_block = marginals(latent.q)
            assert of_block is not None
            q.append(of_block)
            draws.append(latent.q.sample(torch.Size([num_samples])))
            try:
                means.append(latent.q.mean)
            except NotImplementedError:
                means.append(draws[-1].mean(0))
        information = of_posteriors(owner, q, torch.cat(draws, 1), known, seed, bar)
    codes = torch.cat(means)
    return _scores(owner, codes, known, information, classifier, folds, seed)


@torch.no_grad()
def disentanglement_of_codes(
    codes: Array,
    factors: Factors,
    *,
    bins: int | None = None,
    classifier: Any = None,
    folds: int = 5,
    seed: int = 0,
) -> Disentanglement:
    """Score how far each dimension of a deterministic code stands for one known factor.

    The scores are those of :func:`disentanglement`, but for the mutual information, which is that
    of a histogram of each code with equal numbers of data per bin: at most log ``bins`` nats. Its
    bias of about (bins - 1)(values - 1) / (2 N) nats is corrected to first order; the rest is large
    where the cells hold less than a few data each. A code of at most ``bins`` distinct values is
    its own histogram.

    Args:
        codes: shape ``(N, D)``, such as ``pair.encode(x)``.
        factors: of the same N data.
        bins: per code; by default the largest number of values of a factor, at least 20.
        classifier, folds, seed: as in :func:`disentanglement`.

    Raises:
        ValueError: if codes are not finite, their number is not that of the factors, or a factor
            has a single value.

    Example:
        >>> from ppl_vae.data import Factors
        >>> values = torch.cartesian_prod(torch.arange(3), torch.arange(4)).repeat(20, 1)
        >>> known = Factors(values, ("shape", "scale"))
        >>> round(disentanglement_of_codes(values, known).mig.mean, 6)
        1.0
    """
    owner = "disentanglement_of_codes"
    folds = integer(owner, "folds", folds, 2)
    seed = seed_of(owner, seed)
    if bins is not None:
        bins = integer(owner, "bins", bins, 2)
    z = as_tensor("codes", codes) if isinstance(codes, np.ndarray) else codes
    expected = "codes must be finite numbers of shape (N, D)"
    if not isinstance(z, Tensor) or z.is_complex() or z.layout != torch.strided:
        raise TypeError(f"{owner}: {expected}, got {describe(z)}")
    if z.dim() != 2 or not z.numel() or not z.isfinite().all():
        raise ValueError(f"{owner}: {expected}, got {describe(z)}")
    known = _checked(owner, factors, len(z), folds)
    information = of_codes(z, known, bins, seed)
    return _scores(owner, z, known, information, classifier, folds, seed)


def mutual_information_gap(information: Tensor, entropy: Tensor) -> Tensor:
    """Return the gap between the two codes that say most about a factor, mean over factors."""
    return (_gaps(information) / entropy).mean()


def modularity_of(information: Tensor, informed: Tensor) -> Tensor:
    """Return 1 less the information on other factors than the best, mean over informed codes."""
    if information.shape[1] == 1:
        return information.new_tensor(math.nan)
    squared = information[informed].square()
    largest = squared.amax(1)
    others = squared.sum(1) - largest
    return (1 - others / (largest * (information.shape[1] - 1))).mean()


def disentanglement_and_completeness(importances: Tensor) -> tuple[Tensor, Tensor]:
    """Return the D and C of DCI for importances of codes for factors, ``(D, K)``.

    A factor that no code is of importance for has completeness 0. D is NaN for one factor or
    without any importance, C for one code.
    """
    of_code, of_factor = importances.sum(1), importances.sum(0)
    by_code = torch.where(of_code > 0, 1 - _entropy(importances), 0.0)
    by_factor = torch.where(of_factor > 0, 1 - _entropy(importances.T), 0.0)
    undefined = importances.new_tensor(math.nan)
    one_code, one_factor = (size == 1 for size in importances.shape)
    return (
        undefined if one_factor else (of_code / of_code.sum() * by_code).sum(),
        undefined if one_code else by_factor.mean(),
    )


def _entropy(weights: Tensor) -> Tensor:
    """Return the entropy of each row as a fraction of the largest possible."""
    p = weights / weights.sum(1, keepdim=True)
    entropy = -(p * p.log()).nan_to_num().sum(1)
    return entropy / math.log(weights.shape[1]) if weights.shape[1] > 1 else entropy


def _gaps(scores: Tensor) -> Tensor:
    """Return the difference between the largest two of each column, NaN where there is one."""
    if len(scores) == 1:
        return torch.full_like(scores[0], math.nan)
    first, second = scores.topk(2, 0).values
    return first - second


def _scores(
    owner: str,
    codes: Tensor,
    factors: Factors,
    information: CodeInformation,
    classifier: Any,
    folds: int,
    seed: int,
) -> Disentanglement:
    predicted = predictions(owner, codes, factors, classifier, folds, seed)
    attributes = Attributes.of(codes, factors, folds, seed)
    everything = torch.ones(len(factors), dtype=torch.bool)
    found = information.of(everything)
    informed = found.amax(1) - information.shuffled.amax(1).clamp(min=0) > INFORMED
    groups = folds_of(len(factors), min(GROUPS, len(factors)), seed)

    def over_groups(score: Callable[[Tensor], Tensor]) -> Estimate:
        without = [score(groups != group) for group in range(int(groups.max()) + 1)]
        return _jackknife(score(everything), torch.stack(without), len(factors))

    dis, comp = _of_folds(predicted, len(factors))
    most = [value.bincount().max().item() / len(value) for value in factors.values.cpu().T]
    return Disentanglement(
        factors=factors.names,
        mig=over_groups(
            lambda kept: mutual_information_gap(information.of(kept), information.entropy)
        ),
        modularity=over_groups(lambda kept: modularity_of(information.of(kept), informed)),
        sap=over_groups(lambda kept: _gaps(attributes.scores(kept)).mean()),
        disentanglement=dis,
        completeness=comp,
        informativeness=Estimate.of(predicted.correct.double().mean(1)),
        chance=sum(most) / len(most),
        information=found,
        shuffled_information=information.shuffled,
        entropy=information.entropy,
        importances=predicted.importances.mean(0),
        attributes=attributes.scores(everything),
    )


def _of_folds(predicted: Predictions, count: int) -> tuple[Estimate, Estimate]:
    found = zip(*map(disentanglement_and_completeness, predicted.importances), strict=True)
    dis, comp = (torch.stack(values) for values in found)
    return _jackknife(dis.mean(), dis, count), _jackknife(comp.mean(), comp, count)


def _jackknife(whole: Tensor, without: Tensor, count: int) -> Estimate:
    """Return a score with its standard error from those without one of the groups."""
    groups = len(without)
    variance = (groups - 1) / groups * (without - without.mean()).square().sum()
    return Estimate(whole.item(), variance.sqrt().item(), count)


def _checked(owner: str, factors: object, count: int, folds: int) -> Factors:
    """Return the factors of so many data; raise an error unless each of them varies."""
    if not isinstance(factors, Factors):
        fix = "give data.Factors(values, names), or a Dataset with factors"
        raise TypeError(f"{owner}: factors must be a Factors, got {describe(factors)}; {fix}")
    if len(factors) != count:
        raise ValueError(f"{owner}: factors must be of the {count} data, got {len(factors)}")
    if count < 2 * folds:
        raise ValueError(
            f"{owner}: there must be at least {2 * folds} data for folds={folds}, got {count}"
        )
    low, high = factors.values.aminmax(dim=0)
    constant = [n for n, same in zip(factors.names, (low == high).tolist(), strict=True) if same]
    if constant:
        raise ValueError(
            f"{owner}: factors must have at least two values in the data, and {quoted(constant)} "
            f"have one; leave them out by factors.only(names)"
        )
    return factors
