"""Swapping the prior is one argument: the same VAE with each prior, side by side.

Prints the test bounds in nats per datum, one row per prior, and draws each prior's density under
the aggregate posterior in a two-dimensional latent space. This is what ``make demo`` runs.
"""

import math

import pyro
import torch
from common import load, num_steps, parse_flags, save, take
from matplotlib import pyplot as plt
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam
from tqdm import tqdm

from ppl_vae import VAE, evaluation, likelihoods, nets, plots, posteriors, priors

LATENT = 2

flags = parse_flags(__doc__)
train, test = load(flags)
steps, pixels = num_steps(flags, train), math.prod(train.event_shape)
x_test = test.binarised(seed=0).tensor(device=flags.device)


def standard_vae():
    return VAE(
        prior=priors.StandardNormal(LATENT),
        posterior=posteriors.DiagonalNormal(nets.MLP(pixels, 2 * LATENT)),
        likelihood=likelihoods.Bernoulli(nets.MLP(LATENT, pixels)),
    )


pseudo_inputs = train.subset(torch.randperm(len(train))[:50]).tensor()
choices = {  # functions of the pair's posterior, which a VampPrior is made from
    "standard normal": lambda q: priors.StandardNormal(LATENT),
    "full-rank normal": lambda q: priors.FullRankNormal(LATENT),
    "mixture of 50": lambda q: priors.GaussianMixture(LATENT, components=50),
    "VampPrior of 50": lambda q: priors.VampPrior(q, pseudo_inputs),
    "RealNVP": lambda q: priors.Flow(LATENT, "realnvp"),
    "neural spline": lambda q: priors.Flow(LATENT, "spline"),
}
particles = (10, 100)
points = 20 if flags.smoke else 200  # a side of the grid of densities
trained, rows = {}, []
for name, prior in choices.items():
    pyro.set_rng_seed(flags.seed)  # the same initial networks for each prior
    vae = standard_vae()
    vae = vae.replace(prior=prior(vae.posterior)).to(flags.device)
    svi = SVI(vae.model, vae.guide, Adam({"lr": 1e-3}), Trace_ELBO())
    batches = train.to(flags.device).batches(100, binarise="dynamic", seed=flags.seed)
    bar = tqdm(take(batches, steps), name, steps, unit="step")
    for x, _ in bar:
        loss = svi.step(x)  # nats per batch
        bar.set_postfix_str(f"loss {loss / len(x):.2f} nats", refresh=False)

    terms = evaluation.elbo_terms(vae, x_test, num_samples=10)
    bounds = evaluation.importance_bounds(vae, x_test, num_particles=particles, progress=True)
    rows.append([name, terms.nelbo, terms.kl, terms.reconstruction, *bounds.values()])
    trained[name] = vae

print(f"test set of {len(x_test)}, nats per datum (seed {flags.seed}, {steps} steps)")
header = ["prior", "NELBO", "KL", "reconstruction", *(f"IWAE-{k}" for k in particles)]
for cells in [header, *rows]:
    print("".join(f"{cell!s:18}" for cell in cells))

figure, axes = plt.subplots(2, 3, figsize=(13, 8))
for i, ((name, vae), ax) in enumerate(zip(trained.items(), axes.flat, strict=True)):
    with torch.no_grad():
        z = vae.posterior(x_test).sample()  # draws of the aggregate posterior
        (left, low), (right, high) = z.min(0).values - 0.5, z.max(0).values + 0.5
        x_axis, y_axis = (torch.linspace(a, b, points) for a, b in ((left, right), (low, high)))
        grid = torch.stack(torch.meshgrid(x_axis, y_axis, indexing="xy"), -1).to(flags.device)
        density = vae.prior().log_prob(grid).exp()
    plots.density(x_axis, y_axis, density.cpu(), ax=ax)
    plots.latents(z.cpu(), test.labels, ax=ax).set_title(name)
    if i % 3 < 2:
        ax.get_legend().remove()  # one at the end of each row
figure.suptitle("each prior's density (grey: 20 to 95 % of its mass), draws of q(z|x) by label")
figure.tight_layout()
save(figure, flags)
