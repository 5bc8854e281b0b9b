"""Pairs as plain configurations: ``from_config`` builds one, ``to_config`` reads it back.

Every part is a mapping with its ``class``, a name in the package where it belongs, and the
arguments of that class. Arguments that follow from the pair's sizes, or have defaults, can be left
out:

    class: VAE
    latent_dim: 10
    event_shape: 784
    prior: {class: GaussianMixture, components: 500}
    likelihood: Bernoulli

A configuration is data: it can name the public classes of the package and torch's activations. Any
other name is refused without importing anything, unless the caller allows its package.
"""

from ppl_vae.io.config.builder import from_config
from ppl_vae.io.config.reader import dump, to_config
from ppl_vae.io.errors import ConfigError

__all__ = ["ConfigError", "dump", "from_config", "to_config"]
