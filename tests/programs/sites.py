"""Kinds of sites and of distributions."""

import pyro
import torch
from programs.program import ENUMERATED, nothing, parameters, program, tensor
from pyro import distributions as dist
from pyro import poutine
from pyro.contrib.autoname import scope
from pyro.distributions.testing.fakes import NonreparameterizedNormal
from pyro.infer.reparam import LocScaleReparam, TransformReparam

X = tensor(0.3, -1.2, 0.8)
COUNTS = tensor(0.0, 3.0, 1.0)


def pair(prior, posterior, likelihood, p):
    """z from a prior in the model and from a posterior in the guide."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", prior())
            pyro.sample("x", likelihood(z), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", posterior(x))

    return model, guide, p


@program(X)
def no_latent():
    p = parameters(loc=())

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(p.loc, 1.0), obs=x)

    return model, nothing, p


@program(X)
def factors():
    p = parameters(loc=(), slope=())

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.factor("smooth", -p.slope * z.abs())
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(p.loc, 0.7))

    return model, guide, p


@program(X)
def factor_of_a_label():
    p = parameters(logits=3, means=3, bonus=3)

    def model(x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(logits=p.logits), infer=ENUMERATED)
            pyro.factor("bonus", p.bonus[y])
            pyro.sample("x", dist.Normal(p.means[y], 1.0), obs=x)

    return model, nothing, p


@program(X, plate=None)
def global_factor():
    p = parameters(loc=(), slope=())

    def model(x):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        pyro.factor("penalty", -p.slope * m**2)
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(m, 1.0), obs=x)

    def guide(x):
        pyro.sample("m", dist.Normal(p.loc, 0.7))

    return model, guide, p


@program(X)
def factor_in_the_guide():
    p = parameters(loc=(), slope=())

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(p.loc, 0.7))
            pyro.factor("volume", p.slope * z, has_rsample=True)

    return model, guide, p


@program(X)
def deterministic_sites():
    p = parameters(loc=(), slope=())

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            mean = pyro.deterministic("mean", p.slope * z)
            pyro.sample("x", dist.Normal(mean, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(p.loc * x, 0.7))

    return model, guide, p


@program(X)
def missing_observation_in_the_guide():
    p = parameters(loc=(), slope=(), mean=3)

    def model(x, v=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)
            pyro.sample("v", dist.Normal(p.slope * z, 1.0), obs=v)

    def guide(x, v=None):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(p.loc * x, 0.7))
            pyro.sample("v", dist.Normal(p.mean, 0.5))

    return model, guide, p


@program(X)
def partly_observed():
    p = parameters(loc=(), mean=3)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x, obs_mask=x > 0)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(p.loc * x, 0.7))
            pyro.sample("x_unobserved", dist.Normal(p.mean, 0.5))

    return model, guide, p


@program(X)
def partly_labelled():
    p = parameters(logits=2, means=2)
    labels, given = torch.tensor([1, 0, 0]), torch.tensor([True, False, False])

    def model(x):
        with pyro.plate("data", len(x)):
            fn = dist.Categorical(logits=p.logits)
            with poutine.mask(mask=given):
                pyro.sample("label", fn, obs=labels)
            with poutine.mask(mask=~given):
                y = pyro.sample("y", fn, infer=ENUMERATED)
            y = torch.where(given, labels, y)
            pyro.sample("x", dist.Normal(p.means[y], 1.0), obs=x)

    return model, nothing, p


@program(X)
def delta_guide():
    p = parameters(loc=(), slope=())

    def posterior(x):
        return dist.Delta(p.loc * x)

    def likelihood(z):
        return dist.Normal(p.slope * z, 1.0)

    return pair(lambda: dist.Normal(0.0, 1.0), posterior, likelihood, p)


@program(X)
def delta_with_a_density():
    p = parameters(loc=(), density=())

    def posterior(x):
        return dist.Delta(p.loc * x, log_density=p.density)

    return pair(lambda: dist.Normal(0.0, 1.0), posterior, lambda z: dist.Normal(z, 1.0), p)


@program(X)
def several_dimensions():
    p = parameters(loc=(3, 2), weight=2, factor=(2, 2))

    def prior():
        return dist.Normal(torch.zeros(2), 1.0).to_event(1)

    def posterior(x):
        tril = p.factor.tril(-1) + torch.eye(2)
        return dist.MultivariateNormal(p.loc, scale_tril=tril)

    return pair(prior, posterior, lambda z: dist.Normal(z @ p.weight, 1.0), p)


@program(COUNTS)
def gamma_and_poisson():
    p = parameters(shape=3, rate=3)

    def posterior(x):
        return dist.Gamma(p.shape.exp() + 1, p.rate.exp())

    return pair(lambda: dist.Gamma(2.0, 1.0), posterior, dist.Poisson, p)


@program(COUNTS)
def beta_and_binomial():
    p = parameters(a=3, b=3)

    def posterior(x):
        return dist.Beta(p.a.exp(), p.b.exp())

    return pair(lambda: dist.Beta(2.0, 2.0), posterior, lambda z: dist.Binomial(4, z), p)


@program(X)
def heavy_tails():
    p = parameters(loc=(), scale=())

    def posterior(x):
        return dist.StudentT(5.0, p.loc * x, p.scale.exp())

    def likelihood(z):
        return dist.Laplace(z, 1.0)

    return pair(lambda: dist.Cauchy(0.0, 1.0), posterior, likelihood, p)


@program(X)
def transformed_posterior():
    p = parameters(loc=(), scale=())
    affine = dist.transforms.AffineTransform(0.0, 2.0)

    def posterior(x):
        base = dist.Normal(p.loc * x, p.scale.exp())
        return dist.TransformedDistribution(base, [dist.transforms.TanhTransform(), affine])

    return pair(lambda: dist.Uniform(-2.0, 2.0), posterior, lambda z: dist.Normal(z, 1.0), p)


@program(X)
def conditioned_model():
    p = parameters(loc=(), slope=())

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(p.slope * z, 1.0))

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(p.loc * x, 0.7))

    return poutine.condition(model, data={"x": X}), guide, p


@program(X, plate=None)
def reparameterised_model():
    p = parameters(m=(), base=3)

    def model(x):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(m, 2.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        pyro.sample("m", dist.Normal(p.m, 0.5))
        with pyro.plate("data", len(x)):
            pyro.sample("z_decentered", dist.Normal(p.base, 0.5))

    return poutine.reparam(model, config={"z": LocScaleReparam(0.0)}), guide, p


@program(X)
def auxiliary_site_of_the_guide():
    p = parameters(loc=(), slope=())

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            fn = dist.Normal(p.loc * x, 0.7)
            noise = pyro.sample("noise", fn, infer={"is_auxiliary": True})
            density = -p.slope.expand(noise.shape)
            pyro.sample("z", dist.Delta(noise * p.slope.exp(), log_density=density))

    return model, guide, p


@program(X)
def parameters_in_the_store():
    def model(x):
        slope = pyro.param("slope", lambda: tensor(0.7))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(slope * z, 1.0), obs=x)

    def guide(x):
        loc = pyro.param("loc", lambda: tensor(0.4))
        positive = dist.constraints.positive
        scale = pyro.param("scale", lambda: tensor(0.6), constraint=positive)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc * x, scale))

    return model, guide


@program(X)
def modules_in_the_store():
    net = torch.nn.Linear(1, 2, dtype=torch.float64)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        pyro.module("net", net)
        loc, log_scale = net(x.unsqueeze(-1)).unbind(-1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, log_scale.exp()))

    return model, guide


@program(X, gradient="loo")
def score_of_a_normal():
    p = parameters(loc=(), slope=())

    def posterior(x):
        return NonreparameterizedNormal(p.loc * x, 0.7)

    def likelihood(z):
        return dist.Normal(p.slope * z, 1.0)

    return pair(lambda: dist.Normal(0.0, 1.0), posterior, likelihood, p)


@program(COUNTS, gradient="loo")
def score_of_a_count():
    p = parameters(rate=3, scale=())

    def likelihood(z):
        return dist.Normal(p.scale * z, 1.0)

    return pair(lambda: dist.Poisson(1.5), lambda x: dist.Poisson(p.rate.exp()), likelihood, p)


@program(COUNTS, gradient="vimco")
def score_of_a_binomial():
    p = parameters(logits=3, scale=())

    def posterior(x):
        return dist.Binomial(4, logits=p.logits)

    def likelihood(z):
        return dist.Normal(p.scale * z, 1.0)

    return pair(lambda: dist.Binomial(4, 0.3), posterior, likelihood, p)


@program(X, gradient="vimco")
def score_of_bits():
    p = parameters(prior=4, logits=(3, 4), weight=4)

    def prior():
        return dist.Bernoulli(logits=p.prior).to_event(1)

    def posterior(x):
        return dist.Bernoulli(logits=p.logits).to_event(1)

    return pair(prior, posterior, lambda z: dist.Normal(z @ p.weight, 1.0), p)


@program(X, gradient="loo")
def score_and_path():
    p = parameters(logits=3, loc=(), weights=2, means=2)

    def model(x):
        with pyro.plate("data", len(x)):
            b = pyro.sample("b", dist.Bernoulli(0.4))
            z = pyro.sample("z", dist.Normal(b, 1.0))
            y = pyro.sample("y", dist.Categorical(logits=p.weights), infer=ENUMERATED)
            pyro.sample("x", dist.Normal(z + p.means[y], 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            b = pyro.sample("b", dist.Bernoulli(logits=p.logits))
            pyro.sample("z", dist.Normal(p.loc * x + b, 0.7))

    return model, guide, p


@program(X, plate=None, gradient="loo")
def score_of_a_global_site():
    p = parameters(logits=2, rows=(2, 2), means=2)

    def model(x):
        style = pyro.sample("style", dist.Categorical(tensor(0.3, 0.7)))
        with pyro.plate("data", len(x)):
            fn = dist.Categorical(logits=p.rows[style])
            y = pyro.sample("y", fn, infer=ENUMERATED)
            pyro.sample("x", dist.Normal(p.means[y], 1.0), obs=x)

    def guide(x):
        pyro.sample("style", dist.Categorical(logits=p.logits))

    return model, guide, p


@program(X)
def replaced_site():
    p = parameters(loc=(), slope=())

    def model(x):
        with pyro.plate("data", len(x)):
            shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
            z = pyro.sample("z", dist.Normal(shift, 1.0))
            pyro.sample("x", dist.Normal(p.slope * z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(p.loc * x, 0.7))

    # do() also leaves the site itself, which is hidden.
    done = poutine.do(model, data={"shift": tensor(0.2, 0.1, -0.4)})
    return poutine.block(done, hide=["shift"]), guide, p


@program(X)
def names_in_scopes():
    p = parameters(loc=(), slope=())

    @scope(prefix="decoder")
    def observe(z, x):
        pyro.sample("x", dist.Normal(p.slope * z, 1.0), obs=x)

    def model(x):
        with pyro.plate("data", len(x)):
            observe(pyro.sample("z", dist.Normal(0.0, 1.0)), x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(p.loc * x, 0.7))

    return model, guide, p


@program(X, plate=None)
def lifted_parameters():
    p = parameters(loc=())

    def model(x):
        slope = pyro.param("slope", lambda: tensor(0.7))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(slope, 1.0), obs=x)

    def guide(x):
        pyro.sample("slope", dist.Normal(p.loc, 0.5))

    return poutine.lift(model, prior={"slope": dist.Normal(0.0, 1.0)}), guide, p


@program(X)
def broadcast_program():
    p = parameters(loc=(), slope=())

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0))
            pyro.sample("x", dist.Normal(p.slope * z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(p.loc.reshape(1), 0.7))

    return poutine.broadcast(model), poutine.broadcast(guide), p


@program(X)
def transformed_prior():
    p = parameters(loc=(), slope=())

    def model(x):
        with pyro.plate("data", len(x)):
            base = dist.Normal(p.slope, 1.0)
            exponential = dist.transforms.ExpTransform()
            z = pyro.sample("z", dist.TransformedDistribution(base, [exponential]))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z_base", dist.Normal(p.loc * x, 0.7))

    return poutine.reparam(model, config={"z": TransformReparam()}), guide, p
