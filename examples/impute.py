"""Missing pixels: train on incomplete images, then fill them from the posterior predictive.

A random half of the pixels of every training image is hidden, and hidden again at every step. The
lower half of the test images is then imputed: several draws for each, and their mean.
"""

import pyro
import torch
from common import Run
from matplotlib import pyplot as plt
from pyro.infer import SVI
from pyro.optim import Adam

from ppl_vae import VAE, estimators, evaluation, likelihoods, nets, plots, posteriors, priors

LATENT = 10

run = Run(__doc__)
vae = VAE(
    prior=priors.GaussianMixture(LATENT, components=50),
    posterior=posteriors.DiagonalNormal(nets.MLP(run.pixels, 2 * LATENT)),
    likelihood=likelihoods.Bernoulli(nets.MLP(LATENT, run.pixels)),
).to(run.device)

# The MIWAE bound: importance weights of what is observed alone.
svi = SVI(vae.model, vae.guide, Adam({"lr": 1e-3}), estimators.ImportanceWeightedELBO(5))
for x, _ in run.batches():
    loss = svi.step(x, mask=torch.rand_like(x) < 0.5)  # nats per batch, True where observed
    run.show(loss / len(x))

x = run.test_x
mask = torch.zeros_like(x, dtype=torch.bool)
mask[:, : run.pixels // 2] = True  # the upper half is seen
pyro.set_rng_seed(run.flags.seed)
draws = vae.impute(x, mask, num_samples=20, mean=True)
mean = draws.mean(0)

frequency = run.train.tensor().mean(0).to(run.device)
baseline = frequency.expand_as(x)
print(f"test set of {len(x)} (seed {run.flags.seed}, {run.steps} steps)")
bound = evaluation.importance_bounds(vae, x, mask=mask, num_particles=(100,))[100]
print(f"bound on -log p(upper half), IWAE-100: {bound} nats per datum")
for name, p in (("imputed", mean), ("each pixel's mean over training data", baseline)):
    p = p.clamp(1e-3, 1 - 1e-3)
    missing = torch.where(x > 0, p, 1 - p)[~mask].reshape(len(x), -1)
    right = (missing > 0.5).float().mean()
    print(f"hidden pixels, {name}: {-missing.log().sum(1).mean():.2f} nats, {right:.1%} right")

observed = torch.where(mask, x, 0.5)
several = vae.impute(x[:10], mask[:10], num_samples=4)
sheet = torch.stack([x[:10], observed[:10], *several, mean[:10]]).flatten(0, 1)
figure, ax = plt.subplots(figsize=(8, 6))
plots.images(sheet.cpu(), columns=10, ax=ax)
ax.set_title("data, what is seen, four imputations, the mean of twenty")
run.save(figure)
