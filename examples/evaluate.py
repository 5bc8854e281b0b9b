"""Evaluate two pairs side by side, as a paper would, and write the report.

Trains a VAE with a standard normal prior and one with a mixture, prints a table of bounds and of
log p(x) by importance sampling and by annealed importance sampling, and writes one HTML page with
the numbers and the pictures, and the numbers as JSON.
"""

import json

import pyro
from common import Run
from matplotlib import pyplot as plt
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam

from ppl_vae import VAE, likelihoods, nets, plots, posteriors, priors
from ppl_vae.report import report

LATENT = 10

run = Run(__doc__)
choices = {
    "standard normal": priors.StandardNormal(LATENT),
    "mixture of 50": priors.GaussianMixture(LATENT, components=50),
}
pairs, history = {}, {}
for name, prior in choices.items():
    pyro.set_rng_seed(run.flags.seed)  # the same initial networks for each prior
    vae = VAE(
        prior=prior,
        posterior=posteriors.DiagonalNormal(nets.MLP(run.pixels, 2 * LATENT)),
        likelihood=likelihoods.Bernoulli(nets.MLP(LATENT, run.pixels)),
    ).to(run.device)
    svi = SVI(vae.model, vae.guide, Adam({"lr": 1e-3}), Trace_ELBO())
    losses = []
    for x, _ in run.batches(name):
        losses.append(svi.step(x) / len(x))  # nats per datum
        run.show(losses[-1])
    every = max(1, len(losses) // 100)  # averages over a hundredth of the steps are seen better
    means = [
        sum(part) / len(part)
        for part in (losses[i : i + every] for i in range(0, len(losses), every))
    ]
    history[name] = [(i * every, mean) for i, mean in enumerate(means)]
    pairs[name] = vae

costs = {"annealed_data": 20, "annealed_temperatures": 300, "gap_data": 20, "gap_steps": 500}
if run.flags.smoke:
    costs = {"annealed_data": 2, "annealed_temperatures": 1, "gap_data": 2, "gap_steps": 5}
    costs |= {"num_samples": 50, "num_particles": (1, 10)}
result = report(
    pairs,
    run.test,
    run.out,
    train=run.train,  # 5,000 of them, for the linear probe and k-NN
    history=history,
    seed=run.flags.seed,
    progress=True,
    **costs,
)
numbers = json.loads(result.numbers.read_text())
print(f"{numbers['data']['number']} of the test set (seed {run.flags.seed}, {run.steps} steps)")
print(result)
print(f"report: {result.page}")

tables = [numbers["pairs"][name]["quantities"] for name in pairs]
# What is of fewer data, such as AIS, is not to be compared with the rest; IWAE-1 is the NELBO.
bounds = [label for label in tables[0] if label.startswith("IWAE-") and label != "IWAE-1"]
shown = ["NELBO", *bounds, next(label for label in tables[0] if label.startswith("IS-"))]
figure, ax = plt.subplots(figsize=(8, 3))
plots.comparison(
    list(pairs),
    {label: [table[label]["value"] for table in tables] for label in shown},
    {label: [table[label]["standard_error"] for table in tables] for label in shown},
    ax=ax,
)
figure.tight_layout()
run.save(figure)
