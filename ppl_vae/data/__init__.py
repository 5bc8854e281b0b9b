"""Datasets held in memory, and batches drawn from them by index.

A `Dataset` keeps the values as they came (one byte per grey pixel) with a ``scale``: the pixel that
a model sees is ``value / scale``. A scale that is left out follows from the dtype, and a likelihood
of counts then takes integers as they are. Grey values are binarised for a Bernoulli likelihood,
taken as they are (``binarise="none"``) for one of grey levels, and dequantised for a density.
Missing entries are False in its ``mask``, and NaN in what is drawn from it: nothing takes them for
data. What was done to values on their way is in its ``conversions``.

Loaders resume exactly, by ``state_dict`` and ``load_state_dict``: `Batches` and `SemiSupervised`, a
stream with labels beside one without, at no cost; loaders that are not ours as `Replayed`.

Example:
    >>> from ppl_vae import data
    >>> digits = data.load("digits")
    >>> digits
    Dataset('digits', 1437 x (1, 8, 8), torch.uint8 / 16, 10 classes)
    >>> for x, y in digits.batches(500, seed=0):
    ...     print(tuple(x.shape), tuple(y.shape))
    (500, 64) (500,)
    (500, 64) (500,)
    (437, 64) (437,)
"""

from ppl_vae.data.batches import Batches
from ppl_vae.data.binarisation import BINARISE
from ppl_vae.data.builtin import LOADERS
from ppl_vae.data.custom import from_file, from_folder, from_numpy, from_tensor
from ppl_vae.data.dataset import Dataset
from ppl_vae.data.images import IMAGE_SUFFIXES
from ppl_vae.data.loading import SPLITS, load
from ppl_vae.data.minibatch import Batch, MaskedBatch, Part
from ppl_vae.data.replay import Replayed
from ppl_vae.data.semisupervised import SemiSupervised

__all__ = [
    "BINARISE",
    "IMAGE_SUFFIXES",
    "LOADERS",
    "SPLITS",
    "Batch",
    "Batches",
    "Dataset",
    "MaskedBatch",
    "Part",
    "Replayed",
    "SemiSupervised",
    "from_file",
    "from_folder",
    "from_numpy",
    "from_tensor",
    "load",
]
