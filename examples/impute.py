"""Missing pixels: train on incomplete images, then fill them from the posterior predictive.

A random half of each training image is hidden, anew at every step. The lower half of each test
image is then imputed: several draws, and their mean.
"""

import math

import pyro
import torch
from common import load, num_steps, parse_flags, save, take
from matplotlib import pyplot as plt
from pyro.infer import SVI
from pyro.optim import Adam
from tqdm import tqdm

from ppl_vae import VAE, estimators, evaluation, likelihoods, nets, plots, posteriors, priors

LATENT = 10

flags = parse_flags(__doc__)
train, test = load(flags)
steps, pixels = num_steps(flags, train), math.prod(train.event_shape)
batches = train.to(flags.device).batches(100, binarise="dynamic", seed=flags.seed)
x_test = test.binarised(seed=0).tensor(device=flags.device)
vae = VAE(
    prior=priors.GaussianMixture(LATENT, components=50),
    posterior=posteriors.DiagonalNormal(nets.MLP(pixels, 2 * LATENT)),
    likelihood=likelihoods.Bernoulli(nets.MLP(LATENT, pixels)),
).to(flags.device)

# The MIWAE bound: importance weights of the observed pixels only.
svi = SVI(vae.model, vae.guide, Adam({"lr": 1e-3}), estimators.ImportanceWeightedELBO(5))
bar = tqdm(take(batches, steps), "training", steps, unit="step")
for x, _ in bar:
    loss = svi.step(x, mask=torch.rand_like(x) < 0.5)  # nats per batch, True where observed
    bar.set_postfix_str(f"loss {loss / len(x):.2f} nats", refresh=False)

x = x_test
mask = torch.zeros_like(x, dtype=torch.bool)
mask[:, : pixels // 2] = True  # the upper half is observed
pyro.set_rng_seed(flags.seed)
draws = vae.impute(x, mask, num_samples=20, mean=True)
mean = draws.mean(0)

frequency = train.tensor().mean(0).to(flags.device)
baseline = frequency.expand_as(x)
print(f"test set of {len(x)} (seed {flags.seed}, {steps} steps)")
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
ax.set_title("data, observed pixels, four imputations, the mean of twenty")
save(figure, flags)
