"""Trains the pairs of ``ppl_vae.zoo`` again, by the commands on their cards: minutes on two cores.

``python benchmarks/zoo.py`` trains all, ``python benchmarks/zoo.py digits-gmvae`` one. Runs are in
runs/zoo; the trained pair and its card go to ppl_vae/zoo/pairs.
"""

import json
import platform
import shlex
import shutil
import sys
import time
from pathlib import Path

import pyro
import torch

from ppl_vae import __version__, io, zoo
from ppl_vae.cli import main
from ppl_vae.io.atomic import write_file

WIDTHS = "--model.posterior.net.hidden [128,128] --model.likelihood.net.hidden [128,128]"
DATA = (
    "the bundled digits, 8x8, grey values drawn as 0 or 1 at each step: 1,293 of the 1,437 "
    "training scans, and 144 for validation"
)
STOPPING = "--fit.validate-every 200 --fit.stopping.patience 10"


def command(words: str, steps: int, *more: str) -> str:
    """Return the command of a training."""
    start, lengths = f"ppl-vae fit {words}", f"--batch-size 100 --steps {steps} --seed 0"
    return " ".join([start, WIDTHS, lengths, *more])


RECIPES = {
    "digits-vae": (
        "A VAE with two latents and a standard normal prior.",
        command("vae --data digits --latent-dim 2", 6000, STOPPING),
    ),
    "digits-gmvae": (
        "A VAE with two latents and a mixture of 20 normals as the prior.",
        command("gmvae --data digits --latent-dim 2 --prior.components 20", 6000, STOPPING),
    ),
    "digits-vampprior": (
        "A VAE with two latents and a VampPrior of 50 pseudo-inputs.",
        command(
            "vae --data digits --latent-dim 2 --prior VampPrior --prior.pseudo-inputs 50",
            6000,
            STOPPING,
        ),
    ),
    "digits-flow": (
        "A VAE with two latents and a neural spline flow as the prior.",
        command(
            "vae --data digits --latent-dim 2 --prior Flow --prior.transforms 3 "
            "--prior.hidden [32,32]",
            3000,
            STOPPING,
        ),
    ),
    "digits-ssvae": (
        "Kingma's M2 with 8 latents, of 100 labels: ten of each class.",
        command(
            "ssvae --data digits --latent-dim 8 --labels 100 --model.classifier.hidden [128,128]",
            2400,
        ),
    ),
    "digits-cvae": (
        "A conditional VAE with 4 latents, given the class.",
        command("cvae --data digits --latent-dim 4", 6000, STOPPING),
    ),
}
"""What each pair is, and the command that trains it."""


def train(name: str) -> None:
    """Train a pair, and write it with its card."""
    description, typed = RECIPES[name]
    run = Path("runs", "zoo", name)
    shutil.rmtree(run, ignore_errors=True)
    torch.manual_seed(0)
    started = time.perf_counter()
    code = main([*shlex.split(typed)[1:], "--out", str(run), "--quiet"])
    if code:
        sys.exit(code)
    seconds = time.perf_counter() - started
    pair = io.load(run / "model").eval()
    folder = Path(zoo.__file__).parent / "pairs" / name
    io.save(pair, folder)
    card = {
        "name": name,
        "description": description,
        "data": DATA,
        "command": typed,
        "numbers": zoo.evaluated(pair),
        "numbers_are": zoo.NUMBERS,
        "trained_with": {
            "ppl_vae": __version__,
            "torch": torch.__version__.partition("+")[0],
            "pyro": pyro.__version__,
            "python": platform.python_version(),
        },
    }
    write_file(folder / "card.json", json.dumps(card, indent=1) + "\n")
    print(f"{name}: {seconds:.0f} s, {card['numbers']}")


if __name__ == "__main__":
    for name in sys.argv[1:] or RECIPES:
        train(name)
