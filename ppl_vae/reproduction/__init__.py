"""Published tables, reproduced: ``ppl-vae reproduce NAME``."""

from ppl_vae.reproduction.cs236 import CS236
from ppl_vae.reproduction.iwae import FAMILY, IWAE
from ppl_vae.reproduction.markdown import markdown
from ppl_vae.reproduction.priors import PRIOR_TABLES
from ppl_vae.reproduction.rate_distortion import RATE_DISTORTION
from ppl_vae.reproduction.records import Record, loaded
from ppl_vae.reproduction.reproduce import reproduce
from ppl_vae.reproduction.semisupervised import SEMI_SUPERVISED
from ppl_vae.reproduction.table import Published, Row, Table
from ppl_vae.reproduction.training import Data, Training

TABLES = {
    table.name: table
    for table in (CS236, IWAE, FAMILY, *PRIOR_TABLES, SEMI_SUPERVISED, RATE_DISTORTION)
}
"""The tables by name."""

__all__ = [
    "TABLES",
    "Data",
    "Published",
    "Record",
    "Row",
    "Table",
    "Training",
    "loaded",
    "markdown",
    "reproduce",
]
