"""The sections of the page, and the figures in each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from ppl_vae.report.evaluated_pair import EvaluatedPair
from ppl_vae.report.figures import comparisons, pair_images, pair_plots
from ppl_vae.report.figures.picture import Picture, Section, png


@dataclass(frozen=True)
class SectionKind:
    """A section with one figure per pair, or one for each latent (``per_site``) of each pair.

    Its ``caption`` says how to read them, and ``alt`` their content in words.
    """

    title: str
    caption: str
    alt: str
    draw: Callable[..., Axes]
    per_site: bool = False


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


def sections(
    pairs: list[EvaluatedPair], history: Mapping[str, ArrayLike] | None
) -> Iterator[Section]:
    """Draw everything; a picture that does not apply has the reason instead."""
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
    for kind in SECTION_KINDS:
        pictures = []
        for pair in pairs:
            sites = pair.latents.sites if kind.per_site else [None]
            for site in sites:
                title = pair.name if len(sites) == 1 else f"{pair.name}, {site}"
                pictures.append(_picture(kind, pair, site, title))
        yield Section(kind.title, kind.caption, tuple(pictures))


def _picture(kind: SectionKind, pair: EvaluatedPair, site: str | None, title: str) -> Picture:
    try:
        ax = kind.draw(pair) if site is None else kind.draw(pair, site)
    except NotImplementedError as error:
        return Picture(title, "", reason=str(error))
    return Picture(title, f"{title}: {kind.alt}", png(ax))
