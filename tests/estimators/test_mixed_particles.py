"""Programs that sum over particles, index them or share one are refused, and no others are."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import vae
from torch import nn

from ppl_vae import evaluation
from ppl_vae.estimators import AnalyticKLELBO, ImportanceWeightedELBO
from ppl_vae.estimators.log_weights import weighted_particles
from ppl_vae.estimators.particle_check import MixedParticlesError

B, PARTS = 8, 2
X = torch.randn(B, generator=torch.Generator().manual_seed(0))

LOSSES = {
    "sums over the leftmost dimension": lambda z: z.sum(0),
    "takes the mean over it": lambda z: z.mean(0),
    "takes its maximum": lambda z: z.amax(0),
    "takes the first": lambda z: z[0],
    "takes the last": lambda z: z[-1],
    "adds those before": lambda z: z.cumsum(0),
    "normalises over it": lambda z: z.softmax(0),
    "subtracts its mean": lambda z: z - z.mean(0, keepdim=True),
    "reverses it": lambda z: z.flip(0),
    "shuffles by reshaping": lambda z: z.transpose(0, -1).reshape(z.shape),
}


def guide(x):
    with pyro.plate("data", B, dim=-1), pyro.plate("parts", PARTS, dim=-2):
        pyro.sample("z", dist.Normal(x, 1.0))


def loses_in(where, lose):
    """Programs in which z of an inner plate enters another site after ``lose``."""

    def model(x):
        with pyro.plate("data", B, dim=-1), pyro.plate("parts", PARTS, dim=-2):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            if "u" in where:
                pyro.sample("u", dist.Normal(0.0, 1.0))
            if where == "likelihood":
                pyro.sample("x", dist.Normal(lose(z), 1.0), obs=x)
            elif where == "factor":
                pyro.factor("f", -(lose(z) ** 2))
            elif where == "mask":
                with pyro.poutine.mask(mask=lose(z) > 0.2):
                    pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    def program(x):
        with pyro.plate("data", B, dim=-1), pyro.plate("parts", PARTS, dim=-2):
            z = pyro.sample("z", dist.Normal(x, 1.0))
            if where == "guide's u":
                pyro.sample("u", dist.Normal(lose(z), 1.0))

    return model, program


@pytest.mark.parametrize("where", ["likelihood", "factor", "mask", "guide's u"])
@pytest.mark.parametrize("lose", LOSSES.values(), ids=LOSSES)
def test_a_program_that_mixes_particles_is_refused(where, lose):
    site = {"likelihood": "x", "factor": "f", "mask": "x", "guide's u": "u"}[where]
    model, program = loses_in(where, lose)
    with pytest.raises(
        MixedParticlesError, match=f"site '{site}'.*count dimensions from the right"
    ):
        ImportanceWeightedELBO(7).loss(model, program, X)
    assert ImportanceWeightedELBO(1).loss(model, program, X) > 0  # nothing to mix


@pytest.mark.parametrize("gradient", ["dreg", "wake", "loo", "disarm"])
def test_whatever_the_gradient(gradient):
    model, program = loses_in("likelihood", lambda z: z.sum(0))
    with pytest.raises(MixedParticlesError):
        ImportanceWeightedELBO(2, gradient).differentiable_loss(model, program, X)
    with pytest.raises(MixedParticlesError):
        ImportanceWeightedELBO(2, gradient, alpha=1.0 if gradient != "wake" else 0.0).loss(
            model, program, X
        )


def test_by_every_estimator_and_evaluation():
    model, program = loses_in("likelihood", lambda z: z.sum(0))

    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.model, self.guide = Program(model), Program(program)

    class Program(nn.Module):
        def __init__(self, fn):
            super().__init__()
            self.fn = fn

        def forward(self, x):
            return self.fn(x)

    for call in (
        lambda: AnalyticKLELBO(3).loss(model, program, X),
        lambda: ImportanceWeightedELBO(3).log_weights(model, program, X),
        lambda: ImportanceWeightedELBO(3, chunk_size=1).loss(model, program, X),
        lambda: weighted_particles(model, program, X, num_particles=3),
        lambda: evaluation.log_likelihood(Pair(), X, num_samples=10),
        lambda: evaluation.importance_bounds(Pair(), X, num_particles=[3]),
    ):
        with pytest.raises(MixedParticlesError, match="site 'x' of the model"):
            call()


def test_the_right_dimension_is_taken():
    def model(x):
        data = pyro.plate("data", B, dim=-1)
        with data, pyro.plate("parts", PARTS, dim=-2):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with data:
            pyro.sample("x", dist.Normal(z.sum(-2, keepdim=True), 1.0), obs=x)

    assert ImportanceWeightedELBO(5).loss(model, guide, X) > 0


def test_batch_normalisation_and_dropout_mix_only_in_training():
    noisy = nn.Sequential(
        nn.Unflatten(-1, (B, 1)), nn.Flatten(0, -2), nn.BatchNorm1d(1), nn.Dropout()
    )

    def model(x):
        with pyro.plate("data", B, dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(B), 1.0))
            pyro.sample("x", dist.Normal(noisy(z).reshape(z.shape), 1.0), obs=x)

    def of_z(x):
        with pyro.plate("data", B, dim=-1):
            pyro.sample("z", dist.Normal(x, 1.0))

    steps = []
    for k in (1, 3):
        noisy[2].reset_running_stats()
        ImportanceWeightedELBO(k, max_plate_nesting=1).loss(model, of_z, X)
        steps.append(int(noisy[2].num_batches_tracked))
        assert all(part.training for part in noisy.modules())
    assert steps == [1, 1]


def test_the_check_draws_nothing_and_is_made_once_for_each_kind_of_arguments():
    pair, x = vae(), torch.zeros(4, 6)
    calls = []
    handle = pair.model.register_forward_hook(lambda *_: calls.append(1))
    estimator = ImportanceWeightedELBO(3, max_plate_nesting=1)
    found = []
    for _ in range(3):
        torch.manual_seed(0)
        found.append((estimator.loss(pair.model, pair.guide, x), torch.rand(())))
        calls.append("|")
    handle.remove()
    assert found[0] == found[1] == found[2]
    assert [len(run) for run in "".join(map(str, calls)).split("|")] == [4, 1, 1, 0]


def test_a_program_that_counts_its_calls_cannot_be_checked():
    calls = []

    def model(x):
        calls.append(1)
        with pyro.plate("data", B):
            z = pyro.sample("z", dist.Normal(torch.zeros(B), 1.0))
            pyro.sample("x", dist.Normal(len(calls) * z, 1.0), obs=x)

    def of_z(x):
        with pyro.plate("data", B):
            pyro.sample("z", dist.Normal(x, 1.0))

    assert ImportanceWeightedELBO(3).loss(model, of_z, X) > 0
