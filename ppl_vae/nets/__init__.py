"""Networks: ``(..., features_in) -> (..., features_out)``, any number of leading dimensions."""

from ppl_vae.nets.mlp import MLP

__all__ = ["MLP"]
