"""Hyperparameter search by Optuna: the prior, the width of the networks, the learning rate.

Each trial is a training of half of the usual length; what falls behind the median of the others is
ended by a callback. Needs pip install "ppl-vae[search]".
"""

import math
import sys
from functools import partial

import pyro
import torch
from common import load, num_steps, parse_flags, save
from matplotlib import pyplot as plt

from ppl_vae import VAE, evaluation, likelihoods, nets, posteriors, priors
from ppl_vae.training import Callback, fit

try:
    import optuna
except ModuleNotFoundError:
    sys.exit("search.py needs Optuna: pip install 'ppl-vae[search]'")

LATENT, COMPONENTS = 8, 20

flags = parse_flags(__doc__)
train, test = load(flags)
train, held_out = train.split(0.2, seed=flags.seed)
steps, pixels = num_steps(flags, train), math.prod(train.event_shape)
trials = 3 if flags.smoke else 20
every = max(1, steps // 10)


class Pruning(Callback):
    """Reports each validation, and ends a trial that falls behind."""

    def __init__(self, trial: optuna.Trial) -> None:
        self.trial = trial

    def validation(self, state):
        self.trial.report(state.validation["loss"], state.step)
        if self.trial.should_prune():
            raise optuna.TrialPruned(f"after step {state.step}")


def pair_of(choice) -> VAE:
    """Return a new pair; the weights it starts from follow from the seed."""
    pyro.set_rng_seed(flags.seed)
    posterior = posteriors.DiagonalNormal(nets.MLP(pixels, 2 * LATENT, hidden=(choice["width"],)))
    prior = {
        "standard": lambda: priors.StandardNormal(LATENT),
        "mixture": lambda: priors.GaussianMixture(LATENT, COMPONENTS),
        "VampPrior": lambda: priors.VampPrior(posterior, COMPONENTS, event_shape=(pixels,)),
        "flow": lambda: priors.Flow(LATENT, "realnvp", transforms=2, hidden=(32,)),
    }[choice["prior"]]()
    vae = VAE(
        prior=prior,
        posterior=posterior,
        likelihood=likelihoods.Bernoulli(nets.MLP(LATENT, pixels, hidden=(choice["width"],))),
    )
    vae.initialise_from(train, seed=flags.seed)
    return vae.to(flags.device)


def trained(choice, number: int, *callbacks: Callback):
    """Return a trained pair and its result."""
    pair = pair_of(choice)
    fitted = fit(
        pair,
        train,
        steps=number,
        batch_size=100,
        optimizer=partial(torch.optim.Adam, lr=choice["rate"]),
        validation=held_out,
        validate_every=every,
        callbacks=callbacks,
        seed=flags.seed,
    )
    return pair, fitted


def objective(trial: optuna.Trial) -> float:
    """Return the best bound on held-out data, in nats per datum."""
    choice = {
        "prior": trial.suggest_categorical("prior", ["standard", "mixture", "VampPrior", "flow"]),
        "width": trial.suggest_int("width", 32, 256, log=True),
        "rate": trial.suggest_float("rate", 3e-4, 1e-2, log=True),
    }
    return float(trained(choice, max(1, steps // 2), Pruning(trial))[1].validation["loss"].min())


optuna.logging.set_verbosity(optuna.logging.WARNING)
study = optuna.create_study(
    direction="minimize",
    sampler=optuna.samplers.TPESampler(seed=flags.seed),
    pruner=optuna.pruners.MedianPruner(n_startup_trials=4),
)
study.optimize(objective, n_trials=trials)
pruned = sum(trial.state == optuna.trial.TrialState.PRUNED for trial in study.trials)
print(f"{len(study.trials)} trials, {pruned} of them pruned (seed {flags.seed})")
print(f"best: {study.best_value:.2f} nats per datum on held-out data, {study.best_params}")

pair, fitted = trained(study.best_params, steps)
terms = evaluation.elbo_terms(pair, test.binarised(seed=0).tensor(device=flags.device))
print(f"test set of {len(test)}, {fitted.steps} steps: NELBO {terms.nelbo} nats per datum")

figure, ax = plt.subplots(figsize=(6, 4))
for trial in study.trials:
    ended = trial.state == optuna.trial.TrialState.PRUNED
    ax.plot(
        *zip(*sorted(trial.intermediate_values.items()), strict=True), alpha=0.4 if ended else 1
    )
ax.set(xlabel="step", ylabel="held-out NELBO, nats per datum", title="trials; pale: pruned")
save(figure, flags)
