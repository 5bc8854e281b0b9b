"""Signal-to-noise ratio of the guide's gradient against the number of particles K.

The model is linear-Gaussian, so that its posterior is known; the guide is set to it and then moved
a little, as in Rainforth et al. 2018 (arXiv 1802.04537, section 4). For the gradient g of one
datum's bound with respect to one parameter of the guide, SNR = |E g| / std g. It falls as K^-1/2
with gradient="iwae" and rises as K^1/2 with "dreg" (Tucker et al. 2018, arXiv 1810.04152). With
"stl" it rises too, but E g is that of another objective: "stl" is biased.

    .venv/bin/python benchmarks/snr.py

prints the table and writes the figure of docs/estimators.md, in about a minute on one core.
"""

import argparse
import math
from pathlib import Path
from typing import NamedTuple

import pyro
import pyro.distributions as dist
import torch
from matplotlib import pyplot as plt

from ppl_vae.estimators import ImportanceWeightedELBO
from ppl_vae.testing import LinearGaussian

ROOT = Path(__file__).parents[1]
PARTICLES = (1, 3, 10, 30, 100, 300, 1000)
DATA_DIM, LATENT_DIM, DATA = 10, 5, 10
ROWS = 50_000
"""How many rows (data times particles) are evaluated at once: small tensors stay in the cache."""


class Guide:
    """The oracle's guide, with an offset and a log-scale (zeros) for every row of the batch.

    The gradient in row b of these is the gradient of row b's bound alone in the guide's own offset
    and log-scale, exactly. Rows that hold the same datum are independent draws of one gradient, so
    that a single backward pass gives as many as there are rows.
    """

    def __init__(self, posterior, rows):
        self.posterior = posterior
        self.of_rows = torch.zeros(2, rows, LATENT_DIM, dtype=torch.float64, requires_grad=True)

    def __call__(self, x):
        """Run the program: site z."""
        offset, log_scale = self.of_rows
        q = self.posterior(x).base_dist
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(q.loc + offset, q.scale * log_scale.exp()).to_event(1))


class Moments(NamedTuple):
    """Mean and standard deviation of a gradient, shape ``(data, parameters)``."""

    mean: torch.Tensor
    std: torch.Tensor


def oracle_near_the_posterior(shift, wide, seed):
    """Return an oracle whose guide is off by N(0, shift²): offsets in scales, scales in logs."""
    oracle = LinearGaussian(DATA_DIM, LATENT_DIM, seed=seed)
    random = torch.Generator().manual_seed(seed)
    # Orthogonal columns make the posterior's covariance diagonal, as the guide's is.
    torch.nn.init.orthogonal_(oracle.model.likelihood.weight, generator=random)
    oracle.set_exact_guide()
    q = oracle.guide.posterior
    with torch.no_grad():
        q.bias += shift * q.log_scale.exp() * torch.randn(LATENT_DIM, generator=random).double()
        stretch = shift * torch.randn(LATENT_DIM, generator=random).double()
        q.log_scale += stretch.abs() if wide else stretch
    return oracle


