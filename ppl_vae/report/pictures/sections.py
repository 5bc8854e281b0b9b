"""The sections of the page, and what is drawn in each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from ppl_vae.report.pictures import diagrams, images, overview
from ppl_vae.report.pictures.parts import Drawn, Picture, Section, png


@dataclass(frozen=True)
class Kind:
    """A section's pictures, one per pair, or one per pair and latent."""

    title: str
    caption: str
    alt: str
    draw: Callable[..., Figure]
    per_site: bool = False


KINDS = (
    Kind(
        "KL per dimension",
        "Active units are those with Var_x(E_q[z]) above 0.01.",
        "bars of the KL of each latent dimension, active units marked",
        diagrams.kl_per_dimension,
        per_site=True,
    ),
    Kind(
        "Samples from the model",
        "E[x | z] at z drawn from the prior; a draw of x itself would show its pixel noise.",
        "a sheet of images drawn from the model",
        images.samples,
    ),
    Kind(
        "Reconstructions",
        "Data in odd rows, and E[x | z] at one draw of q(z | x) below each.",
        "data with their reconstructions below",
        images.reconstructions,
    ),
    Kind(
        "Latent space",
        "One draw of q(z | x) for each datum, over the density of the prior in two dimensions, "
        "over draws of it in principal components in more.",
        "a scatter plot of latents, over the prior",
        diagrams.latents,
        per_site=True,
    ),
    Kind(
        "Latent manifold",
        "E[x | z] at equal steps of the prior's mass.",
        "images decoded from a grid of the latent plane",
        images.manifold,
    ),
    Kind(
        "Latent traversals",
        "One row per dimension, by descending KL: z_d goes from 2.5 standard deviations below to "
        "2.5 above the mean of all data's draws, and the others stay at the first datum's mean. "
        "Of several layers, those below the one that is moved follow it.",
        "a row of images for each latent dimension, as it is moved",
        images.traversals,
        per_site=True,
    ),
    Kind(
        "Interpolation",
        "Between the posterior means of two data, in a straight line. Programs that see a label "
        "are given that of the left.",
        "rows of images that lead from one datum to another",
        images.interpolation,
    ),
    Kind(
        "Components and classes",
        "E[x | z] at draws from each class, or from each of the mixture's components with the "
        "greatest shares in the data, which stand beside them: averages of p(k | z).",
        "a row of images for each mixture component or class",
        images.rows,
    ),
    Kind(
        "Posterior intervals",
        "95 % of q(z | x) of three data, over the same of the prior where it is normal; dimensions "
        "by descending KL.",
        "intervals of the posterior in each latent dimension",
        diagrams.intervals,
        per_site=True,
    ),
    Kind(
        "Reliability of q(y | x)",
        "How often the likeliest label is right, against how likely it is said to be.",
        "a reliability diagram",
        diagrams.reliability,
    ),
    Kind(
        "The programs",
        "Model and guide as graphs: grey is observed, boxes are plates.",
        "the graphs of the model and of the guide",
        diagrams.graphs,
    ),
)


def sections(
    drawn: list[Drawn], history: Mapping[str, ArrayLike] | None, step: Callable[[str], None]
) -> Iterator[Section]:
    """Draw everything; what does not apply has its reason in the place of a picture."""
    step("overview")
    yield Section(
        "Bounds side by side",
        "Bars are standard errors over data, which the pairs have in common: differences between "
        "pairs are known better than each value.",
        overview.comparisons(drawn),
    )
    yield Section(
        "What the ELBO is made of",
        "NELBO = reconstruction + KL, and KL = mutual information + total correlation + "
        "dimension-wise KL where the terms are known, mutual information + marginal KL where not. "
        "The split has draws of its own, and its sum differs from the KL beside it by their noise.",
        overview.stacks(drawn),
    )
    if history:
        yield Section("Training", "As given.", overview.training(drawn, history))
    for kind in KINDS:
        pictures = []
        for of in drawn:
            step(f"{kind.title}: {of.subject.name}")
            sites = of.runs.sites if kind.per_site else [None]
            for site in sites:
                title = of.subject.name if len(sites) == 1 else f"{of.subject.name}, {site}"
                pictures.append(_picture(kind, of, site, title))
        yield Section(kind.title, kind.caption, tuple(pictures))


def _picture(kind: Kind, of: Drawn, site: str | None, title: str) -> Picture:
    try:
        figure = kind.draw(of) if site is None else kind.draw(of, site)
    except NotImplementedError as error:
        return Picture(title, "", reason=str(error))
    return Picture(title, f"{title}: {kind.alt}", png(figure))
