"""Swapping the prior is one argument: the same VAE with each prior, side by side.

Prints the test NELBO, its terms and the importance-weighted bounds in nats per datum, and draws
samples, reconstructions and the latent space. This is what ``make demo`` runs.
"""

import pyro
import torch
from common import Run
from matplotlib import pyplot as plt
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam

from ppl_vae import VAE, evaluation, likelihoods, nets, plots, posteriors, priors

LATENT = 8

run = Run(__doc__)


def standard_vae():
    return VAE(
        prior=priors.StandardNormal(LATENT),
        posterior=posteriors.DiagonalNormal(nets.MLP(run.pixels, 2 * LATENT)),
        likelihood=likelihoods.Bernoulli(nets.MLP(LATENT, run.pixels)),
    )


choices = {
    "standard normal": lambda: priors.StandardNormal(LATENT),
    "mixture of 50": lambda: priors.GaussianMixture(LATENT, components=50),
}
particles = (1, 10, 100, 1000)
figure, axes = plt.subplots(len(choices), 3, figsize=(12, 4 * len(choices)), squeeze=False)
rows = []
for (name, prior), row in zip(choices.items(), axes, strict=True):
    pyro.set_rng_seed(run.flags.seed)  # the same initial networks for each prior
    vae = standard_vae().replace(prior=prior()).to(run.device)
    svi = SVI(vae.model, vae.guide, Adam({"lr": 1e-3}), Trace_ELBO())
    for x, _ in run.batches(name):
        loss = svi.step(x)  # nats per batch
        run.show(loss / len(x))

    terms = evaluation.elbo_terms(vae, run.test_x, num_samples=10)
    bounds = evaluation.importance_bounds(vae, run.test_x, num_particles=particles, progress=True)
    rows.append([name, terms.nelbo, terms.kl, terms.reconstruction, *bounds.values()])

    plots.images(vae.generate(100, mean=True).cpu(), columns=10, ax=row[0])
    x = run.test_x[:50]
    plots.reconstructions(x.cpu(), vae.reconstruct(x).cpu(), ax=row[1])
    with torch.no_grad():
        draws = vae.prior().sample((2000,)).cpu()
    plots.latents(vae.encode(run.test_x).cpu(), run.test.labels, prior_draws=draws, ax=row[2])
    row[0].set_title(f"{name}: samples")
    row[1].set_title("data and reconstructions")
    row[2].set_title("latent space, test data by label")

print(f"test set of {len(run.test_x)}, nats per datum (seed {run.flags.seed}, {run.steps} steps)")
header = ["prior", "NELBO", "KL", "reconstruction", *(f"IWAE-{k}" for k in particles)]
for cells in [header, *rows]:
    print("".join(f"{cell!s:16}" for cell in cells))
figure.tight_layout()
run.save(figure)
