"""Conditional VAEs: images given their class, with p(z) or with p(z | c) as the prior.

Prints bounds on -log p(x | c) beside that of a VAE without classes, -log p(x), and draws one row of
images per class.
"""

import pyro
import torch
from common import Run
from matplotlib import pyplot as plt
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam

from ppl_vae import VAE, ConditionalVAE, evaluation, likelihoods, nets, plots, posteriors, priors

LATENT = 8

run = Run(__doc__)
classes = run.train.num_classes


def unconditional():
    return VAE(
        prior=priors.StandardNormal(LATENT),
        posterior=posteriors.DiagonalNormal(nets.MLP(run.pixels, 2 * LATENT)),
        likelihood=likelihoods.Bernoulli(nets.MLP(LATENT, run.pixels)),
    )


def conditional():
    return ConditionalVAE(
        prior=priors.StandardNormal(LATENT),
        posterior=posteriors.DiagonalNormal(nets.MLP(run.pixels + classes, 2 * LATENT)),
        likelihood=likelihoods.Bernoulli(nets.MLP(LATENT + classes, run.pixels)),
        num_classes=classes,
    )


def conditional_prior():
    # An affine map of the one-hot class: a normal of its own for each.
    net = nets.MLP(classes, 2 * LATENT, hidden=())
    return conditional().replace(prior=priors.ConditionalNormal(net))


choices = {
    "p(z) p(x|z)": unconditional,
    "p(z) p(x|z,c)": conditional,
    "p(z|c) p(x|z,c)": conditional_prior,
}
labels = run.test.labels.to(run.device)
figure, axes = plt.subplots(1, len(choices), figsize=(14, 5))
rows = []
for (name, make), ax in zip(choices.items(), axes, strict=True):
    pyro.set_rng_seed(run.flags.seed)
    vae = make().to(run.device)
    svi = SVI(vae.model, vae.guide, Adam({"lr": 1e-3}), Trace_ELBO())
    for x, y in run.batches(name):
        loss = svi.step(x, *(() if make is unconditional else (y,)))  # nats per batch
        run.show(loss / len(x))

    c = () if make is unconditional else (labels,)
    terms = evaluation.elbo_terms(vae, run.test_x, *c, num_samples=10)
    bound = evaluation.importance_bounds(vae, run.test_x, *c, num_particles=(100,))[100]
    rows.append([name, terms.nelbo, terms.kl, terms.reconstruction, bound])
    if make is unconditional:
        images = vae.generate(10 * classes, mean=True)
        ax.set_title(f"{name}: samples")
    else:
        each = torch.arange(classes, device=run.device).repeat_interleave(10)
        images = vae.generate(each, mean=True)
        ax.set_title(f"{name}: one row per class")
    plots.images(images.cpu(), columns=10, ax=ax)

print(f"test set of {len(run.test_x)}, nats per datum (seed {run.flags.seed}, {run.steps} steps)")
for cells in [["model", "NELBO", "KL", "reconstruction", "IWAE-100"], *rows]:
    print("".join(f"{cell!s:18}" for cell in cells))
figure.tight_layout()
run.save(figure)
