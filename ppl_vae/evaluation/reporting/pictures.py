"""The pictures of the page."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from torch import Tensor
from torch.distributions import Normal

from ppl_vae import plots
from ppl_vae.evaluation.graph import relations
from ppl_vae.evaluation.latents import factorises, marginals
from ppl_vae.evaluation.reporting.numbers import Measured
from ppl_vae.evaluation.reporting.runs import Runs
from ppl_vae.evaluation.reporting.subject import Subject

PER_INCH = 130
COLUMNS = 10
ROWS = 10
STEPS = 9
GRID = 15


@dataclass(frozen=True)
class Picture:
    """One picture, or why there is none.

    Args:
        title: what it is of: a pair, or all of them.
        alt: what it shows, in words.
        png: the bytes; empty where there is none.
        reason: why there is none.
    """

    title: str
    alt: str
    png: bytes = b""
    reason: str = ""


@dataclass(frozen=True)
class Section:
    """Pictures of the same kind.

    Args:
        title: of the section.
        caption: how to read it.
        pictures: one per pair and latent, or one of all pairs.
    """

    title: str
    caption: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True, eq=False)
class Drawn:
    """A pair with all that is known about it."""

    subject: Subject
    runs: Runs
    measured: Measured

    def images(self, x: Tensor, leading: int = 1) -> Any:
        """Return x as images on the CPU, with the first dimension split in rows if asked to."""
        shape = self.subject.data.image_shape
        if shape is None:
            raise NotImplementedError(
                f"the data are no images, of shape {self.subject.data.event_shape} each; if they "
                f"are, give image_shape="
            )
        return x.detach().cpu().reshape(*x.shape[:leading], *shape).numpy()

    def image_width(self) -> float:
        """Return width / height of an image, 1 where it is none."""
        shape = self.subject.data.image_shape
        return 1.0 if shape is None else shape[-1] / shape[-2]


def kl_per_dimension(of: Drawn, site: str) -> Figure:
    """Draw the KL per dimension of a latent."""
    units = of.measured.units[site]
    if units.kl_missing is not None:
        raise NotImplementedError(units.kl_missing)
    figure, ax = _figure(6, 3.2)
    plots.kl_per_dimension(units.kl.cpu(), units.active.cpu(), ax=ax)
    return figure


def intervals(of: Drawn, site: str) -> Figure:
    """Draw the posterior intervals of three data."""
    latent, units = of.runs.first[site], of.measured.units[site]
    q, p = marginals(latent.q), marginals(latent.p)
    if not isinstance(q, Normal):
        raise NotImplementedError("the posterior has no normal marginals")
    order = units.order()[:20]
    some = min(3, len(q.loc))
    loc, scale = (t[:some, order.to(t.device)].cpu() for t in (q.loc, q.scale))
    prior = None
    if isinstance(p, Normal) and of.runs.prior_is_shared(site):
        at = order.to(p.loc.device)
        prior = p.loc[0, at].cpu(), p.scale[0, at].cpu()
    figure, ax = _figure(7, 3.4)
    names = [f"$z_{{{int(d) + 1}}}$" for d in order]
    plots.intervals(
        loc,
        scale,
        prior=prior,
        names=names,
        data_names=[f"datum {i + 1}" for i in range(some)],
        ax=ax,
    )
    return figure


def latents(of: Drawn, site: str) -> Figure:
    """Scatter one draw of z for each datum, by label."""
    z = of.runs.draws[site]
    labels = of.subject.labels
    figure, ax = _figure(6, 4.6)
    density = draws = None
    if z.shape[1] == 2 and of.runs.prior_is_shared(site):
        density = _density(of.runs, site, z)
    else:
        draws = of.runs.generate(min(len(z), 1000))[1][site].cpu()
    plots.latents(
        z.cpu(),
        None if labels is None else labels.numpy(),
        prior_draws=draws,
        prior_density=density,
        ax=ax,
    )
    return figure


def samples(of: Drawn) -> Figure:
    """Draw from the model."""
    x = of.images(of.runs.generate(6 * COLUMNS)[0])
    figure, ax = _figure(5, 3 / of.image_width())
    plots.images(x, columns=COLUMNS, ax=ax)
    return figure


def reconstructions(of: Drawn) -> Figure:
    """Draw data over their reconstructions."""
    n = min(3 * COLUMNS, len(of.subject.x))
    columns = min(n, COLUMNS)
    x = of.images(of.subject.x[:n])
    chosen = torch.arange(n)
    again = of.images(of.runs.decode({s: z[:n] for s, z in of.runs.draws.items()}, chosen))
    figure, ax = _figure(5, 5 * 2 * (n // columns) / columns / of.image_width())
    plots.reconstructions(x, again, columns=columns, ax=ax)
    return figure


def manifold(of: Drawn) -> Figure:
    """Decode a grid of quantiles of a two-dimensional prior."""
    site = _only(of)
    latent = of.runs.first[site]
    p = marginals(latent.p)
    if latent.z.shape[1] != 2:
        raise NotImplementedError(f"z has {latent.z.shape[1]} dimensions, and a plane has two")
    if not (isinstance(p, Normal) and factorises(latent.p) and of.runs.prior_is_shared(site)):
        raise NotImplementedError("the prior is no product of normals, whose quantiles are known")
    grid = torch.as_tensor(plots.quantile_grid(GRID)).to(latent.z)
    z = p.loc[0] + p.scale[0] * grid
    x = of.runs.decode({site: z.flatten(0, 1)}, torch.zeros(GRID**2, dtype=torch.long))
    shown = of.images(x.unflatten(0, (GRID, GRID)), leading=2)
    figure, ax = _figure(5, 5 / of.image_width())
    plots.manifold(shown, z.cpu(), ax=ax)
    return figure


def traversals(of: Drawn) -> Figure:
    """Move along each dimension of the latent next to the data."""
    site = of.runs.sites[0]
    units, z = of.measured.units[site], of.runs.draws[site]
    order = units.order()[:ROWS].to(z.device)
    start = {s: values[:1] for s, values in of.runs.means.items()}
    steps = torch.linspace(-2.5, 2.5, STEPS).to(z)
    moved = start[site].repeat(len(order), STEPS, 1)
    centre, scale = z.mean(0), z.std(0)
    for row, d in enumerate(order):
        moved[row, :, d] = centre[d] + steps * scale[d]
    count = len(order) * STEPS
    values = {s: v.expand(count, -1) for s, v in start.items()}
    values[site] = moved.flatten(0, 1)
    x = of.runs.decode(values, torch.zeros(count, dtype=torch.long))
    shown = of.images(x.unflatten(0, (len(order), STEPS)), leading=2)
    known = units.kl_missing is None
    names = [f"$z_{{{int(d) + 1}}}$" for d in order]
    kl = units.kl[order.to(units.kl.device)].cpu() if known else None
    figure, ax = _figure(5.4, 0.45 * len(order) / of.image_width() + 0.2)
    plots.traversals(shown, kl, names=names, ax=ax)
    return figure


def interpolation(of: Drawn) -> Figure:
    """Go from one datum to another in a straight line."""
    count = min(5, len(of.subject.x) // 2)
    left = torch.arange(count)
    right = torch.arange(count, 2 * count)
    if of.subject.labels is not None and (of.subject.context or of.runs.labels):
        # Where the programs see a label, the way is between two data of the same one.
        left, right = _alike(of.subject.labels, count)
        count = len(left)
    t = torch.linspace(0, 1, STEPS).to(of.subject.x).reshape(-1, 1)
    values = {
        s: torch.cat([(1 - t) * z[a] + t * z[b] for a, b in zip(left, right, strict=True)])
        for s, z in of.runs.means.items()
    }
    x = of.runs.decode(values, left.repeat_interleave(STEPS)).unflatten(0, (count, STEPS))
    shown = of.images(x, leading=2)
    at = of.subject.x.device
    ends = tuple(of.images(of.subject.x[i.to(at)]) for i in (left, right))
    figure, ax = _figure(5.4, 0.5 * count / of.image_width() + 0.2)
    plots.interpolation(shown, (ends[0], ends[1]), ax=ax)
    return figure


def rows(of: Drawn) -> Figure:
    """Draw a row from each component of a mixture prior, or of each class."""
    runs, classes = of.runs, of.subject.classes
    if classes is not None:
        some = range(min(classes, 2 * ROWS))
        x = torch.stack([runs.generate(STEPS, label)[0] for label in some])
        names = [f"y = {label}" for label in some]
    elif runs.mixture is not None and len(runs.sites) == 1:
        z = runs.components(runs.mixture, STEPS)
        shares = of.measured.shares
        order = torch.arange(z.shape[1]) if shares is None else shares.mean(0).argsort()
        order = order if shares is None else order.flip(0)
        order = order[:ROWS]
        chosen = z[:, order.to(z.device)].transpose(0, 1)
        index = torch.zeros(len(order) * STEPS, dtype=torch.long)
        x = runs.decode({runs.mixture: chosen.flatten(0, 1)}, index)
        x = x.unflatten(0, (len(order), STEPS))
        names = [f"k = {int(k)}" for k in order]
        if shares is not None:
            names = [
                f"{n}: {100 * shares.mean(0)[k]:.1f} %" for n, k in zip(names, order, strict=True)
            ]
    else:
        raise NotImplementedError("the prior is no mixture of one latent, and there are no classes")
    shown = of.images(x, leading=2)
    figure, ax = _figure(5.4, 0.5 * len(shown) / of.image_width() + 0.2)
    plots.rows(shown, names, ax=ax)
    return figure


def reliability(of: Drawn) -> Figure:
    """Draw the accuracy of q(y | x) against its confidence."""
    found = of.measured.calibration
    if found is None:
        raise NotImplementedError("there is no q(y|x), or there are no labels to compare with")
    figure, ax = _figure(4.4, 4.4)
    plots.reliability(found.confidence, found.accuracy, found.count, ax=ax)
    return figure


def graphs(of: Drawn) -> Figure:
    """Draw the graphs of model and guide."""
    subject = of.subject
    args = tuple(t[:3] for t in (subject.x, *subject.context))
    figure = Figure(figsize=(7.5, 4), layout="constrained")
    for ax, title, program in zip(
        figure.subplots(1, 2),
        ("model", "guide"),
        (subject.pair.model, subject.pair.guide),
        strict=True,
    ):
        plots.graph(relations(program, *args), ax=ax).set_title(title)
    return figure


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
        kl_per_dimension,
        per_site=True,
    ),
    Kind(
        "Samples from the model",
        "E[x | z] at z drawn from the prior; a draw of x itself would show its pixel noise.",
        "a sheet of images drawn from the model",
        samples,
    ),
    Kind(
        "Reconstructions",
        "Data in odd rows, and E[x | z] at one draw of q(z | x) below each.",
        "data with their reconstructions below",
        reconstructions,
    ),
    Kind(
        "Latent space",
        "One draw of q(z | x) for each datum, over the density of the prior in two dimensions, "
        "over draws of it in principal components in more.",
        "a scatter plot of latents, over the prior",
        latents,
        per_site=True,
    ),
    Kind(
        "Latent manifold",
        "E[x | z] at equal steps of the prior's mass.",
        "images decoded from a grid of the latent plane",
        manifold,
    ),
    Kind(
        "Latent traversals",
        "One row per dimension, by descending KL: z_d goes from 2.5 standard deviations below to "
        "2.5 above the mean of all data's draws, and the others stay at the first datum's mean.",
        "a row of images for each latent dimension, as it is moved",
        traversals,
    ),
    Kind(
        "Interpolation",
        "Between the posterior means of two data, in a straight line; a label is that of the left.",
        "rows of images that lead from one datum to another",
        interpolation,
    ),
    Kind(
        "Components and classes",
        "E[x | z] at draws from each class, or from each of the mixture components that most "
        "of the data are of.",
        "a row of images for each mixture component or class",
        rows,
    ),
    Kind(
        "Posterior intervals",
        "95 % of q(z | x) of three data, over the same of the prior where it is normal; dimensions "
        "by descending KL.",
        "intervals of the posterior in each latent dimension",
        intervals,
        per_site=True,
    ),
    Kind(
        "Reliability of q(y | x)",
        "How often the likeliest label is right, against how likely it is said to be.",
        "a reliability diagram",
        reliability,
    ),
    Kind(
        "The programs",
        "Model and guide as graphs: grey is observed, boxes are plates.",
        "the graphs of the model and of the guide",
        graphs,
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
        (Picture("all pairs", _words_of_bounds(drawn), _png(_comparison(drawn))),),
    )
    yield Section(
        "What the ELBO is made of",
        "NELBO = reconstruction + KL, and KL = mutual information + total correlation + "
        "dimension-wise KL where the terms are known, mutual information + marginal KL where not.",
        _stacks(drawn),
    )
    if history:
        figure, ax = _figure(7, 3.6)
        plots.curves(history, ax=ax)
        alt = f"training curves of {', '.join(history)}"
        yield Section("Training", "As given.", (Picture("training", alt, _png(figure)),))
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
    return Picture(title, f"{title}: {kind.alt}", _png(figure))


def _stacks(drawn: list[Drawn]) -> tuple[Picture, ...]:
    whole, split = {}, {}
    for of in drawn:
        terms, parts = of.measured.terms, of.measured.decomposition
        if terms is None:
            continue
        whole[of.subject.name] = {
            "reconstruction": terms.reconstruction.mean,
            "KL": terms.kl.mean,
        }
        if parts is None:
            continue
        split[of.subject.name] = {"mutual information": parts.mutual_information.mean}
        if parts.total_correlation is not None and parts.dimension_wise_kl is not None:
            split[of.subject.name] |= {
                "total correlation": parts.total_correlation.mean,
                "dimension-wise KL": parts.dimension_wise_kl.mean,
            }
        else:
            split[of.subject.name]["marginal KL"] = parts.marginal_kl.mean
    pictures = []
    for title, bars in (("the negative ELBO", whole), ("the KL", split)):
        if not bars:
            pictures.append(Picture(title, "", reason="the terms cannot be told apart; see below"))
            continue
        words = "; ".join(
            f"{name}: " + ", ".join(f"{term} {value:.2f}" for term, value in terms.items())
            for name, terms in bars.items()
        )
        pictures.append(
            Picture(title, f"stacked bars of {title} in nats: {words}", _png(_bars(bars)))
        )
    return tuple(pictures)


def _bars(bars: dict[str, dict[str, float]]) -> Figure:
    """Draw a horizontal bar of stacked terms for each name; what is negative goes to the left."""
    figure, ax = _figure(7, 1.1 + 0.5 * len(bars))
    kinds = list(dict.fromkeys(term for terms in bars.values() for term in terms))
    for row, terms in enumerate(bars.values()):
        right = left = 0.0
        for term, value in terms.items():
            start = right if value >= 0 else left
            kind = kinds.index(term)
            ax.barh(
                row,
                value,
                left=start,
                height=0.6,
                color=plots.colours.colour(kind),
                hatch=("", "//", "..", "xx")[kind % 4],
                edgecolor="white",
                linewidth=0,
                label=term,
            )
            right, left = right + max(value, 0), left + min(value, 0)
        # The sum stands beside its bar.
        ax.annotate(f" {sum(terms.values()):.2f}", (right, row), va="center", fontsize="small")
    ax.set_yticks(range(len(bars)), [_literal(name) for name in bars])
    ax.invert_yaxis()
    ax.margins(x=0.1)
    ax.axvline(0, color="0.3", linewidth=0.8)
    ax.set_xlabel("nats per datum")
    by_term = dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
    figure.legend(
        by_term.values(), by_term.keys(), loc="outside upper center", ncols=4, fontsize="small"
    )
    return figure


def _comparison(drawn: list[Drawn]) -> Figure:
    tables = [of.measured.quantities for of in drawn]
    chosen = [name for name in tables[0] if _is_bound(name)]
    figure, ax = _figure(7, 1.6 + 0.7 * len(drawn))
    values, errors = (
        {
            name: [_of(table, name, part) for table in tables]
            for name in chosen
            if any(name in table for table in tables)
        }
        for part in ("value", "standard_error")
    )
    plots.comparison([_literal(of.subject.name) for of in drawn], values, errors, ax=ax)
    return figure


def _words_of_bounds(drawn: list[Drawn]) -> str:
    return "; ".join(
        f"{of.subject.name}: "
        + ", ".join(f"{n} {q.text}" for n, q in of.measured.quantities.items() if _is_bound(n))
        for of in drawn
    )


def _is_bound(name: str) -> bool:
    return (
        name == "NELBO"
        or name.startswith("IWAE-")
        or (name.startswith("IS-") and name[3:].isdigit())
    )


def _of(table: Mapping[str, Any], name: str, part: str) -> int | float:
    value = getattr(table[name], part) if name in table else None
    return math.nan if value is None else value


def _density(runs: Runs, site: str, z: Tensor) -> tuple[ArrayLike, ArrayLike, ArrayLike]:
    p = runs.first[site].p
    wide = torch.cat([z, runs.generate(1000)[1][site]])
    low, high = wide.quantile(0.005, 0), wide.quantile(0.995, 0)
    low, high = torch.minimum(low, z.min(0).values), torch.maximum(high, z.max(0).values)
    x, y = (torch.linspace(float(a), float(b), 120).to(z) for a, b in zip(low, high, strict=True))
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)
    width = len(runs.first[site].z)
    values = torch.cat(
        [
            p.log_prob(part[:, None].expand(-1, width, -1))[:, 0]
            for part in grid.flatten(0, 1).split(200)
        ]
    )
    # Only the regions of highest density are drawn: what is a factor does not matter.
    values = (values - values.max()).exp().reshape(grid.shape[:2])
    return x.cpu().numpy(), y.cpu().numpy(), values.cpu().numpy()


def _alike(labels: Tensor, count: int) -> tuple[Tensor, Tensor]:
    left, right = [], []
    for label in labels.unique():
        same = (labels == label).nonzero().squeeze(-1)
        if len(same) > 1:
            left.append(same[0])
            right.append(same[1])
    if not left:
        raise NotImplementedError("no two data have the same label")
    return torch.stack(left[:count]), torch.stack(right[:count])


def _only(of: Drawn) -> str:
    if len(of.runs.sites) > 1:
        raise NotImplementedError("there are several latents, and no plane is that of all")
    return of.runs.sites[0]


def _figure(width: int | float, height: int | float) -> tuple[Figure, Axes]:
    """Return a figure that pyplot knows nothing of."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def _png(figure: Figure) -> bytes:
    FigureCanvasAgg(figure)
    file = io.BytesIO()
    # What wrote the file would be an address on the page.
    figure.savefig(
        file, dpi=PER_INCH, format="png", bbox_inches="tight", metadata={"Software": None}
    )
    return file.getvalue()


def _literal(text: str) -> str:
    """Keep matplotlib from typesetting a name."""
    return text.replace("$", r"\$")
