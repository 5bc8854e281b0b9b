"""Named constructors per axis: a new prior, posterior or likelihood is one line here."""

import torch

from ppl_vae import VAE, SemiSupervisedVAE, likelihoods, nets, posteriors, priors

D, Z, C = 6, 2, 3
HIDDEN = (5,)


def net(width_in, width_out):
    return nets.MLP(width_in, width_out, hidden=HIDDEN)


PRIORS = {
    "standard": lambda: priors.StandardNormal(Z),
    "mixture": lambda: priors.GaussianMixture(Z, components=4),
    "mixture, learned weights": lambda: priors.GaussianMixture(Z, 4, learn_weights=True),
    "mixture of one": lambda: priors.GaussianMixture(Z, components=1),
}
POSTERIORS = {
    "diagonal": lambda further=0: posteriors.DiagonalNormal(net(D + further, 2 * Z)),
}
LIKELIHOODS = {
    "bernoulli": lambda further=0: likelihoods.Bernoulli(net(Z + further, D)),
    "normal": lambda further=0: likelihoods.Normal(net(Z + further, D), scale=0.7),
    "normal, learned scale": lambda further=0: likelihoods.Normal(net(Z + further, D), "learned"),
    "normal, per pixel": lambda further=0: likelihoods.Normal(net(Z + further, 2 * D), "per-pixel"),
}


def vae(prior="standard", posterior="diagonal", likelihood="bernoulli"):
    return VAE(
        prior=PRIORS[prior](),
        posterior=POSTERIORS[posterior](),
        likelihood=LIKELIHOODS[likelihood](),
    )


def ssvae(prior="standard", posterior="diagonal", likelihood="bernoulli", alpha=0.0):
    return SemiSupervisedVAE(
        prior=PRIORS[prior](),
        classifier=net(D, C),
        posterior=POSTERIORS[posterior](C),
        likelihood=LIKELIHOODS[likelihood](C),
        num_classes=C,
        classification_weight=alpha,
    )


def binary(batch=7):
    return torch.rand(batch, D).bernoulli()


def observations(likelihood, batch=7):
    return binary(batch) if likelihood == "bernoulli" else torch.randn(batch, D)