def gradient_moments(oracle, x, estimator, repeats):
    """Return the moments of the gradient of each datum's bound over independent draws."""
    at_once = max(1, ROWS // (len(x) * estimator.num_particles))
    parts = []
    for start in range(0, repeats, at_once):
        rows = x.repeat(min(at_once, repeats - start), 1)
        guide = Guide(oracle.guide.posterior, len(rows))
        loss = estimator.differentiable_loss(oracle.model, guide, rows)
        (gradient,) = torch.autograd.grad(-loss, guide.of_rows)
        parts.append(gradient.transpose(0, 1).reshape(-1, len(x), 2 * LATENT_DIM))
    gradients = torch.cat(parts)
    return Moments(gradients.mean(0), gradients.std(0))


def slope(snr):
    """Return the exponent of K, by least squares over the four largest."""
    k = torch.tensor(PARTICLES[-4:]).double().log()
    y = torch.tensor(snr[-4:]).log()
    return (((k - k.mean()) * y).sum() / (k - k.mean()).square().sum()).item()


def measure(shift, wide, repeats, seed):
    """Print the table at one distance of the guide and return the ratios by gradient."""
    oracle = oracle_near_the_posterior(shift, wide, seed)
    pyro.set_rng_seed(seed)
    x = oracle.model.likelihood(oracle.model.prior().sample((DATA,))).sample().detach()
    snr = {"iwae": [], "dreg": [], "stl": []}
    print(f"\nguide off by {shift:g}; SNR of each gradient, then E stl against E dreg, and max z")
    print("    K      iwae      dreg       stl    length    cosine     max z")
    for k in PARTICLES:
        moments = {}
        for name in snr:
            pyro.set_rng_seed(seed)  # the same particles for all three
            estimator = ImportanceWeightedELBO(k, name, max_plate_nesting=1)
            moments[name] = gradient_moments(oracle, x, estimator, repeats)
        iwae, dreg, stl = (moments[name] for name in snr)
        # "dreg" and "iwae" estimate one gradient, and the mean that is known better serves for
        # both: |mean| of what is nearly all noise would be noise. max z is how far apart the two
        # means are, in standard errors, the largest of all data and parameters.
        error = (iwae.std**2 + dreg.std**2).sqrt() / math.sqrt(repeats)
        z = ((iwae.mean - dreg.mean) / error).abs().max()
        for name, mean in (("iwae", dreg.mean), ("dreg", dreg.mean), ("stl", stl.mean)):
            snr[name].append((mean.abs() / moments[name].std).mean().item())
        length = stl.mean.norm() / dreg.mean.norm()
        cosine = (stl.mean * dreg.mean).sum() / (stl.mean.norm() * dreg.mean.norm())
        row = "".join(f"{values[-1]:10.4f}" for values in snr.values())
        print(f"{k:5}{row}{length:10.1f}{cosine:10.3f}{z:10.1f}", flush=True)
    print("slope" + "".join(f"{slope(values):10.2f}" for values in snr.values()))
    return snr


def draw(ax, snr, shift):
    """Draw the ratios against K, with lines of slope 1/2 and -1/2 to compare with."""
    ends = (PARTICLES[0], PARTICLES[-1])
    for name, exponent in (("iwae", -0.5), ("dreg", 0.5)):
        line = [snr[name][0] * k**exponent for k in ends]
        label = "slopes -1/2 and 1/2" if name == "iwae" else None
        ax.plot(ends, line, color="0.7", linewidth=4, label=label)
    # Near the posterior "dreg" and "stl" lie on each other: one is drawn inside the other.
    styles = {"iwae": ("s", 4), "dreg": ("o", 4), "stl": ("^", 9)}
    for name, values in snr.items():
        marker, size = styles[name]
        label = f'"{name}"' + (", biased" if name == "stl" else "")
        ax.plot(PARTICLES, values, marker, ms=size, mfc="none", linestyle="-", label=label)
    ax.set(xscale="log", yscale="log", xlabel="particles K", title=f"guide off by {shift:g}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=300, help="draws of the gradient per datum")
    parser.add_argument("--shifts", type=float, nargs="+", default=[0.01, 0.1], metavar="S")
    parser.add_argument("--wide", action="store_true", help="move the guide's scales up only")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "figures" / "snr.png")
    flags = parser.parse_args()

    width = 4.2 * len(flags.shifts)
    figure, axes = plt.subplots(
        1, len(flags.shifts), sharey=True, squeeze=False, figsize=(width, 4), layout="constrained"
    )
    for ax, shift in zip(axes[0], flags.shifts, strict=True):
        draw(ax, measure(shift, flags.wide, flags.repeats, flags.seed), shift)
    axes[0][0].set_ylabel("SNR of the guide's gradient")
    axes[0][0].legend()
    flags.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(flags.out, dpi=110)
    print(f"\nwrote {flags.out}")


if __name__ == "__main__":
    main()
