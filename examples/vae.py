"""A variational autoencoder: standard normal prior, Bernoulli likelihood, Trace_ELBO.

With --dataset mnist these are the networks and the schedule of Stanford CS236, problem set 2
(784-300-300 ELU, z = 10, Adam 1e-3, batch 100, 20,000 steps).
"""

import math

from common import load, num_steps, parse_flags, save, take
from matplotlib import pyplot as plt
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam
from tqdm import tqdm

from ppl_vae import VAE, evaluation, likelihoods, nets, plots, posteriors, priors

LATENT = 10

flags = parse_flags(__doc__)
train, test = load(flags)
steps, pixels = num_steps(flags, train), math.prod(train.event_shape)
batches = train.to(flags.device).batches(100, binarise="dynamic", seed=flags.seed)
x_test = test.binarised(seed=0).tensor(device=flags.device)
vae = VAE(
    prior=priors.StandardNormal(LATENT),
    posterior=posteriors.DiagonalNormal(nets.MLP(pixels, 2 * LATENT)),
    likelihood=likelihoods.Bernoulli(nets.MLP(LATENT, pixels)),
).to(flags.device)

svi = SVI(vae.model, vae.guide, Adam({"lr": 1e-3}), Trace_ELBO())
bar = tqdm(take(batches, steps), "training", steps, unit="step")
for x, _ in bar:
    loss = svi.step(x)  # nats per batch
    bar.set_postfix_str(f"loss {loss / len(x):.2f} nats", refresh=False)

terms = evaluation.elbo_terms(vae, x_test)
print(f"test set of {len(x_test)}, nats per datum (seed {flags.seed}, {steps} steps)")
print(f"NELBO {terms.nelbo}   KL {terms.kl}   reconstruction {terms.reconstruction}")

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 5))
plots.images(vae.generate(100, mean=True).cpu(), columns=10, ax=left).set_title("samples")
x = x_test[:50]
plots.reconstructions(x.cpu(), vae.reconstruct(x).cpu(), ax=right).set_title("reconstructions")
save(figure, flags)
