"""A variational autoencoder: standard normal prior, Bernoulli likelihood, Trace_ELBO.

With --dataset mnist these are the networks and the schedule of Stanford CS236, problem set 2
(784-300-300 ELU, z = 10, Adam 1e-3, batch 100, 20,000 steps).
"""

from common import Run
from matplotlib import pyplot as plt
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam

from ppl_vae import VAE, evaluation, likelihoods, nets, plots, posteriors, priors

LATENT = 10

run = Run(__doc__)
vae = VAE(
    prior=priors.StandardNormal(LATENT),
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

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 5))
plots.images(vae.generate(100, mean=True).cpu(), columns=10, ax=left).set_title("samples")
x = run.test_x[:50]
plots.reconstructions(x.cpu(), vae.reconstruct(x).cpu(), ax=right).set_title("reconstructions")
run.save(figure)
