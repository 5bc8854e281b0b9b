"""Pyro's automatic guides, and models that are modules."""

import pyro
import torch
from programs.program import ENUMERATED, parameters, program, tensor
from pyro import distributions as dist
from pyro import poutine
from pyro.contrib.easyguide import easy_guide
from pyro.infer import autoguide
from pyro.nn import PyroModule, PyroParam, PyroSample

X = tensor(0.3, -1.2, 0.8)


def hierarchy(x):
    m = pyro.sample("m", dist.Normal(0.0, 1.0))
    s = pyro.sample("s", dist.LogNormal(0.0, 0.5))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(m, s))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def local(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def mixture(x):
    weights = pyro.sample("weights", dist.Dirichlet(torch.ones(2)))
    means = pyro.sample("means", dist.Normal(tensor(-1.0, 1.0), 1.0).to_event(1))
    with pyro.plate("data", len(x)):
        y = pyro.sample("y", dist.Categorical(weights), infer=ENUMERATED)
        mean = (means * torch.nn.functional.one_hot(y, 2)).sum(-1)
        pyro.sample("x", dist.Normal(mean, 1.0), obs=x)


def guided(model, guide, *args):
    guide(*args)  # makes its parameters
    return model, guide


@program(X, plate=None)
def auto_normal():
    return guided(hierarchy, autoguide.AutoNormal(hierarchy), X)


@program(X)
def auto_normal_per_datum():
    return guided(local, autoguide.AutoNormal(local), X)


@program(X, plate=None)
def auto_delta():
    return guided(hierarchy, autoguide.AutoDelta(hierarchy), X)


@program(X, plate=None)
def auto_diagonal_normal():
    return guided(hierarchy, autoguide.AutoDiagonalNormal(hierarchy), X)


@program(X, plate=None)
def auto_multivariate_normal():
    return guided(hierarchy, autoguide.AutoMultivariateNormal(hierarchy), X)


@program(X, plate=None)
def auto_low_rank_normal():
    guide = autoguide.AutoLowRankMultivariateNormal(hierarchy, rank=2)
    return guided(hierarchy, guide, X)


@program(X, plate=None)
def auto_guide_list():
    guide = autoguide.AutoGuideList(hierarchy)
    guide.append(autoguide.AutoDelta(poutine.block(hierarchy, expose=["m"])))
    guide.append(autoguide.AutoNormal(poutine.block(hierarchy, hide=["m"])))
    return guided(hierarchy, guide, X)


@program(X, plate=None)
def auto_structured():
    guide = autoguide.AutoStructured(hierarchy, conditionals="normal", dependencies="linear")
    return guided(hierarchy, guide, X)


@program(X, plate=None)
def auto_hierarchical_normal():
    return guided(hierarchy, autoguide.AutoHierarchicalNormalMessenger(hierarchy), X)


@program(X, plate=None)
def auto_normal_of_a_mixture():
    guide = autoguide.AutoNormal(poutine.block(mixture, hide=["y"]))
    return guided(mixture, guide, X)


@program(X, plate=None)
def auto_delta_of_a_mixture():
    guide = autoguide.AutoDelta(poutine.block(mixture, hide=["y"]))
    return guided(mixture, guide, X)


@program(X, plate=None, refused="inner plate 'data'")
def auto_discrete_of_a_mixture():
    guide = autoguide.AutoGuideList(mixture)
    guide.append(autoguide.AutoNormal(poutine.block(mixture, hide=["y"])))
    guide.append(autoguide.AutoDiscreteParallel(poutine.block(mixture, expose=["y"])))
    return guided(mixture, guide, X)


class Regression(PyroModule):
    """A line whose slope is a sample and whose scale a parameter."""

    def __init__(self):
        super().__init__()
        self.line = PyroModule[torch.nn.Linear](1, 1, dtype=torch.float64)
        prior = dist.Normal(torch.zeros(1, 1), 1.0).expand([1, 1]).to_event(2)
        self.line.weight = PyroSample(prior)
        self.scale = PyroParam(tensor(0.8), constraint=dist.constraints.positive)

    def forward(self, x):
        # A weight of many particles has plates on its left, for which Linear has no room.
        mean = self.line.weight[..., 0, 0] * x + self.line.bias
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(mean, self.scale), obs=x.sin())


@program(X, plate=None)
def regression_of_a_pyro_module():
    model = Regression()
    return guided(model, autoguide.AutoNormal(model), X)


@program(X, plate=None)
def regression_with_a_guide_of_ones_own():
    p = parameters(loc=(1, 1))

    def guide(x):
        pyro.sample("line.weight", dist.Normal(p.loc, 0.5).to_event(2))

    return Regression(), guide, p


def subsampled(x):
    with pyro.plate("data", len(x), subsample_size=2) as index:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        y = pyro.sample("y", dist.Bernoulli(0.3), infer=ENUMERATED)
        pyro.sample("x", dist.Normal(z + y, 1.0), obs=x[index])


def plates_of(x):
    return pyro.plate("data", len(x), subsample_size=2)


@program(X, refused_whole="inner plate 'data', which is subsampled")
def auto_normal_of_a_subsample():
    hidden = poutine.block(subsampled, hide=["y"])
    return guided(subsampled, autoguide.AutoNormal(hidden, create_plates=plates_of), X)


@program(X)
def auto_normal_messenger():
    return guided(local, autoguide.AutoNormalMessenger(local), X)


@program(X, plate=None)
def auto_regressive_messenger():
    return guided(hierarchy, autoguide.AutoRegressiveMessenger(hierarchy), X)


@program(X, plate=None)
def easy_guide_of_a_mixture():
    @easy_guide(mixture)
    def guide(self, x):
        self.map_estimate("weights")
        group = self.group(match="means")
        loc = pyro.param("loc", lambda: tensor(-0.5, 0.6))
        group.sample("all means", dist.Normal(loc, 0.4).to_event(1))

    return guided(mixture, guide, X)


@program(X, plate=None)
def auto_inverse_autoregressive_flow():
    return guided(hierarchy, autoguide.AutoIAFNormal(hierarchy, hidden_dim=[8]), X)
