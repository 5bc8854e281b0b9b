"""Model/guide pairs: the only package that writes programs with ``pyro.sample``."""

from ppl_vae.models.conditional import ConditionalVAE
from ppl_vae.models.hierarchical import HierarchicalVAE
from ppl_vae.models.pair import Pair
from ppl_vae.models.semisupervised import SemiSupervisedVAE
from ppl_vae.models.stacked import StackedVAE
from ppl_vae.models.vae import VAE

__all__ = ["VAE", "ConditionalVAE", "HierarchicalVAE", "Pair", "SemiSupervisedVAE", "StackedVAE"]
