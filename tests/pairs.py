"""Named constructors per axis: a new prior, posterior or likelihood is one line here."""

import torch

from ppl_vae import VAE, SemiSupervisedVAE, columns, likelihoods, nets, posteriors, priors

D, Z, C = 6, 2, 3
W = 6  # entries of discrete latents: 6 binary, 2 one-hot codes of 3, 2 vectors of 3
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
CODE_PRIORS = {
    "binary": lambda q: priors.Bernoulli(W),
    "binary, learned": lambda q: priors.Bernoulli(W, learn_logits=True),
    "binary mixture": lambda q: priors.BernoulliMixture(W, 3),
    "binary mixture, learned weights": lambda q: priors.BernoulliMixture(W, 3, learn_weights=True),
    "binary autoregressive": lambda q: priors.Autoregressive(W, hidden=(8,)),
    "one-hot": lambda q: priors.Categorical(2, 3),
    "one-hot, learned": lambda q: priors.Categorical(2, 3, learn_logits=True),
    "one-hot mixture": lambda q: priors.CategoricalMixture(2, 3, 4),
    "one-hot autoregressive": lambda q: priors.Autoregressive(2, 3, hidden=(8,)),
    "vectors": lambda q: priors.Codebook(q),
    "vectors, learned": lambda q: priors.Codebook(q, priors.Categorical(2, 4, learn_logits=True)),
    "vectors, autoregressive": lambda q: priors.Codebook(q, priors.Autoregressive(2, 4)),
}
CODE_POSTERIORS = {
    "binary posterior": lambda further=0: posteriors.Bernoulli(net(D + further, W)),
    "binary posterior, relaxed": lambda further=0: posteriors.RelaxedBernoulli(net(D + further, W)),
    "one-hot posterior": lambda further=0: posteriors.OneHotCategorical(net(D + further, W), 3),
    "one-hot posterior, relaxed": lambda further=0: posteriors.RelaxedOneHotCategorical(
        net(D + further, W), 3, temperature=0.7
    ),
    "vectors posterior": lambda further=0: posteriors.VectorQuantised(
        net(D + further, W), 2, codes=4, code_dim=3
    ),
}
"""Discrete latents, of which a prior goes with a posterior over the same values."""
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


def values_of(name):
    """Return what the latents of a discrete prior or posterior are, such as ``"binary"``."""
    return name.replace(",", " ").split()[0]


def code_vae(prior=None, posterior=None, likelihood="bernoulli"):
    """Return a pair of discrete latents: a prior, a posterior, or both, over the same values."""
    values = values_of(prior or posterior or "binary")
    relaxed = f"{values} posterior, relaxed"
    usual = relaxed if relaxed in CODE_POSTERIORS else f"{values} posterior"
    q = CODE_POSTERIORS[posterior or usual]()
    p_x = LIKELIHOODS[likelihood](W - Z)
    return VAE(prior=CODE_PRIORS[prior or values](q), posterior=q, likelihood=p_x)


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
