"""Evaluate two pairs side by side and write a report.

Trains VAEs with a standard normal and a mixture prior, prints a table of bounds and of log p(x) by
importance sampling and by annealed importance sampling, and writes an HTML page with numbers and
figures.
"""

import math
import re
import statistics

import pyro
from common import load, num_steps, parse_flags, save, take
from matplotlib import pyplot as plt
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam
from tqdm import tqdm

from ppl_vae import VAE, likelihoods, nets, plots, posteriors, priors
from ppl_vae.report import report

LATENT = 10

flags = parse_flags(__doc__)
train, test = load(flags)
steps, pixels = num_steps(flags, train), math.prod(train.event_shape)
choices = {
    "standard normal": priors.StandardNormal(LATENT),
    "mixture of 50": priors.GaussianMixture(LATENT, components=50),
}
pairs, history = {}, {}
for name, prior in choices.items():
    pyro.set_rng_seed(flags.seed)  # the same initial networks for each prior
    vae = VAE(
        prior=prior,
        posterior=posteriors.DiagonalNormal(nets.MLP(pixels, 2 * LATENT)),
        likelihood=likelihoods.Bernoulli(nets.MLP(LATENT, pixels)),
    ).to(flags.device)
    svi = SVI(vae.model, vae.guide, Adam({"lr": 1e-3}), Trace_ELBO())
    losses = []
    batches = train.to(flags.device).batches(100, binarise="dynamic", seed=flags.seed)
    bar = tqdm(take(batches, steps), name, steps, unit="step")
    for x, _ in bar:
        losses.append(svi.step(x) / len(x))  # nats per datum
        bar.set_postfix_str(f"loss {losses[-1]:.2f} nats", refresh=False)
    window = max(1, steps // 100)  # smooth the curve
    starts = range(0, steps, window)
    history[name] = [(i, statistics.mean(losses[i : i + window])) for i in starts]
    pairs[name] = vae

costs = {"annealed_data": 20, "annealed_temperatures": 300, "gap_data": 20, "gap_steps": 500}
if flags.smoke:
    costs = {"annealed_data": 2, "annealed_temperatures": 1, "gap_data": 2, "gap_steps": 5}
    costs |= {"num_samples": 50, "num_particles": (1, 10)}
result = report(
    pairs,
    test,
    flags.out,
    train=train,  # a random 5,000 of them, for the linear probe and k-NN
    history=history,
    seed=flags.seed,
    progress=True,
    **costs,
)
print(f"{result.results['data']['number']} of the test set (seed {flags.seed}, {steps} steps)")
print(result)
print(f"report: {result.page}")

tables = [result.results["pairs"][name]["quantities"] for name in pairs]
# Without AIS, which is of fewer data, and IWAE-1, which is the NELBO.
shown = [label for label in tables[0] if re.fullmatch(r"NELBO|IWAE-\d\d+|IS-\d+", label)]
figure, ax = plt.subplots(figsize=(8, 3))
plots.comparison(
    list(pairs),
    {label: [table[label]["value"] for table in tables] for label in shown},
    {label: [table[label]["standard_error"] for table in tables] for label in shown},
    ax=ax,
)
figure.tight_layout()
save(figure, flags)
