"""The importance-weighted autoencoder: the VAE of vae.py with one thing changed, the estimator.

Trains the same networks on the ELBO and on the importance-weighted bound of 20 particles
(Burda et al. 2016, arXiv 1509.00519), and compares their test bounds for 1 to 1000 particles.
"""

import pyro
from common import Run
from matplotlib import pyplot as plt
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam

from ppl_vae import VAE, estimators, evaluation, likelihoods, nets, posteriors, priors

LATENT = 10
PARTICLES = 20

run = Run(__doc__)
figure, ax = plt.subplots()
print(f"test set of {len(run.test_x)}, nats per datum (seed {run.flags.seed}, {run.steps} steps)")
for name, estimator in {
    "Trace_ELBO": Trace_ELBO(),
    f"ImportanceWeightedELBO({PARTICLES})": estimators.ImportanceWeightedELBO(PARTICLES),
}.items():
    pyro.set_rng_seed(run.flags.seed)  # the same initial weights for both
    vae = VAE(
        prior=priors.StandardNormal(LATENT),
        posterior=posteriors.DiagonalNormal(nets.MLP(run.pixels, 2 * LATENT)),
        likelihood=likelihoods.Bernoulli(nets.MLP(LATENT, run.pixels)),
    ).to(run.device)
    svi = SVI(vae.model, vae.guide, Adam({"lr": 1e-3}), estimator)
    for x, _ in run.batches(name):
        loss = svi.step(x)  # minus the bound that is trained, in nats per batch
        run.show(loss / len(x))

    bounds = evaluation.importance_bounds(vae, run.test_x, progress=True)
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
run.save(figure)
