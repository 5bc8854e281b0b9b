"""Several stochastic layers: one layer, two with a bottom-up guide, two with a ladder guide.

Each is trained on the importance-weighted bound with doubly reparameterised gradients; the last has
a VampPrior on its top layer. Prints test bounds in nats per datum and draws samples.
"""

import pyro
import torch
from common import Run
from matplotlib import pyplot as plt
from pyro.infer import SVI
from pyro.optim import Adam

from ppl_vae import (
    VAE,
    HierarchicalVAE,
    estimators,
    evaluation,
    likelihoods,
    nets,
    plots,
    posteriors,
    priors,
)

BELOW, TOP = 16, 8  # latent dimensions of z1, next to the data, and of z2

run = Run(__doc__)
some_data = run.train.subset(torch.randperm(len(run.train))[:50]).tensor()


def one_layer():
    return VAE(
        prior=priors.StandardNormal(BELOW),
        posterior=posteriors.DiagonalNormal(nets.MLP(run.pixels, 2 * BELOW)),
        likelihood=likelihoods.Bernoulli(nets.MLP(BELOW, run.pixels)),
    )


def bottom_up():
    return HierarchicalVAE(
        prior=priors.StandardNormal(TOP),  # p(z2)
        conditionals=[priors.ConditionalNormal(nets.MLP(TOP, 2 * BELOW))],  # p(z1|z2)
        posteriors=[
            posteriors.DiagonalNormal(nets.MLP(run.pixels, 2 * BELOW)),  # q(z1|x)
            posteriors.DiagonalNormal(nets.MLP(BELOW, 2 * TOP)),  # q(z2|z1)
        ],
        likelihood=likelihoods.Bernoulli(nets.MLP(BELOW, run.pixels)),  # p(x|z1)
    )


def ladder():
    first = bottom_up()
    (conditional,) = first.conditionals
    return first.replace(
        inference="top-down",
        posteriors=[
            # q(z1|x,z2): what x says, times p(z1|z2), weighted by their precisions
            posteriors.PrecisionWeighted(nets.MLP(run.pixels, 2 * BELOW), conditional),
            posteriors.DiagonalNormal(nets.MLP(run.pixels, 2 * TOP)),  # q(z2|x)
        ],
    )


def ladder_with_vamp_prior():
    first = ladder()
    return first.replace(prior=priors.VampPrior(first.posteriors[-1], some_data))


choices = {
    "one layer": one_layer,
    "two, bottom-up": bottom_up,
    "two, ladder": ladder,
    "two, ladder, Vamp": ladder_with_vamp_prior,
}
particles = (1, 10, 100)
figure, axes = plt.subplots(1, len(choices), figsize=(4 * len(choices), 4))
rows = []
for (name, make), ax in zip(choices.items(), axes, strict=True):
    pyro.set_rng_seed(run.flags.seed)
    vae = make().to(run.device)
    elbo = estimators.ImportanceWeightedELBO(5, gradient="dreg")
    svi = SVI(vae.model, vae.guide, Adam({"lr": 1e-3}), elbo)
    for x, _ in run.batches(name):
        loss = svi.step(x)  # nats per batch
        run.show(loss / len(x))
    bounds = evaluation.importance_bounds(vae, run.test_x, num_particles=particles)
    rows.append([name, *bounds.values()])
    plots.images(vae.generate(100, mean=True).cpu(), columns=10, ax=ax).set_title(name)

print(f"test set of {len(run.test_x)}, nats per datum (seed {run.flags.seed}, {run.steps} steps)")
for cells in [["layers", *(f"IWAE-{k}" for k in particles)], *rows]:
    print("".join(f"{cell!s:20}" for cell in cells))
figure.tight_layout()
run.save(figure)
