"""Trained pairs as files that run without this package: ``torch.export`` and ONNX.

`to_onnx` and `to_torch` write a folder with the encoder, the decoder and the log-density of the
likelihood, each a graph for batches of any size, compared with the pair before it is written.
ONNX needs ``pip install "ppl-vae[export]"``.
"""

from ppl_vae.export.folder import Exported, ExportError, to_onnx, to_torch

__all__ = ["ExportError", "Exported", "to_onnx", "to_torch"]
