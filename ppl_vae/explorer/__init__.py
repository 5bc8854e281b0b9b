"""A local page to play with trained pairs: the map of the latents, decoding, imputation.

Needs the extra ``explore``: ``pip install "ppl-vae[explore]"``.
"""

from ppl_vae.explorer.builder import explore, export

__all__ = ["explore", "export"]
