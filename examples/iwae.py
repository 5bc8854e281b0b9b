"""The importance-weighted autoencoder: the VAE of vae.py with one thing changed, the estimator.

Trains the same networks on the ELBO and on the importance-weighted bound of 20 particles
(Burda et al. 2016, arXiv 1509.00519), and compares their test bounds for 1 to 1000 particles.
"""

import math

import pyro
from common import load, num_steps, parse_flags, save, take
from matplotlib import pyplot as plt
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam
from tqdm import tqdm

from ppl_vae import VAE, estimators, evaluation, likelihoods, nets, posteriors, priors

LATENT = 10
PARTICLES = 20

flags = parse_flags(__doc__)
train, test = load(flags)
steps, pixels = num_steps(flags, train), math.prod(train.event_shape)
x_test = test.binarised(seed=0).tensor(device=flags.device)
figure, ax = plt.subplots()
print(f"test set of {len(x_test)}, nats per datum (seed {flags.seed}, {steps} steps)")
for name, estimator in {
    "Trace_ELBO": Trace_ELBO(),
    f"ImportanceWeightedELBO({PARTICLES})": estimators.ImportanceWeightedELBO(PARTICLES),
}.items():
    pyro.set_rng_seed(flags.seed)  # the same initial weights for both
    vae = VAE(
        prior=priors.StandardNormal(LATENT),
        posterior=posteriors.DiagonalNormal(nets.MLP(pixels, 2 * LATENT)),
        likelihood=likelihoods.Bernoulli(nets.MLP(LATENT, pixels)),
    ).to(flags.device)
    svi = SVI(vae.model, vae.guide, Adam({"lr": 1e-3}), estimator)
    batches = train.to(flags.device).batches(100, binarise="dynamic", seed=flags.seed)
    bar = tqdm(take(batches, steps), name, steps, unit="step")
    for x, _ in bar:
        loss = svi.step(x)  # minus the bound that is trained, in nats per batch
        bar.set_postfix_str(f"loss {loss / len(x):.2f} nats", refresh=False)

    bounds = evaluation.importance_bounds(vae, x_test, progress=True)
    print(f"trained on {name:27}", "  ".join(f"-L_{k} {b}" for k, b in bounds.items()))
    ax.errorbar(
        list(bounds),
        [b.mean for b in bounds.values()],
        [b.standard_error for b in bounds.values()],
        marker="o",
        capsize=3,
        label=f"trained on {name}",
    )

ax.set(xscale="log", xlabel="particles K", ylabel="test -L_K, nats per datum")
ax.legend()
save(figure, flags)
