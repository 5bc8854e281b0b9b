"""What two processes compute, held against what one computes; run by test_distributed.py.

``python two_processes.py FOLDER`` starts two processes by torchrun's launcher. They write what they
found to FOLDER/rank-0.json and FOLDER/rank-1.json. The noise of a datum is the same however the
data are divided: without that there would be nothing to compare.
"""

import json
import os
import signal
import sys
import warnings
from contextlib import contextmanager
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from lightning_fabric import Fabric
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO
from torch import nn
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from torch.distributions import normal

from ppl_vae import VAE, SemiSupervisedVAE, data, estimators, likelihoods, nets, posteriors, priors
from ppl_vae.cli import main as typed
from ppl_vae.data import Part
from ppl_vae.training import Callback, Interrupted, NotFiniteError, fit
from ppl_vae.training.distributed import shard
from ppl_vae.training.objective import TrainingObjective
from ppl_vae.training.schedules import Scheduled

X = torch.rand(40, 64, generator=torch.Generator().manual_seed(0)).round().double()
Y = torch.arange(40) % 10
WORDS = [
    *("fit", "ssvae", "--devices.accelerator", "cpu", "--model.latent_dim", "2", "--quiet"),
    *("--model.posterior.net.hidden", "[8]", "--model.likelihood.net.hidden", "[8]"),
    # All labels seen, and not learned from: the classifier never has a gradient.
    *("--data.labels", "null", "--model.classification_weight", "0", "--data.validation", "0.02"),
    *("--fit.steps", "3", "--fit.checkpoint_every", "3", "--fit.log_every", "1"),
]
"""What is typed for a short training."""


def vae(prior=None):
    pyro.set_rng_seed(0)
    posterior = posteriors.DiagonalNormal(nets.MLP(64, 4, hidden=(8,)))
    return VAE(
        prior=prior(posterior) if prior else priors.GaussianMixture(2, components=3),
        posterior=posterior,
        likelihood=likelihoods.Bernoulli(nets.MLP(2, 64, hidden=(8,))),
    ).double()


def vamp():
    return vae(lambda q: priors.VampPrior(q, 3, event_shape=(64,), bounds=(0, 1)))


def ssvae():
    pyro.set_rng_seed(0)
    return SemiSupervisedVAE(
        prior=priors.StandardNormal(2),
        classifier=nets.MLP(64, 10, hidden=(8,)),
        posterior=posteriors.DiagonalNormal(nets.MLP(74, 4, hidden=(8,))),
        likelihood=likelihoods.Bernoulli(nets.MLP(12, 64, hidden=(8,))),
        num_classes=10,
        classification_weight=2.0,
    ).double()


class Subsampled(nn.Module):
    """A program of a user's own, with N/B and a latent outside of the plate."""

    def __init__(self):
        super().__init__()
        self.model, self.guide = SubsampledModel(), SubsampledGuide()


class SubsampledModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.ones(64, dtype=torch.float64))

    def forward(self, x):
        shift = pyro.sample("shift", dist.Normal(self.loc, 2.0).to_event(1))
        with pyro.plate("data", 1000, subsample_size=len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(64).double(), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(shift + z, 1.0).to_event(1), obs=x)


class SubsampledGuide(nn.Module):
    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(64, dtype=torch.float64))
        self.slope = nn.Parameter(torch.tensor(0.5, dtype=torch.float64))

    def forward(self, x):
        pyro.sample("shift", dist.Delta(self.loc, event_dim=1))
        with pyro.plate("data", 1000, subsample_size=len(x)):
            pyro.sample("z", dist.Normal(self.slope * x, 0.5).to_event(1))


def one(x):
    return [Part("data", (x,), 1.0)]


def streams(unlabelled, labelled):
    return [
        Part("unlabelled", (X[:unlabelled],), 1.0),
        Part("labelled", (X[-labelled:], Y[-labelled:]), 0.3),
    ]


iw = estimators.ImportanceWeightedELBO
GRADIENTS = {
    "the ELBO": (vae, Trace_ELBO, one(X[:8])),
    "an odd batch": (vae, Trace_ELBO, one(X[:7])),
    "a batch of one": (vae, Trace_ELBO, one(X[:1])),
    "a shared posterior": (vamp, Trace_ELBO, one(X[:7])),
    "an analytic KL": (
        lambda: vae(lambda q: priors.StandardNormal(2)),
        TraceMeanField_ELBO,
        one(X[:7]),
    ),
    "importance weights": (vae, lambda: iw(5), one(X[:7])),
    "doubly reparameterised": (vae, lambda: iw(5, "dreg"), one(X[:7])),
    "sticking the landing": (vae, lambda: iw(5, "stl"), one(X[:7])),
    "β": (vae, lambda: estimators.KLWeighted(iw(5), 0.3), one(X[:7])),
    "N/B": (Subsampled, Trace_ELBO, one(X[:7])),
    "streams": (ssvae, lambda: iw(1), streams(7, 4)),
    "streams, importance weights": (ssvae, lambda: iw(3), streams(7, 4)),
    "a stream of one": (ssvae, lambda: iw(1), streams(6, 1)),
    "labels enumerated by Pyro": (
        ssvae,
        lambda: TraceEnum_ELBO(max_plate_nesting=1),
        one(X[:7]),
    ),
}


