"""A VAE whose latents are bits, trained with three gradients.

Draws of bits have no path for a gradient. DisARM and the leave-one-out baseline are unbiased;
straight-through draws of a relaxation are not, but have little noise. The bound that is followed is
that of the discrete model for all three.
"""

import math
from functools import partial

import torch
from common import load, num_steps, parse_flags, save
from matplotlib import pyplot as plt

from ppl_vae import VAE, estimators, evaluation, likelihoods, nets, posteriors, priors
from ppl_vae.training import fit

BITS = 50

flags = parse_flags(__doc__)
train, test = load(flags)
steps, pixels = num_steps(flags, train), math.prod(train.event_shape)
elbo = estimators.ImportanceWeightedELBO
figure, ax = plt.subplots()
print(f"test set of {len(test)}, nats per datum (seed {flags.seed}, {steps} steps)")
for name, posterior, estimator in (
    ("DisARM", posteriors.Bernoulli, elbo(1, gradient="disarm")),
    ("leave-one-out", posteriors.Bernoulli, elbo(2, gradient="loo", alpha=1)),
    ("straight-through", posteriors.RelaxedBernoulli, elbo(1)),
):
    torch.manual_seed(flags.seed)  # the same initial weights for all
    vae = VAE(
        prior=priors.Bernoulli(BITS, learn_logits=True),
        posterior=posterior(nets.MLP(pixels, BITS)),
        likelihood=likelihoods.Bernoulli(nets.MLP(BITS, pixels)),
    ).to(flags.device)
    result = fit(
        vae,
        train,
        steps=steps,
        estimator=estimator,
        optimizer=partial(torch.optim.Adam, lr=1e-3),
        validation=test.binarised(seed=0),
        validate_every=max(1, steps // 20),
        seed=flags.seed,
    )
    print(f"{name:17}", evaluation.elbo_terms(vae, test).nelbo)
    ax.plot(result.validation["step"], result.validation["loss"], marker=".", label=name)

ax.set(xlabel="steps", ylabel="NELBO of the test set, nats per datum")
ax.legend()
save(figure, flags)
