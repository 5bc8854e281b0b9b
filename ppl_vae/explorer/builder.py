"""Serving the page of pairs, and writing it as a file."""

from __future__ import annotations

import webbrowser
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ppl_vae.errors import flag, integer, path_of
from ppl_vae.explorer.inputs import explored
from ppl_vae.explorer.plane import PLANES
from ppl_vae.io.atomic import write_file


def explore(
    pairs: Any,
    data: Any,
    *,
    columns: Mapping[str, Any] | None = None,
    image_shape: Sequence[int] | None = None,
    site: str | None = None,
    plane: str = "pca",
    num_data: int | None = 1000,
    seed: int = 0,
    port: int | None = None,
    show: bool = True,
    started: Callable[[str], None] = print,
) -> None:
    """Serve a page to explore pairs, until Ctrl-C.

    The map shows E_q(z|x)[z] of each datum in a plane of the latent space. The place under the
    pointer is decoded: E[x | z], or for a table the best guess of each column. A click chooses a
    datum: q(z | x) on the map, its reconstruction and draws; dragging from one datum to another
    interpolates between their means; sliders move the dimensions with the largest KL; what is
    painted on the datum is hidden, and imputed by ``pair.impute``.

    The server listens on 127.0.0.1, for browsers on this machine alone. Needs the extra
    ``explore``: ``pip install "ppl-vae[explore]"``.

    Args:
        pairs: one pair, or several by name, side by side; or a :class:`ppl_vae.tables.TableVAE`,
            or several of tables with the same columns.
        data: a :class:`ppl_vae.data.Dataset` or a tensor ``(N, *event)``; of a TableVAE a table.
        columns: further values to colour the map by, one for each datum, by name: numbers, or
            anything else as categories.
        image_shape: shape of one image, ``(H, W)`` or ``(C, H, W)``, if data are flat images.
        site: the latent on the map, where there are several; the one next to the data if None.
        plane: of more than two latent dimensions: ``"pca"``, the principal components of the
            means, or ``"kl"``, the two dimensions of the largest KL.
        num_data: size of a random subset of the data; None for all.
        seed: of everything random.
        port: to listen on; any that is free if None.
        show: open a browser.
        started: called with the address once the server listens.

    Raises:
        TypeError, ValueError: if pairs and data do not go together, or an argument is wrong.
        OSError: if the port is taken.
        ImportError: without the extra.
    """
    owner = "explore"
    port = None if port is None else integer(owner, "port", port, 1)
    if port is not None and port > 65535:
        raise ValueError(f"{owner}: port must be at most 65535, got {port}")
    show, plane = flag(owner, "show", show), _plane(owner, plane)
    there = explored(
        owner,
        pairs,
        data,
        columns=columns,
        image_shape=image_shape,
        site=site,
        num_data=num_data,
        seed=seed,
    )
    _require_bokeh(owner)
    from ppl_vae.explorer.live import Live  # of the extra
    from ppl_vae.explorer.page import Page
    from ppl_vae.explorer.server import free_port, server

    port = free_port(owner, port)

    def fill(document: Any) -> None:
        page = Page(there, plane, alone=False)
        Live(page, document)
        page.add_to(document)

    serving = server(port, fill)
    address = f"http://localhost:{port}/"
    try:
        serving.start()
        started(address)
        if show:
            webbrowser.open(address)
        serving.io_loop.start()
    except KeyboardInterrupt:
        pass
    finally:
        serving.stop()


def export(
    pairs: Any,
    data: Any,
    out: str | Path,
    *,
    columns: Mapping[str, Any] | None = None,
    image_shape: Sequence[int] | None = None,
    site: str | None = None,
    plane: str = "pca",
    num_data: int | None = 1000,
    grid: int = 25,
    seed: int = 0,
) -> Path:
    """Write the page of :func:`explore` as a file that needs no server, and return its path.

    The file holds all scripts and loads nothing. What it decodes was computed beforehand: a grid of
    places in the plane, and steps along each slider, the other dimensions at the average of the
    data; data, reconstructions and draws. Of many or large data it has the values of some, and says
    so. Masks cannot be painted.

    Args:
        out: a path ending in ``.html``.
        grid: places along each side of the plane.
        pairs, data, columns, image_shape, site, plane, num_data, seed: as for :func:`explore`.

    Raises:
        TypeError, ValueError: if pairs and data do not go together, or an argument is wrong.
        OSError: if the file cannot be written.
        ImportError: without the extra.
    """
    owner = "export"
    path, plane = path_of(owner, "out", out), _plane(owner, plane)
    if path.suffix.lower() != ".html":
        raise ValueError(f"{owner}: out must end in .html, got {str(out)!r}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{owner}: out={str(out)!r}: there is no folder {path.parent}")
    grid = integer(owner, "grid", grid, 2)
    there = explored(
        owner,
        pairs,
        data,
        columns=columns,
        image_shape=image_shape,
        site=site,
        num_data=num_data,
        seed=seed,
    )
    _require_bokeh(owner)
    from ppl_vae.explorer.fixed import html  # of the extra

    write_file(path, html(there, plane, grid))
    return path


def _plane(owner: str, plane: object) -> str:
    if plane not in PLANES:
        raise ValueError(f"{owner}: plane must be one of {PLANES}, got {plane!r}")
    return str(plane)


def _require_bokeh(owner: str) -> None:
    try:
        import bokeh  # noqa: F401
    except ModuleNotFoundError as error:
        raise ImportError(
            f"{owner} needs bokeh, which is not installed: pip install 'ppl-vae[explore]'"
        ) from error