@contextmanager
def noise(rank, processes, sizes):
    """Give each datum its own noise, the same wherever it is."""

    def standard_normal(shape, dtype, device):
        here = {len(range(rank, size, processes)) or 1: size for size in sizes}
        generator = torch.Generator().manual_seed(len(shape))
        if len(shape) == 1:  # outside of the plate: the same for all
            return torch.randn(shape, dtype=dtype, generator=generator)
        if shape[-2] not in here:  # a first look at a whole batch, of which nothing remains
            return torch.randn(shape, dtype=dtype, generator=generator)
        joint = torch.Size([*shape[:-2], here[shape[-2]], shape[-1]])
        eps = torch.randn(joint, dtype=torch.float64, generator=generator)
        mine = eps[..., rank::processes, :]
        return (mine if mine.shape[-2] else eps[..., :1, :]).to(dtype)

    before = normal._standard_normal
    normal._standard_normal = standard_normal
    try:
        yield
    finally:
        normal._standard_normal = before


def gradient(name, rank=0, processes=1, fabric=None):
    """Return the objective's value, averaged, and its gradient."""
    make, estimator, parts = GRADIENTS[name]
    share = shard(parts, rank, processes)
    with noise(rank, processes, share.sizes):
        objective = TrainingObjective(make(), Scheduled(estimator()), share.parts[0])
        stepper = fabric.setup_module(objective) if fabric else objective
        loss, each = stepper(share)
        (fabric.backward if fabric else torch.Tensor.backward)(loss)
    loss = loss.detach()
    if fabric:
        loss, each = fabric.all_reduce(loss), fabric.all_reduce(each)
    return loss, each, {n: p.grad for n, p in objective.named_parameters()}


def distance(left, right):
    """Return the largest difference of two gradients; infinite if one lacks a parameter."""
    missing = {n for n in left if (left[n] is None) != (right[n] is None)}
    if missing:
        return float("inf")
    return max((left[n] - right[n]).abs().max().item() for n in left if left[n] is not None)


def train(folder, steps, fabric=None, divided=True, **options):
    """Train on batches of 7 of 40 data, the last one of 5; with dropout where draws may differ."""
    pair = vae()
    process = (fabric.global_rank, fabric.world_size) if fabric else (0, 1)
    known = noise(*process, (7, 5, 25)) if divided else warnings.catch_warnings()
    with known:
        fitted = fit(
            pair,
            data.Dataset(X),
            batch_size=7,
            steps=steps,
            estimator=iw(3, "dreg"),
            out=folder,
            checkpoint_every=4,
            log_every=3,
            validation=X[:25] if divided else None,
            validate_every=5,
            validation_particles=2,
            resume=True,
            progress=False,
            fabric=fabric,
            **options,
        )
    return pair, fitted


class Faulty(nn.Module):
    """A network that fails in one process alone, at its third batch."""

    def __init__(self, net, what, here):
        super().__init__()
        self.net, self.what, self.here, self.calls = net, what, here, 0

    def forward(self, x):
        out = self.net(x)
        self.calls += self.training and torch.is_grad_enabled()
        if not self.here or self.calls < 5 or self.training == (self.what == "validation"):
            return out
        if self.what == "nan":
            return out * torch.nan
        if self.what not in ("error", "validation"):
            return out
        raise ZeroDivisionError("of one process alone")


FAULTS = {
    "error": (ZeroDivisionError, RuntimeError),
    "nan": (NotFiniteError, NotFiniteError),
    "infinite loss": (NotFiniteError, NotFiniteError),
    "validation": (ZeroDivisionError, RuntimeError),
    "disk": (OSError, RuntimeError),
    "signal": (Interrupted, Interrupted),
}
"""What is raised where it happens, and in the other process."""


def fault(what, rank, fabric, folder):
    """Return what a training raises in this process, and after how many steps."""
    pair = vae()
    where = 0 if what == "disk" else 1
    net = Faulty(pair.posterior.net, what, rank == where)
    pair = pair.replace(
        posterior=posteriors.DiagonalNormal(net), prior=priors.StandardNormal(2)
    ).double()
    net.calls = 0
    options = {"out": folder / what, "checkpoint_every": 2}
    if what == "disk" and rank == where:
        (folder / what).mkdir()
        options["lr_schedule"] = lambda o: FullDisk(o, folder / what)
    elif what == "disk":
        options["lr_schedule"] = lambda o: torch.optim.lr_scheduler.ConstantLR(o)
    if what == "infinite loss":
        options["estimator"] = Infinite(net)
    if what == "signal":
        options["num_particles"] = lambda step: (
            (os.kill(os.getpid(), signal.SIGTERM) if net.here and step == 3 else None) or 1
        )
    if what == "validation":
        options["validation"], options["validate_every"] = X[:7], 3
    try:
        fit(
            pair,
            X,
            batch_size=7,
            steps=20,
            log_every=2,
            progress=False,
            fabric=fabric,
            **options,
        )
    except (Exception, KeyboardInterrupt) as error:
        return [type(error).__name__, str(error)]
    return ["nothing", ""]


