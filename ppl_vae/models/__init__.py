"""Model/guide pairs: the only room with ``pyro.sample`` and ``pyro.plate``."""

from ppl_vae.models.pair import Pair
from ppl_vae.models.semisupervised import SemiSupervisedVAE
from ppl_vae.models.vae import VAE

__all__ = ["VAE", "Pair", "SemiSupervisedVAE"]
