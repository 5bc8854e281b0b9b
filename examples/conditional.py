"""Conditional VAEs: images given their class, with p(z) or with p(z | c) as the prior.

Prints bounds on -log p(x | c) beside that of a VAE without classes, -log p(x), and draws one row of
images per class.
"""

import math

import pyro
import torch
from common import load, num_steps, parse_flags, save, take
from matplotlib import pyplot as plt
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam
from tqdm import tqdm

from ppl_vae import VAE, ConditionalVAE, evaluation, likelihoods, nets, plots, posteriors, priors

LATENT = 8

flags = parse_flags(__doc__)
train, test = load(flags)
steps, pixels = num_steps(flags, train), math.prod(train.event_shape)
x_test = test.binarised(seed=0).tensor(device=flags.device)
classes = train.num_classes


def unconditional():
    return VAE(
        prior=priors.StandardNormal(LATENT),
        posterior=posteriors.DiagonalNormal(nets.MLP(pixels, 2 * LATENT)),
        likelihood=likelihoods.Bernoulli(nets.MLP(LATENT, pixels)),
    )


def conditional():
    return ConditionalVAE(
        prior=priors.StandardNormal(LATENT),
        posterior=posteriors.DiagonalNormal(nets.MLP(pixels + classes, 2 * LATENT)),
        likelihood=likelihoods.Bernoulli(nets.MLP(LATENT + classes, pixels)),
        num_classes=classes,
    )


def conditional_prior():
    # An affine map of the one-hot class: a normal for each.
    net = nets.MLP(classes, 2 * LATENT, hidden=())
    return conditional().replace(prior=priors.ConditionalNormal(net))


choices = {
    "p(z) p(x|z)": unconditional,
    "p(z) p(x|z,c)": conditional,
    "p(z|c) p(x|z,c)": conditional_prior,
}
labels = test.labels.to(flags.device)
figure, axes = plt.subplots(1, len(choices), figsize=(14, 5))
rows = []
for (name, make), ax in zip(choices.items(), axes, strict=True):
    pyro.set_rng_seed(flags.seed)
    vae = make().to(flags.device)
    svi = SVI(vae.model, vae.guide, Adam({"lr": 1e-3}), Trace_ELBO())
    batches = train.to(flags.device).batches(100, binarise="dynamic", seed=flags.seed)
    bar = tqdm(take(batches, steps), name, steps, unit="step")
    for x, y in bar:
        loss = svi.step(x, *(() if make is unconditional else (y,)))  # nats per batch
        bar.set_postfix_str(f"loss {loss / len(x):.2f} nats", refresh=False)

    c = () if make is unconditional else (labels,)
    terms = evaluation.elbo_terms(vae, x_test, *c, num_samples=10)
    bound = evaluation.importance_bounds(vae, x_test, *c, num_particles=(100,))[100]
    rows.append([name, terms.nelbo, terms.kl, terms.reconstruction, bound])
    if make is unconditional:
        images = vae.generate(10 * classes, mean=True)
        ax.set_title(f"{name}: samples")
    else:
        each = torch.arange(classes, device=flags.device).repeat_interleave(10)
        images = vae.generate(each, mean=True)
        ax.set_title(f"{name}: one row per class")
    plots.images(images.cpu(), columns=10, ax=ax)

print(f"test set of {len(x_test)}, nats per datum (seed {flags.seed}, {steps} steps)")
for cells in [["model", "NELBO", "KL", "reconstruction", "IWAE-100"], *rows]:
    print("".join(f"{cell!s:18}" for cell in cells))
figure.tight_layout()
save(figure, flags)
