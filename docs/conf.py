"""The documentation site: `make docs` builds it, without a network."""

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "_extensions"), str(HERE.parent)]
# Of the kernels that run pages: this package, one thread (two pages are read at a time).
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
)
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"  # figures are outputs
# They warn of a transport without encryption, which does not leave this machine.
profile = HERE.parent / "build" / "ipython" / "profile_default"
profile.mkdir(parents=True, exist_ok=True)
(profile / "ipython_kernel_config.py").write_text('get_config().Application.log_level = "ERROR"\n')
os.environ["IPYTHONDIR"] = str(profile.parent)

from pygments.lexers.special import TextLexer  # noqa: E402
from sphinx.highlighting import lexers  # noqa: E402

from ppl_vae.version import __version__  # noqa: E402

lexers["mermaid"] = TextLexer()  # GitHub draws it

project = "ppl_vae"
author = "The ppl_vae developers"
copyright = "The ppl_vae developers, Apache-2.0"
version = release = __version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
    # Ours, in docs/_extensions.
    "docstrings",
    "generated_pages",
    "llms_txt",
    "local_mathjax",
    "outside_files",
    "spread_cells",
]
exclude_patterns = ["_build", "_templates", "README.md"]
templates_path = ["_templates"]
# "Summarised items should not include the current module": here they are whole names.
suppress_warnings = ["autosummary.import_cycle", "mystnb.unknown_mime_type"]

# Markdown
myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath", "fieldlist"]
myst_heading_anchors = 4
myst_links_external_new_tab = False

# Pages with code cells are run at each build, and again only where they have changed.
nb_execution_mode = "cache"
nb_execution_cache_path = str(HERE.parent / "build" / "docs-cells")
nb_execution_raise_on_error = True
nb_execution_timeout = 180
nb_merge_streams = True
nb_output_stderr = "remove"  # warnings name files of the machine that built the pages

# Docstrings
autosummary_generate = True
autosummary_ignore_module_all = False
autoclass_content = "class"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
napoleon_custom_sections = ["Parameters"]
default_role = "py:obj"
smartquotes = False  # they make a dash of the hyphens of flags
viewcode_line_numbers = False

# Names of other libraries: inventories in this folder, so that nothing is fetched.
intersphinx_mapping = {
    name: (address, f"inventories/{name}.txt")
    for name, address in {
        "python": "https://docs.python.org/3",
        "torch": "https://docs.pytorch.org/docs/stable",
        "pyro": "https://docs.pyro.ai/en/stable",
        "numpy": "https://numpy.org/doc/stable",
        "pandas": "https://pandas.pydata.org/docs",
        "matplotlib": "https://matplotlib.org/stable",
    }.items()
}
intersphinx_disabled_reftypes = ["*"]

# Pages
html_theme = "furo"
html_title = f"ppl_vae {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = True
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True}
pygments_style = "friendly"
pygments_dark_style = "github-dark"
copybutton_exclude = ".linenos, .gp, .go"
