"""Gradients of a q(y | z) that is enumerated after z, under every gradient and grouping.

Right values are sums over particles and labels, written by hand at the estimator's own draws.
"""

import math

import pyro
import pytest
import torch
from pyro import distributions as dist
from torch import nn

from ppl_vae.estimators import ImportanceWeightedELBO

B, C = 2, 3


class Case:
    """y uniform, z ~ N(0, 1), x ~ N(z + of_y, 1), and q(z) q(y | z)."""

    def __init__(self):
        self.model, self.guide = nn.Module(), nn.Module()
        self.model.of_y = nn.Parameter(torch.tensor([-1.0, 0.2, 1.5]))
        self.guide.loc = nn.Parameter(torch.tensor([0.3, -0.4]))
        self.guide.slope = nn.Parameter(torch.tensor([0.5, -0.8, 0.1]))
        self.model.forward, self.guide.forward = self._model, self._guide
        self.x = torch.tensor([0.7, -1.1])

    def log_qy(self, z):
        return (z.unsqueeze(-1) * self.guide.slope).log_softmax(-1)

    def log_joint(self, z):
        """log p(x, y, z) for every y, in the last dimension."""
        log_p = dist.Normal(z.unsqueeze(-1) + self.model.of_y, 1.0).log_prob(self.x[:, None])
        return log_p + dist.Normal(0.0, 1.0).log_prob(z).unsqueeze(-1) - math.log(C)

    def _model(self, x):
        with pyro.plate("data", B):
            z = pyro.sample("z", dist.Normal(torch.zeros(B), 1.0))
            y = pyro.sample(
                "y", dist.Categorical(torch.ones(B, C)), infer={"enumerate": "parallel"}
            )
            pyro.sample("x", dist.Normal(z + self.model.of_y[y], 1.0), obs=x)

    def _guide(self, x):
        with pyro.plate("data", B):
            z = pyro.sample("z", dist.Normal(self.guide.loc, 0.9))
            q_y = dist.Categorical(logits=self.log_qy(z))
            pyro.sample("y", q_y, infer={"enumerate": "parallel"})


@pytest.mark.parametrize("chunk_size", [None, 1])
@pytest.mark.parametrize("pool_model", [False, True])
@pytest.mark.parametrize("gradient", ["iwae", "dreg", "stl", "wake"])
def test_theta_follows_the_models_bound_and_labels_the_guides(
    gradient, pool_model, chunk_size, float64
):
    case, groups, k = Case(), 2, 3
    estimator = ImportanceWeightedELBO(
        k,
        gradient,
        num_groups=groups,
        pool_model=pool_model,
        chunk_size=chunk_size,
        max_plate_nesting=1,
    )
    torch.manual_seed(0)
    loss = estimator(case.model, case.guide)(case.x)
    parameters = [case.model.of_y, case.guide.slope]
    found = torch.autograd.grad(loss, parameters)
    torch.manual_seed(0)
    q = dist.Normal(case.guide.loc.detach(), 0.9)
    z = q.rsample((groups * k,))
    log_q, log_qy, log_joint = q.log_prob(z), case.log_qy(z), case.log_joint(z)
    log_w = (log_qy.exp() * (log_joint - log_qy)).sum(-1) - log_q
    of_groups = log_w.unflatten(0, (groups, k)).softmax(1).flatten(0, 1).detach() / groups
    of_model = log_w.softmax(0).detach() if pool_model else of_groups
    theta = -(of_model * (log_qy.exp().detach() * log_joint).sum(-1)).sum()
    labels = -(of_groups * (log_qy.exp() * (log_joint.detach() - log_qy)).sum(-1)).sum()
    torch.testing.assert_close(found[0], torch.autograd.grad(theta, case.model.of_y)[0])
    torch.testing.assert_close(found[1], torch.autograd.grad(labels, case.guide.slope)[0])
