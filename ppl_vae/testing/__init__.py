"""Pyro programs with closed forms.

An oracle is a model/guide pair with known evidence, posterior and ELBO, to test an estimator (ours,
Pyro's or your own) against mathematics rather than another estimator. All closed forms are
differentiable: autograd of ``oracle.elbo(x).sum()`` is the expected gradient of any unbiased ELBO
estimator::

    >>> import torch
    >>> from pyro.infer import Trace_ELBO
    >>> from ppl_vae.testing import LinearGaussian
    >>> oracle = LinearGaussian(data_dim=3, latent_dim=2, full_rank=True)
    >>> x = torch.zeros(4, 3, dtype=torch.float64)
    >>> bool((oracle.elbo(x) <= oracle.log_px(x)).all())
    True
    >>> oracle.set_exact_guide()  # now the bound is tight, for every number of particles
    >>> loss = Trace_ELBO()(oracle.model, oracle.guide)(x)
    >>> torch.allclose(loss, -oracle.log_px(x).sum())
    True

`Oracle` documents their common conventions, options and units.
"""

from ppl_vae.testing._oracle import Oracle
from ppl_vae.testing.discrete import DiscreteLinearGaussian
from ppl_vae.testing.linear_gaussian import LinearGaussian
from ppl_vae.testing.mixture_prior import MixturePriorLinearGaussian
from ppl_vae.testing.two_layer import TwoLayerLinearGaussian

__all__ = [
    "DiscreteLinearGaussian",
    "LinearGaussian",
    "MixturePriorLinearGaussian",
    "Oracle",
    "TwoLayerLinearGaussian",
]
