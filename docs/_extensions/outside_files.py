"""Links to files outside this folder, such as CONTRIBUTING.md: pages here, or plain text."""

from __future__ import annotations

import os
from pathlib import Path

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

ROOT = Path(__file__).parents[2]
PAGES = {"README.md": "index", "CHANGELOG.md": "changelog", "CONTRIBUTING.md": "contributing"}


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the transform."""
    app.add_transform(OutsideFiles)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


class OutsideFiles(SphinxTransform):
    """What GitHub resolves within the repository, resolved within the site."""

    default_priority = 1

    def apply(self) -> None:
        """Replace the links of a page."""
        for link in list(self.document.findall(addnodes.download_reference)):
            self._replace(link, link["reftarget"])
        for link in list(self.document.findall(addnodes.pending_xref)):
            if link["reftype"] == "myst" and (ROOT / link["reftarget"]).is_file():
                self._replace(link, os.path.relpath(ROOT / link["reftarget"], ROOT / "docs"))

    def _replace(self, link: nodes.Element, target: str) -> None:
        here = Path(self.env.doc2path(self.env.docname)).parent
        path = Path(os.path.normpath(here / target))
        if not path.is_relative_to(ROOT) or path.is_relative_to(ROOT / "docs"):
            return
        name = path.relative_to(ROOT).as_posix()
        children = [child.deepcopy() for child in link.children]
        if name in PAGES:
            new: nodes.Element = addnodes.pending_xref(
                "",
                *children,
                refdomain="std",
                reftype="doc",
                refexplicit=True,
                reftarget=f"/{PAGES[name]}",
                refwarn=True,
                refdoc=self.env.docname,
            )
        else:
            new = nodes.literal("", name)
        link.replace_self(new)
