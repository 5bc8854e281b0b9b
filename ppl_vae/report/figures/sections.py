"""The sections of the page, and the figures in each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from ppl_vae.report.evaluated_pair import EvaluatedPair
from ppl_vae.report.figures import comparisons, pair_images, pair_plots, section_plots
from ppl_vae.report.figures.picture import Picture, Section, png


@dataclass(frozen=True)
class SectionKind:
    """A section with one figure per pair, or one for each latent (``per_site``) of each pair.

    Its ``caption`` says how to read them, and ``alt`` their content in words; ``verdict`` names the
    verdict of a pair that is above its figure.
    """

    title: str
    caption: str
    alt: str
    draw: Callable[..., Axes]
    per_site: bool = False
    verdict: str = ""


SECTION_KINDS = (
    SectionKind(
        "KL per dimension",
        "Active units are those with Var_x(E_q[z]) > 0.01.",
        "bars of the KL of each latent dimension, with active units marked",
        pair_plots.kl_per_dimension,
        per_site=True,
    ),
    SectionKind(
        "Samples from the model",
        "E[x | z] for z drawn from the prior, without the pixel noise of a draw of x.",
        "a sheet of images drawn from the model",
        pair_images.samples,
    ),
    SectionKind(
        "Reconstructions",
        "Data in odd rows, and below each row E[x | z] for one draw of q(z | x).",
        "data with their reconstructions below",
        pair_images.reconstructions,
    ),
    SectionKind(
        "Latent space",
        "One draw of q(z | x) per datum, over the prior's density in two dimensions; in more, "
        "projected on principal components, over draws of the prior.",
        "a scatter plot of latents over the prior",
        pair_plots.latents,
        per_site=True,
    ),
    SectionKind(
        "Latent manifold",
        "E[x | z] at equal steps of the prior's mass.",
        "images decoded from a grid in the latent plane",
        pair_images.manifold,
    ),
    SectionKind(
        "Latent traversals",
        "One row per dimension, by descending KL: z_d runs over ± 2.5 standard deviations of all "
        "data's draws, and the other dimensions are the first datum's posterior mean. Latents "
        "below the one that varies follow it.",
        "a row of images for each latent dimension, as it varies",
        pair_images.traversals,
        per_site=True,
    ),
    SectionKind(
        "Interpolation",
        "Linear, between the posterior means of two data; programs with a label are given that of "
        "the left datum.",
        "rows of images that lead from one datum to another",
        pair_images.interpolation,
    ),
    SectionKind(
        "Components and classes",
        "E[x | z] for draws from each class, or from the mixture components with the largest "
        "shares of the data, averages of p(k | z), which are written beside them.",
        "a row of images for each mixture component or class",
        pair_images.rows,
    ),
    SectionKind(
        "Posterior intervals",
        "95 % intervals of q(z | x) of three data, over that of the prior if it is normal; "
        "dimensions by descending KL.",
        "intervals of the posterior in each latent dimension",
        pair_plots.intervals,
        per_site=True,
    ),
    SectionKind(
        "Reliability of q(y | x)",
        "The accuracy of the most probable label against its probability.",
        "a reliability diagram",
        pair_plots.reliability,
    ),
    SectionKind(
        "Programs",
        "Graphs of model and guide: grey sites are observed, boxes are plates.",
        "the graphs of the model and of the guide",
        pair_plots.graphs,
    ),
)

FURTHER_KINDS = {
    "calibration": (
        SectionKind(
            "Calibration of q(z | x)",
            "Simulation-based calibration, on data that the model draws with their z. The rank of "
            "the true z among draws of q(z | x) is uniform if q(z | x) is the posterior: in each "
            "entry of z, in log p(x, z), and in the distance to a random point (TARP). Exact draws "
            "leave the grey band in at most one of twenty runs, all curves together. First above "
            "and then below 0: q is too narrow; first below and then above: too wide; above 0 "
            "throughout: draws are too large; below: too small.",
            "ECDFs of ranks, less that of uniform ranks, in their band",
            section_plots.ranks,
            verdict="calibration",
        ),
        SectionKind(
            "Expected coverage of q(z | x)",
            "The share of true z inside regions that hold a given share of the draws of q(z | x), "
            "on the same simulated data. Below the diagonal, regions are too small or in the wrong "
            "place.",
            "expected coverage of regions of q(z | x) against their credibility",
            section_plots.expected_coverage,
        ),
    ),
    "predictive checks": (
        SectionKind(
            "Predictive checks",
            "Statistics of the data (dots) beside those of as large data sets that the model "
            "draws, z from the prior; boxes have half of these, whiskers 95 %. Red dots are "
            "outside; one statistic in twenty is so by chance, and the verdict allows for it.",
            "statistics of the data against those of replicated data",
            section_plots.predictive_checks,
            verdict="predictive checks",
        ),
    ),
    "disentanglement": (
        SectionKind(
            "Disentanglement",
            "The information that the two dimensions of z with most of it have on each known "
            "factor, as a share of the factor's entropy; the mutual information gap is the mean "
            "distance between the two. Where shuffled factors have as much, the data are too few.",
            "the information of the best two dimensions on each factor",
            section_plots.factor_information,
            per_site=True,
            verdict="disentanglement",
        ),
    ),
}
"""Section that is left out unless asked for -> what is drawn in it."""


def sections(
    pairs: list[EvaluatedPair],
    history: Mapping[str, ArrayLike] | None,
    further: Sequence[str] = (),
) -> Iterator[Section]:
    """Draw everything; a picture that does not apply has the reason instead.

    Args:
        pairs: to be drawn.
        history: name -> training curve.
        further: names of further sections.
    """
    yield Section(
        "Bounds side by side",
        "Bars are standard errors over the data. As all pairs have the same data, differences "
        "between pairs are more certain than each value.",
        comparisons.bounds(pairs),
    )
    yield Section(
        "Terms of the ELBO",
        "NELBO = reconstruction + KL. KL = mutual information + total correlation + dimension-wise "
        "KL, or mutual information + marginal KL if these terms are unknown. They are estimated "
        "from other draws than the KL, and add up to it but for the noise of both.",
        comparisons.elbo_terms(pairs),
    )
    if history:
        caption = "Training curves."
        yield Section("Training", caption, comparisons.training(pairs, history))
    asked_for = (kind for name in further for kind in FURTHER_KINDS[name])
    for kind in (*SECTION_KINDS[:-1], *asked_for, *SECTION_KINDS[-1:]):  # the programs last
        pictures = []
        for pair in pairs:
            sites = pair.latents.sites if kind.per_site else [None]
            for site in sites:
                title = pair.name if len(sites) == 1 else f"{pair.name}, {site}"
                of = f", {site}" if len(sites) > 1 else ""
                verdict = pair.verdicts.get(f"{kind.verdict}{of}", "")
                pictures.append(_picture(kind, pair, site, title, verdict))
        yield Section(kind.title, kind.caption, tuple(pictures))


def _picture(
    kind: SectionKind, pair: EvaluatedPair, site: str | None, title: str, verdict: str
) -> Picture:
    try:
        ax = kind.draw(pair) if site is None else kind.draw(pair, site)
    except NotImplementedError as error:
        return Picture(title, "", reason=str(error))
    alt = f"{title}: {kind.alt}"
    if not verdict:
        return Picture(title, alt, png(ax))
    return Picture(
        title, f"{alt}: {verdict}", png(ax), verdict=f"{verdict[0].upper()}{verdict[1:]}."
    )
