"""Terms that only training has are in what is minimised, and in nothing that is evaluated.

The truth is the same pair without the terms: for the SemiSupervisedVAE that with a weight of 0,
whose log p(x, y) is exact in the linear-Gaussian pair below.
"""

import functools
import math

import pyro
import pytest
import torch
from evaluated import Programs, unchecked
from pyro import distributions as dist
from torch import nn

from ppl_vae import SemiSupervisedVAE, evaluation, likelihoods, nets, posteriors, priors
from ppl_vae.estimators import ImportanceWeightedELBO
from ppl_vae.evaluation import annealing
from ppl_vae.training import fit

D, C = 3, 2
MARK = {"training_term": True}
pytestmark = unchecked


def labelled(weight, seed=0):
    """Return a pair whose p(x, y) is a normal density times 1/C, and data of it."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        pair = SemiSupervisedVAE(
            prior=priors.StandardNormal(1),
            classifier=nets.MLP(D, C, hidden=(4,)),
            posterior=posteriors.DiagonalNormal(nets.MLP(D + C, 2, hidden=(4,))),
            likelihood=likelihoods.Normal(nn.Linear(1 + C, D), scale=1.0),
            num_classes=C,
            classification_weight=weight,
        )
        x = torch.randn(12, D)
    y = torch.arange(12) % C
    return pair, x, y


def exact(pair, x, y):
    """log p(x, y), shape (data,)."""
    decoder = pair.likelihood.net
    slope, of_y = decoder.weight[:, :1], decoder.weight[:, 1:].T[y]
    covariance = torch.eye(D) + slope @ slope.T
    p_x = dist.MultivariateNormal((of_y + decoder.bias).detach(), covariance.detach())
    return p_x.log_prob(x) - math.log(C)


def numbers(result):
    """Return all the numbers of a result, whatever it is."""
    if isinstance(result, dict):
        return [n for value in result.values() for n in numbers(value)]
    if isinstance(result, torch.Tensor):
        return [result]
    if hasattr(result, "__dataclass_fields__"):
        return [n for name in result.__dataclass_fields__ for n in numbers(getattr(result, name))]
    return [torch.tensor(result)] if isinstance(result, (int, float)) else []


@pytest.fixture(autouse=True)
def little_tuning(monkeypatch):
    """Tune the step sizes of annealing in few transitions."""
    monkeypatch.setattr(annealing, "_FEWEST_TUNED", 7)
    monkeypatch.setattr(annealing, "_WARM_UP", 8)


def validation(pair, x, y):
    rate = functools.partial(torch.optim.SGD, lr=0.0)
    fitted = fit(
        pair, [(x, y)], steps=1, validation=(x, y), validate_every=1, optimizer=rate, progress=False
    )
    return torch.tensor(fitted.validation["loss"])


EVALUATED = {
    "terms": lambda p, x, y: evaluation.elbo_terms(p, x, y, num_samples=5),
    "bounds": lambda p, x, y: evaluation.importance_bounds(p, x, y, num_particles=(1, 5)),
    "likelihood": lambda p, x, y: evaluation.log_likelihood(p, x, y, num_samples=50),
    "annealing": lambda p, x, y: evaluation.annealed_importance_sampling(
        p, x, y, num_temperatures=3, num_chains=2, leapfrog_steps=1
    ),
    "gap": lambda p, x, y: evaluation.inference_gap(
        p, x, y, steps=3, num_samples=5, importance_samples=50
    ),
    "decomposition": lambda p, x, y: evaluation.kl_decomposition(p, x, y),
    "validation": validation,
    "imputation": lambda p, x, y: p.impute(x, x > 0, y, num_particles=20, mean=True),
}


@pytest.mark.filterwarnings("ignore:.*Pareto")
@pytest.mark.parametrize("name", EVALUATED)
def test_evaluation_is_that_of_the_pair_without_the_term(name):
    found = []
    for alpha in (0.0, 3.0):
        pair, x, y = labelled(alpha)
        torch.manual_seed(1)
        found.append(numbers(EVALUATED[name](pair, x, y)))
    assert found[0]
    for without, term in zip(*found, strict=True):
        torch.testing.assert_close(without, term, equal_nan=True)


@pytest.mark.filterwarnings("ignore:.*Pareto")
def test_bounds_lie_below_log_p(as_users_see_it):
    pair, x, y = labelled(3.0)
    log_p = exact(pair, x, y).mean().item()
    bounds = evaluation.importance_bounds(pair, x, y, num_particles=(1, 2000))
    assert -bounds[1].mean < log_p + 0.5
    assert abs(-bounds[2000].mean - log_p) < 0.05
    terms = evaluation.elbo_terms(pair, x, y, num_samples=200)
    assert -terms.nelbo.mean < log_p
    found = evaluation.log_likelihood(pair, x, y, num_samples=4000, seed=3)
    assert ((found.log_px - exact(pair, x, y)).abs() < 5 * found.standard_error + 1e-4).all()


def test_training_keeps_the_term():
    """-L + α CE(y, q(y | x)), with the same draws."""
    losses = []
    for alpha in (0.0, 3.0):
        pair, x, y = labelled(alpha)
        torch.manual_seed(0)
        losses.append(ImportanceWeightedELBO(1)(pair.model, pair.guide)(x, y))
    entropy = nn.functional.cross_entropy(pair.classifier(x).logits, y, reduction="sum")
    torch.testing.assert_close(losses[1] - losses[0], 3.0 * entropy)


class OfZ:
    """A program of one's own: a term of training that depends on the latent."""

    def __init__(self, weight):
        def model(x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 1), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)
                if weight:
                    penalty = dist.Unit(-weight * z.square().sum(-1))
                    pyro.sample("penalty", penalty, obs=torch.empty(0), infer=MARK)

        def guide(x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(x / 2, 0.9).to_event(1))
                if weight:
                    pyro.sample("more", dist.Normal(x.sum(-1), 1.0), obs=x[:, 0], infer=MARK)

        pair = Programs(model, guide)
        self.model, self.guide = pair.model, pair.guide


@pytest.mark.filterwarnings("ignore:.*Pareto")
@pytest.mark.filterwarnings("ignore:Found vars in")
@pytest.mark.parametrize(
    "name", [n for n in EVALUATED if n not in ("imputation", "gap", "validation")]
)
def test_terms_of_a_users_program_are_left_out(name):
    x = torch.randn(6, 1)
    found = []
    for weight in (0.0, 5.0):
        torch.manual_seed(1)
        pair = OfZ(weight)
        run = EVALUATED[name]
        found.append(numbers(run(_WithoutContext(pair), x, torch.zeros(6))))
    for without, term in zip(*found, strict=True):
        torch.testing.assert_close(without, term, equal_nan=True)


class _WithoutContext:
    """Programs that take the labels of the calls above, and do nothing with them."""

    def __init__(self, pair):
        one, two = pair.model, pair.guide
        programs = Programs(lambda x, y=None: one(x), lambda x, y=None: two(x))
        self.model, self.guide = programs.model, programs.guide
