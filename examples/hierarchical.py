"""Several stochastic layers: one layer, two with a bottom-up guide, two with a ladder guide.

Each is trained on the importance-weighted bound with doubly reparameterised gradients; the last has
a VampPrior on its top layer. Prints test bounds in nats per datum and draws samples.
"""

import math

import pyro
import torch
from common import load, num_steps, parse_flags, save, take
from matplotlib import pyplot as plt
from pyro.infer import SVI
from pyro.optim import Adam
from tqdm import tqdm

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

flags = parse_flags(__doc__)
train, test = load(flags)
steps, pixels = num_steps(flags, train), math.prod(train.event_shape)
x_test = test.binarised(seed=0).tensor(device=flags.device)
pseudo_inputs = train.subset(torch.randperm(len(train))[:50]).tensor()


def one_layer():
    return VAE(
        prior=priors.StandardNormal(BELOW),
        posterior=posteriors.DiagonalNormal(nets.MLP(pixels, 2 * BELOW)),
        likelihood=likelihoods.Bernoulli(nets.MLP(BELOW, pixels)),
    )


def bottom_up():
    return HierarchicalVAE(
        prior=priors.StandardNormal(TOP),  # p(z2)
        conditionals=[priors.ConditionalNormal(nets.MLP(TOP, 2 * BELOW))],  # p(z1|z2)
        posteriors=[
            posteriors.DiagonalNormal(nets.MLP(pixels, 2 * BELOW)),  # q(z1|x)
            posteriors.DiagonalNormal(nets.MLP(BELOW, 2 * TOP)),  # q(z2|z1)
        ],
        likelihood=likelihoods.Bernoulli(nets.MLP(BELOW, pixels)),  # p(x|z1)
    )


def ladder():
    pair = bottom_up()
    (conditional,) = pair.conditionals
    return pair.replace(
        inference="top-down",
        posteriors=[
            # q(z1|x,z2): the product of a normal given x and p(z1|z2)
            posteriors.PrecisionWeighted(nets.MLP(pixels, 2 * BELOW), conditional),
            posteriors.DiagonalNormal(nets.MLP(pixels, 2 * TOP)),  # q(z2|x)
        ],
    )


def ladder_with_vamp_prior():
    pair = ladder()
    return pair.replace(prior=priors.VampPrior(pair.posteriors[-1], pseudo_inputs))


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
    pyro.set_rng_seed(flags.seed)
    vae = make().to(flags.device)
    elbo = estimators.ImportanceWeightedELBO(5, gradient="dreg")
    svi = SVI(vae.model, vae.guide, Adam({"lr": 1e-3}), elbo)
    batches = train.to(flags.device).batches(100, binarise="dynamic", seed=flags.seed)
    bar = tqdm(take(batches, steps), name, steps, unit="step")
    for x, _ in bar:
        loss = svi.step(x)  # nats per batch
        bar.set_postfix_str(f"loss {loss / len(x):.2f} nats", refresh=False)
    bounds = evaluation.importance_bounds(vae, x_test, num_particles=particles)
    rows.append([name, *bounds.values()])
    plots.images(vae.generate(100, mean=True).cpu(), columns=10, ax=ax).set_title(name)

print(f"test set of {len(x_test)}, nats per datum (seed {flags.seed}, {steps} steps)")
for cells in [["layers", *(f"IWAE-{k}" for k in particles)], *rows]:
    print("".join(f"{cell!s:20}" for cell in cells))
figure.tight_layout()
save(figure, flags)
