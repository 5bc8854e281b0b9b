"""Trainings that are killed, again and again, and resumed; run by test_resume.py, in a process.

Imports everything once and forks: each life of a training is a real process with a real signal.
"""

import json
import os
import random
import signal
import sys
import traceback
import warnings
from pathlib import Path

import numpy as np
import pyro
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from ppl_vae import VAE, SemiSupervisedVAE, data, estimators, likelihoods, nets, posteriors, priors
from ppl_vae.data import ResumableLoader
from ppl_vae.io import save_weights
from ppl_vae.training import EarlyStopping, fit

SHADES = torch.randint(17, (180, 64), generator=torch.Generator().manual_seed(0))
# Grey images like the digits, whose library takes a second to import.
IMAGES = data.Dataset(SHADES / 16, torch.arange(180) % 10)
STEPS = 14


def vae():
    """A pair whose networks draw, too."""
    pyro.set_rng_seed(0)
    encoder = nn.Sequential(nn.Linear(64, 16), nn.Tanh(), nn.Dropout(0.2), nn.Linear(16, 4))
    return VAE(
        prior=priors.GaussianMixture(2, components=3),
        posterior=posteriors.DiagonalNormal(encoder),
        likelihood=likelihoods.Bernoulli(nets.MLP(2, 64, hidden=(16,))),
    )


def vamp():
    """A pair whose prior holds the posterior."""
    pyro.set_rng_seed(0)
    posterior = posteriors.DiagonalNormal(nets.MLP(64, 4, hidden=(16,)))
    return VAE(
        prior=priors.VampPrior(posterior, 5, event_shape=(64,), bounds=(0, 1)),
        posterior=posterior,
        likelihood=likelihoods.Bernoulli(nets.MLP(2, 64, hidden=(16,))),
    )


def ssvae():
    pyro.set_rng_seed(0)
    return SemiSupervisedVAE(
        prior=priors.StandardNormal(2),
        classifier=nets.MLP(64, 10, hidden=(8,)),
        posterior=posteriors.DiagonalNormal(nets.MLP(74, 4, hidden=(8,))),
        likelihood=likelihoods.Bernoulli(nets.MLP(12, 64, hidden=(8,))),
        num_classes=10,
        classification_weight=3.0,
    )


def streams():
    return data.SemiSupervised(
        IMAGES, IMAGES.labelled_subset(3), batch_size=20, labelled_batch_size=7
    )


def loader():
    x = IMAGES.draw(torch.arange(180), binarise="threshold")
    return DataLoader(TensorDataset(x), 32, shuffle=True)


class Stream(IterableDataset):
    """Batches by name, which are drawn where they are read."""

    def __iter__(self):
        for _ in range(5):
            yield {"x": IMAGES.draw(torch.randperm(len(IMAGES))[:50])}


SCENARIOS = {
    # Three epochs and a bit, every schedule, validation; checkpoints out of step with all else.
    "everything": lambda: {
        "pair": vae(),
        "data": IMAGES,
        "batch_size": 40,
        "estimator": estimators.ImportanceWeightedELBO(3, "dreg"),
        "beta": estimators.linear_warm_up(9),
        "num_particles": particles,
        "lr_schedule": cosine,
        "clip_norm": 5.0,
        "validation": IMAGES.subset(range(50)),
        "validate_every": 3,
        "stopping": EarlyStopping(4),
    },
    "shared tensors": lambda: {"pair": vamp(), "data": IMAGES, "batch_size": 12},
    "streams": lambda: {"pair": ssvae(), "data": streams()},
    "a DataLoader": lambda: {"pair": vae(), "data": loader()},
    "a stream": lambda: {"pair": vae(), "data": DataLoader(Stream(), batch_size=None)},
}
EVERY = {"rarely": 4, "always": 1}
"""How many steps there are between checkpoints."""
SOME = {"everything": ("always",), "shared tensors": ("always",), "streams": ("rarely",)}
"""What is killed by default; streams and loaders that go on exactly are in other tests, too."""


class Draws:
    """Batches that all generators have a part in."""

    def __iter__(self):
        yield torch.tensor([torch.rand(()), np.random.rand(), random.random()])


def drawn():
    """Return what a loader draws in two epochs."""
    return [x.tolist() for _ in range(2) for (x,) in ResumableLoader(Draws(), seed=5)]


def particles(step):
    return 1 + step % 3


def cosine(optimizer):
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)


def train(scenario, out, steps, checkpoint_every):
    options = SCENARIOS[scenario]()
    pair = options.pop("pair")
    given = options.pop("data")
    fitted = fit(
        pair,
        given,
        steps=steps,
        out=out,
        checkpoint_every=checkpoint_every,
        log_every=3,
        seed=5,
        resume=True,
        progress=False,
        **options,
    )
    save_weights(pair, out / "model.safetensors")
    (out / "stopped").write_text(f"{fitted.stopped} {fitted.steps} {fitted.best_step}")


def life(scenario, out, steps, checkpoint_every, kill_at):
    """Run one process; return the signal that ended it, 0 for none, and its CPU seconds.

    The signal comes at some CPU second, wherever the process is by then: its action is the
    system's own, of which the process notices nothing.
    """
    child = os.fork()
    if child == 0:
        code = 1
        try:
            warnings.simplefilter("error")
            if kill_at is not None:
                signal.signal(signal.SIGPROF, signal.SIG_DFL)
                signal.setitimer(signal.ITIMER_PROF, kill_at)
            train(scenario, out, steps, checkpoint_every)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    _, status, used = os.wait4(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        sys.exit(f"{scenario}: the training failed")
    killed = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    return killed, used.ru_utime + used.ru_stime


def main(scenario, folder, seed, names, kills):
    rng = random.Random(f"{seed} {scenario}")
    killed, whole = life(scenario, folder / "whole", STEPS, 1000, None)
    if killed:
        sys.exit("the uninterrupted run was killed")
    for name in names:
        # Before the first checkpoint or soon after, and anywhere; then no more.
        moments = [rng.uniform(0.1, most) * whole for most in kills]
        lives = [
            life(scenario, folder / name, STEPS, EVERY[name], kill_at)
            for kill_at in (*moments, None)
        ]
        (folder / f"{name}.deaths").write_text(str(sum(killed > 0 for killed, _ in lives)))


if __name__ == "__main__":
    Path(sys.argv[1], "drawn.json").write_text(json.dumps(drawn()))
    everything = sys.argv[3] == "all"
    for scenario in SCENARIOS if everything else SOME:
        names = EVERY if everything else SOME[scenario]
        kills = (0.3, 0.8, 1.0) if everything else (0.4, 1.0)
        main(scenario, Path(sys.argv[1]) / scenario, sys.argv[2], names, kills)