class Infinite(Trace_ELBO):
    """An estimator whose loss is infinite in one process, with a finite gradient."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def differentiable_loss(self, *args):
        loss = super().differentiable_loss(*args)
        return loss + torch.inf if self.net.here and self.net.calls >= 5 else loss


class FullDisk(torch.optim.lr_scheduler.ConstantLR):
    """A schedule at whose third step nothing can be written any more."""

    def __init__(self, optimizer, folder):
        super().__init__(optimizer)
        self._folder = folder

    def step(self):
        super().step()
        if self.last_epoch == 3:
            (self._folder / "checkpoints").rename(self._folder / "gone")
            (self._folder / "checkpoints").touch()

    def state_dict(self):
        return {k: v for k, v in super().state_dict().items() if k != "_folder"}


def damaged(rank, fabric, folder):
    """Return the history of a training that resumes where the newest checkpoint is damaged."""
    train(folder, 8, fabric, divided=False)
    if rank == 0:
        (folder / "checkpoints" / "step-000000008" / "state.safetensors").write_bytes(b"cut")
    fabric.barrier()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pair, _ = train(folder, 10, fabric, divided=False)
    return pair


class Ending(Callback):
    """Stops the training after step 4, or fails there."""

    def __init__(self, fails=False):
        self.fails, self.seen = fails, []

    def step(self, state):
        self.seen.append(state.step)
        torch.rand(1)
        if state.step == 4:
            if self.fails:
                raise ValueError("enough")
            state.stop()


def called(fabric, folder):
    """Return what callbacks saw, how trainings ended that one stopped, and one that failed."""
    stopping, failing = Ending(), Ending(fails=True)
    _, fitted = train(folder / "stopped", 10, fabric, divided=False, callbacks=[stopping])
    pair, _ = train(folder / "stopped", 10, fabric, divided=False)
    try:
        train(folder / "failed", 10, fabric, divided=False, callbacks=[failing])
    except (RuntimeError, ValueError) as error:
        ended = [type(error).__name__, str(error)]
    return pair, [stopping.seen, failing.seen, fitted.steps, fitted.stopped, *ended]


def main(folder):
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", message=".*find_unused_parameters.*")
    folder = Path(folder)
    fabric = Fabric(
        accelerator="cpu",
        devices=2,
        strategy="ddp_find_unused_parameters_true" if os.environ.get("LOCAL_RANK") else "auto",
    )
    fabric.launch()
    rank = fabric.global_rank
    found = {"gradients": {}, "losses": {}}
    for name in GRADIENTS:
        loss, each, mine = gradient(name, rank, 2, fabric)
        whole, of_parts, joint = gradient(name)
        found["gradients"][name] = distance(mine, joint)
        found["losses"][name] = max(
            (loss - whole).abs().item(), (each - of_parts).abs().max().item()
        )
        found.setdefault("sizes", {})[name] = max(
            g.abs().max().item() for g in joint.values() if g is not None
        )

    train(folder / "two", 14, fabric)  # the test compares

    # Draws of their own in each process: resuming goes on with each one's.
    straight, _ = train(folder / "straight", 10, fabric, divided=False)
    train(folder / "broken", 6, fabric, divided=False)
    resumed, _ = train(folder / "broken", 10, fabric, divided=False)
    found["resumed"] = distance(dict(straight.named_parameters()), dict(resumed.named_parameters()))
    found_by_itself, _ = train(folder / "by-itself", 10, divided=False)  # no fabric is given
    found["by itself"] = distance(
        dict(straight.named_parameters()), dict(found_by_itself.named_parameters())
    )
    # The training starts what it is given; every parameter has a gradient in every step.
    unlaunched = Fabric(accelerator="cpu", devices=2, strategy="ddp")
    again = damaged(rank, unlaunched, folder / "damaged")
    found["damaged"] = distance(dict(straight.named_parameters()), dict(again.named_parameters()))
    found["faults"] = {what: fault(what, rank, fabric, folder) for what in FAULTS}
    after, found["called"] = called(fabric, folder)
    found["after a stop"] = distance(
        dict(straight.named_parameters()), dict(after.named_parameters())
    )
    other = folder if rank == 0 else folder / "another"
    try:
        train(other / "straight", 12, fabric, divided=False)
    except RuntimeError as error:
        found["another folder"] = str(error)
    found["typed"] = typed([*WORDS, "--out", str(folder / "typed")])
    (folder / f"rank-{rank}.json").write_text(json.dumps(found))
    fabric.barrier()  # one that leaves early takes the connection away from the other
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    # As torchrun does, but by a fork: everything is imported once, the digits' library included.
    data.load("digits")
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=2,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        start_method="fork",
    )
    elastic_launch(config, main)(sys.argv[1])
