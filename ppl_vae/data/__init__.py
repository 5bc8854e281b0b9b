"""Datasets held in memory or in a file, and batches drawn from them by index.

A `Dataset` keeps the stored values (one byte per grey pixel) with a ``scale``: a model sees
``value / scale``. The default scale follows from the dtype; a likelihood of counts then takes
integers unscaled. Grey values are binarised for a Bernoulli likelihood, left as they are
(``binarise="none"``) for one of grey levels, and dequantised for a density. Missing entries are
False in the ``mask``, and NaN in x. A ``context`` is given beside x, such as a cell's batch and
library size (`from_counts`, `from_h5ad`), whose counts stay sparse. ``conversions`` records what
was done to the values. `Dataset.augmented` transforms training batches on the fly. `sprites` draws
images whose `Factors` of variation are known.

Loaders resume by ``state_dict`` and ``load_state_dict``, exactly and at no cost: `Batches`, and
`SemiSupervised`, a labelled stream beside an unlabelled one. `ResumableLoader` wraps any other.

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
from ppl_vae.data.builtin import LOADERS
from ppl_vae.data.counts import from_counts, from_h5ad
from ppl_vae.data.custom import from_file, from_folder, from_numpy, from_tensor
from ppl_vae.data.dataset import Dataset
from ppl_vae.data.factors import Factors
from ppl_vae.data.loading import SPLITS, load
from ppl_vae.data.minibatch import Batch, ContextBatch, MaskedBatch, Part
from ppl_vae.data.resumable_loader import ResumableLoader
from ppl_vae.data.semisupervised import SemiSupervised
from ppl_vae.data.sprite_images import sprites
from ppl_vae.data.value_transform import BINARISE

__all__ = [
    "BINARISE",
    "LOADERS",
    "SPLITS",
    "Batch",
    "Batches",
    "ContextBatch",
    "Dataset",
    "Factors",
    "MaskedBatch",
    "Part",
    "ResumableLoader",
    "SemiSupervised",
    "from_counts",
    "from_file",
    "from_folder",
    "from_h5ad",
    "from_numpy",
    "from_tensor",
    "load",
    "sprites",
]
