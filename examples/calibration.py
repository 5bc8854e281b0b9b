"""Is q(z | x) the posterior? Simulation-based calibration of a trained VAE's guide.

Trains two VAEs that differ in the family of q, and tests each on data that it generates itself:
ranks of true latents among draws of q, and the coverage of q's regions. Nothing is refitted. Then
it asks whether the model generates data like those held out.
"""

import math

import pyro
from common import load, num_steps, parse_flags, save, take
from matplotlib import pyplot as plt
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam
from tqdm import tqdm

from ppl_vae import VAE, evaluation, likelihoods, nets, plots, posteriors, priors

LATENT = 4

flags = parse_flags(__doc__)
train, test = load(flags)
steps, pixels = num_steps(flags, train), math.prod(train.event_shape)
full_rank = posteriors.FullRankNormal.net_features(LATENT)
families = {
    "diagonal normal": lambda: posteriors.DiagonalNormal(nets.MLP(pixels, 2 * LATENT)),
    "full-rank normal": lambda: posteriors.FullRankNormal(nets.MLP(pixels, full_rank)),
}
figure, axes = plt.subplots(len(families), 2, figsize=(13, 9), width_ratios=(2, 1))
for (name, posterior), (left, right) in zip(families.items(), axes, strict=True):
    pyro.set_rng_seed(flags.seed)
    vae = VAE(
        prior=priors.StandardNormal(LATENT),
        posterior=posterior(),
        likelihood=likelihoods.Bernoulli(nets.MLP(LATENT, pixels)),
    ).to(flags.device)
    svi = SVI(vae.model, vae.guide, Adam({"lr": 1e-3}), Trace_ELBO())
    batches = train.to(flags.device).batches(100, binarise="dynamic", seed=flags.seed)
    bar = tqdm(take(batches, steps), name, steps, unit="step")
    for x, _ in bar:
        loss = svi.step(x) / len(x)  # nats per datum
        bar.set_postfix_str(f"loss {loss:.2f} nats", refresh=False)

    found = evaluation.calibration(
        vae, num_simulations=50 if flags.smoke else 2000, seed=flags.seed
    )
    print(f"q(z|x) a {name} (seed {flags.seed}, {steps} steps)")
    print(found)
    checks = evaluation.predictive_checks(
        vae, test.to(flags.device), num_draws=50 if flags.smoke else 200, seed=flags.seed
    )
    print(f"statistics of {len(test)} test data\n{checks}\n")
    band = found.lower, found.upper
    words = f"{name}: {found.words or found.verdict}"
    plots.rank_ecdf(found.points, found.ecdf, *band, names=found.names, words=words, ax=left)
    plots.expected_coverage(found.points, found.expected_coverage, *band, ax=right)

figure.tight_layout()
save(figure, flags)
