"""The server of the page, on the loopback device alone."""

from __future__ import annotations

import socket
from collections.abc import Callable

from bokeh.application import Application
from bokeh.application.handlers.function import FunctionHandler
from bokeh.document import Document
from bokeh.server.server import Server

from ppl_vae.errors import reason

HOST = "127.0.0.1"


def free_port(owner: str, port: int | None) -> int:
    """Return a port that nothing listens on: the one given, or any.

    Raises OSError if it is taken.
    """
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((HOST, port or 0))
        except OSError as error:
            raise OSError(
                f"{owner}: port={port} cannot be used ({reason(error)}); leave it out for any that "
                f"is free"
            ) from error
        return int(trial.getsockname()[1])


def server(port: int, fill: Callable[[Document], None]) -> Server:
    """Return a server of the page that ``fill`` makes; it takes connections from this page alone.

    The caller runs its ``io_loop``, and stops it.
    """
    origins = [f"{host}:{port}" for host in ("localhost", HOST)]
    return Server(
        {"/": Application(FunctionHandler(fill))},
        address=HOST,
        port=port,
        allow_websocket_origin=origins,
    )
