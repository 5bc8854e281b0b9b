"""Every likelihood with options, and data at the edges of its support."""

import inspect

from ppl_vae import likelihoods

# Per likelihood its class, its options, and data in its support that reach the edges.
CASES = {
    "bernoulli": (likelihoods.Bernoulli, {}, [0.0, 1.0]),
    "continuous bernoulli": (likelihoods.ContinuousBernoulli, {}, [0.0, 0.3, 1.0]),
    "normal": (likelihoods.Normal, {"scale": 0.7}, [-2.0, 0.0, 3.0]),
    "normal, learned": (likelihoods.Normal, {"scale": "learned"}, [-2.0, 0.0, 3.0]),
    "normal, parameter": (likelihoods.Normal, {"scale": "parameter"}, [-2.0, 0.0, 3.0]),
    "normal, per pixel": (likelihoods.Normal, {"scale": "per-pixel"}, [-2.0, 0.0, 3.0]),
    "laplace": (likelihoods.Laplace, {"scale": 0.7}, [-2.0, 0.0, 3.0]),
    "laplace, learned": (likelihoods.Laplace, {"scale": "learned"}, [-2.0, 0.0, 3.0]),
    "laplace, per pixel": (likelihoods.Laplace, {"scale": "per-pixel"}, [-2.0, 0.0, 3.0]),
    "categorical": (likelihoods.Categorical, {"levels": 7}, [0.0, 2 / 6, 1.0]),
    "logistics": (
        likelihoods.DiscretisedLogisticMixture,
        {"components": 4, "levels": 256},
        [0.0, 1 / 255, 128 / 255, 254 / 255, 1.0],
    ),
    "poisson": (likelihoods.Poisson, {}, [0.0, 1.0, 30.0]),
    "negative binomial": (likelihoods.NegativeBinomial, {}, [0.0, 1.0, 30.0]),
    "negative binomial, fixed": (likelihoods.NegativeBinomial, {"dispersion": 60}, [0.0, 30.0]),
    "negative binomial, per pixel": (
        likelihoods.NegativeBinomial,
        {"dispersion": "per-pixel"},
        [0.0, 1.0, 30.0],
    ),
    "zero-inflated": (likelihoods.ZeroInflatedNegativeBinomial, {}, [0.0, 1.0, 30.0]),
    "zero-inflated, learned gate": (
        likelihoods.ZeroInflatedNegativeBinomial,
        {"dispersion": 0.5, "gate": "learned"},
        [0.0, 1.0, 30.0],
    ),
    "zero-inflated, per pixel": (
        likelihoods.ZeroInflatedNegativeBinomial,
        {"dispersion": "per-pixel"},
        [0.0, 1.0, 30.0],
    ),
}


COUNTS = (
    likelihoods.Poisson,
    likelihoods.NegativeBinomial,
    likelihoods.ZeroInflatedNegativeBinomial,
)


def width_options(cls, options):
    """Return the options on which the network's width depends."""
    taken = inspect.signature(cls.net_shape).parameters
    return {k: v for k, v in options.items() if k in taken}
