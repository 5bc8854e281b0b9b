"""Tables with columns of any kind and cells missing: what a data frame or a CSV file holds.

`TableVAE` is a VAE of a table: it imputes cells, draws rows, and says how probable rows are. `fit`
makes one, ``tables.fit(frame)``. A `Schema` says what each column is (real, positive, nonnegative,
bounded, count, binary, categorical or ordinal), turns a table into numbers with a mask of observed
cells, and turns numbers back into a table of the same library, dtypes and categories. Tables are
pandas or polars DataFrames, pyarrow Tables, NumPy arrays, and CSV or Parquet files; they need
``pip install "ppl-vae[tables]"``.

Example:
    >>> import pandas as pd
    >>> from ppl_vae import tables
    >>> people = pd.DataFrame({"age": [31, 45, None], "city": ["Bern", "Graz", "Lyon"]})
    >>> schema = tables.Schema.infer(people, kinds={"age": "count"})
    >>> values, mask = schema.encode(people)
    >>> values.tolist(), mask.tolist()
    ([[31.0, 0.0], [45.0, 1.0], [nan, 2.0]], [[True, True], [True, True], [False, True]])
"""

from ppl_vae.tables.column import KINDS, Column
from ppl_vae.tables.families import FAMILIES
from ppl_vae.tables.files import read_table, write_table
from ppl_vae.tables.imputer import TableImputer
from ppl_vae.tables.schema import Schema
from ppl_vae.tables.vae import TableVAE, fit, load

__all__ = [
    "FAMILIES",
    "KINDS",
    "Column",
    "Schema",
    "TableImputer",
    "TableVAE",
    "fit",
    "load",
    "read_table",
    "write_table",
]
