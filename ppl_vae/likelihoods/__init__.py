"""Likelihoods p(x | z): conditional distributions whose parameters a network computes from z.

=========================================== ================================================
`Bernoulli`                                 values 0 and 1
`ContinuousBernoulli`                       a density of grey values in [0, 1]
`Normal`, `Laplace`                         a density of real values
`Categorical`, `DiscretisedLogisticMixture` a mass for each grey level k / (levels - 1) in [0, 1]
`Poisson`, `NegativeBinomial`,              counts 0, 1, 2, ..., as floating-point numbers
`ZeroInflatedNegativeBinomial`
`Columns`                                   a table, with a family for each column
=========================================== ================================================

``net_shape(event_shape, ...)`` of each is the shape of its network's output per datum. Masses and
densities can be compared only if the data are dequantised, see `ppl_vae.data.Dataset.dequantised`.
"""

from ppl_vae.likelihoods.bernoulli import Bernoulli, ContinuousBernoulli
from ppl_vae.likelihoods.columns import Columns
from ppl_vae.likelihoods.counts import NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial
from ppl_vae.likelihoods.grey import Categorical, DiscretisedLogisticMixture
from ppl_vae.likelihoods.normal import Laplace, Normal

__all__ = [
    "Bernoulli",
    "Categorical",
    "Columns",
    "ContinuousBernoulli",
    "DiscretisedLogisticMixture",
    "Laplace",
    "NegativeBinomial",
    "Normal",
    "Poisson",
    "ZeroInflatedNegativeBinomial",
]
