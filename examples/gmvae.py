"""The Gaussian-mixture VAE: the VAE of vae.py with one argument changed, the prior.

With --dataset mnist: 500 components, uniform weights, learned means and scales, the networks and
the schedule of Stanford CS236, problem set 2.
"""

import torch
from common import Run
from matplotlib import pyplot as plt
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam

from ppl_vae import VAE, evaluation, likelihoods, nets, plots, posteriors, priors

LATENT = 10

run = Run(__doc__)
components = 500 if len(run.train) > 10_000 else 50
vae = VAE(
    prior=priors.GaussianMixture(LATENT, components),
    posterior=posteriors.DiagonalNormal(nets.MLP(run.pixels, 2 * LATENT)),
    likelihood=likelihoods.Bernoulli(nets.MLP(LATENT, run.pixels)),
).to(run.device)

svi = SVI(vae.model, vae.guide, Adam({"lr": 1e-3}), Trace_ELBO())
for x, _ in run.batches():
    loss = svi.step(x)  # nats per batch
    run.show(loss / len(x))

terms = evaluation.elbo_terms(vae, run.test_x)
print(f"test set of {len(run.test_x)}, nats per datum (seed {run.flags.seed}, {run.steps} steps)")
print(f"NELBO {terms.nelbo}   KL {terms.kl}   reconstruction {terms.reconstruction}")

# One row per component: which images does each stand for? Ten among those that hold most data.
with torch.no_grad():
    share = vae.prior.responsibilities(vae.encode(run.test_x)).mean(0)
    stride = components // 20
    shown = share.argsort(descending=True)[: 10 * stride : stride]
    z = vae.prior().component_distribution.sample((10,))[:, shown]
    rows = vae.likelihood(z.transpose(0, 1).flatten(0, 1)).mean

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 5))
plots.images(vae.generate(100, mean=True).cpu(), columns=10, ax=left).set_title("samples")
plots.images(rows.cpu(), columns=10, ax=right).set_title("one row per component")
run.save(figure)
