"""Columns of a table: the distribution of each over its original values.

========================================= =========================================================
`Normal`, `StudentT`                      real values, standardised; the latter with outliers
`LogNormal`, `Gamma`, `HurdleLogNormal`   positive values; the last with zeros
`LogitNormal`                             values between two bounds
`Poisson`, `NegativeBinomial`             counts 0, 1, 2, ...
`Bernoulli`, `Categorical`                0 or 1, and codes 0, ..., categories - 1
`Ordinal`                                 ordered codes 0, ..., levels - 1
========================================= =========================================================

:class:`ppl_vae.likelihoods.Columns` makes of them a likelihood p(x | z), and `Encoder` the input
of a guide's network. :class:`ColumnFamily` is the contract; subclass it to add one of your own.
"""

from ppl_vae.columns.bounded import LogitNormal
from ppl_vae.columns.codes import Bernoulli, Categorical, Ordinal
from ppl_vae.columns.counts import NegativeBinomial, Poisson
from ppl_vae.columns.encoder import Encoder, num_features
from ppl_vae.columns.family import ColumnFamily
from ppl_vae.columns.positive import Gamma, HurdleLogNormal, LogNormal
from ppl_vae.columns.real import Normal, StudentT

__all__ = [
    "Bernoulli",
    "Categorical",
    "ColumnFamily",
    "Encoder",
    "Gamma",
    "HurdleLogNormal",
    "LogNormal",
    "LogitNormal",
    "NegativeBinomial",
    "Normal",
    "Ordinal",
    "Poisson",
    "StudentT",
    "num_features",
]
