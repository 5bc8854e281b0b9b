"""Named constructors per axis: a new prior, posterior or likelihood is one line here."""

import torch

from ppl_vae import VAE, SemiSupervisedVAE, columns, likelihoods, nets, posteriors, priors

D, Z, C = 6, 2, 3
LEVELS = 5
HIDDEN = (5,)
TABLE = [
    columns.Normal(0.5, 2.0),
    columns.Categorical(3),
    columns.Poisson(3.0),
    columns.Normal(-1.0, 0.7),
    columns.Bernoulli(),
    columns.Ordinal(4),
]


def net(width_in, width_out):
    return nets.MLP(width_in, width_out, hidden=HIDDEN)


# A prior may hold the posterior of its pair (VampPrior): all are made from one.
PRIORS = {
    "standard": lambda q: priors.StandardNormal(Z),
    "diagonal normal": lambda q: priors.DiagonalNormal(Z),
    "full-rank normal": lambda q: priors.FullRankNormal(Z),
    "mixture": lambda q: priors.GaussianMixture(Z, components=4),
    "mixture, learned weights": lambda q: priors.GaussianMixture(Z, 4, learn_weights=True),
    "mixture of one": lambda q: priors.GaussianMixture(Z, components=1),
    "vamp": lambda q: priors.VampPrior(q, 3, event_shape=(D,)),
    "vamp, learned weights": lambda q: priors.VampPrior(
        q, 3, event_shape=(D,), learn_weights=True, bounds=(0, 1)
    ),
    "vamp, fixed inputs": lambda q: priors.VampPrior(q, torch.eye(3, D), learn=False),
    "realnvp": lambda q: priors.Flow(Z, "realnvp", transforms=2, hidden=(8,)),
    "maf": lambda q: priors.Flow(Z, "maf", transforms=2, hidden=(8,)),
    "spline": lambda q: priors.Flow(Z, "spline", transforms=2, hidden=(8,)),
}
CONDITIONAL_PRIORS = {
    "normal given y": lambda q: priors.ConditionalNormal(net(C, 2 * Z)),
    "spline given y": lambda q: priors.ConditionalFlow(Z, C, transforms=2, hidden=(8,)),
}
# The networks see `further` features besides x, or z: those of a label or a condition.
POSTERIORS = {
    "diagonal": lambda further=0: posteriors.DiagonalNormal(net(D + further, 2 * Z)),
    "full rank": lambda further=0: posteriors.FullRankNormal(
        net(D + further, posteriors.FullRankNormal.net_features(Z))
    ),
    "low rank": lambda further=0: posteriors.LowRankNormal(
        net(D + further, posteriors.LowRankNormal.net_features(Z, rank=1)), rank=1
    ),
    "iaf": lambda further=0: posteriors.Flow(
        net(D + further, posteriors.Flow.net_features(Z, context_features=3)),
        Z,
        "iaf",
        context_features=3,
        transforms=2,
        hidden=(8,),
    ),
    "spline flow": lambda further=0: posteriors.Flow(
        net(D + further, posteriors.Flow.net_features(Z, context_features=3)),
        Z,
        "spline",
        context_features=3,
        transforms=2,
        hidden=(8,),
    ),
    "mixture posterior": lambda further=0: posteriors.GaussianMixture(
        net(D + further, posteriors.GaussianMixture.net_features(Z, components=3)), components=3
    ),
}
LIKELIHOODS = {
    "bernoulli": lambda further=0: likelihoods.Bernoulli(net(Z + further, D)),
    "continuous bernoulli": lambda further=0: likelihoods.ContinuousBernoulli(net(Z + further, D)),
    "normal": lambda further=0: likelihoods.Normal(net(Z + further, D), scale=0.7),
    "normal, learned scale": lambda further=0: likelihoods.Normal(net(Z + further, D), "learned"),
    "normal, per pixel": lambda further=0: likelihoods.Normal(net(Z + further, 2 * D), "per-pixel"),
    "laplace": lambda further=0: likelihoods.Laplace(net(Z + further, D), "learned"),
    "categorical": lambda further=0: likelihoods.Categorical(
        net(Z + further, LEVELS * D), levels=LEVELS
    ),
    "discretised logistic mixture": lambda further=0: likelihoods.DiscretisedLogisticMixture(
        net(Z + further, 3 * 2 * D), components=2, levels=LEVELS
    ),
    "poisson": lambda further=0: likelihoods.Poisson(net(Z + further, D)),
    "negative binomial": lambda further=0: likelihoods.NegativeBinomial(net(Z + further, D)),
    "zero-inflated negative binomial": lambda further=0: likelihoods.ZeroInflatedNegativeBinomial(
        net(Z + further, 2 * D)
    ),
    "columns": lambda further=0: likelihoods.Columns(
        net(Z + further, likelihoods.Columns.net_shape(columns=TABLE)[0]), TABLE
    ),
}
ALIKE = [name for name in LIKELIHOODS if name != "columns"]
"""Likelihoods whose elements are of one kind; of `Columns` they are tested in tests/columns."""


def vae(prior="standard", posterior="diagonal", likelihood="bernoulli"):
    q = POSTERIORS[posterior]()
    return VAE(prior=PRIORS[prior](q), posterior=q, likelihood=LIKELIHOODS[likelihood]())


def ssvae(prior="standard", posterior="diagonal", likelihood="bernoulli", alpha=0.0):
    q = POSTERIORS[posterior](C)
    return SemiSupervisedVAE(
        prior=(PRIORS | CONDITIONAL_PRIORS)[prior](q),
        classifier=net(D, C),
        posterior=q,
        likelihood=LIKELIHOODS[likelihood](C),
        num_classes=C,
        classification_weight=alpha,
    )


def binary(batch=7):
    return torch.rand(batch, D).bernoulli()


def observations(likelihood, batch=7):
    """Return data in the likelihood's support."""
    kind = likelihood.split(",")[0]
    if kind == "bernoulli":
        return binary(batch)
    if kind == "continuous bernoulli":
        return torch.rand(batch, D)
    if kind in ("categorical", "discretised logistic mixture"):
        return torch.randint(LEVELS, (batch, D)) / (LEVELS - 1.0)
    if kind == "poisson" or kind.endswith("negative binomial"):
        return torch.randint(9, (batch, D)).to(torch.get_default_dtype())
    if kind == "columns":
        mixed = torch.randn(batch, D)
        for column, count in ((1, 3), (2, 9), (4, 2), (5, 4)):
            mixed[:, column] = torch.randint(count, (batch,))
        return mixed
    return torch.randn(batch, D)
