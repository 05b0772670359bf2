"""The page's server: for this computer alone, until Ctrl-C."""

import contextlib
import logging
import os
import socket
import sys
import threading
import urllib.parse
import webbrowser
from typing import Any

import flask
from rich.console import Console
from werkzeug.serving import BaseWSGIServer, make_server

from ....errors import ArgumentError

HOST = "127.0.0.1"
NAMES = (HOST, "localhost")
ENDING = 30  # seconds
# The browser is to ask nothing of any other server, whatever the page holds.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; frame-ancestors 'none'"
)


def guard(server: flask.Flask) -> None:
    """Answers those alone who ask for this computer by its own name: a page of elsewhere, whose name was made to lead
    here, asks by that name, or says where it comes from."""

    @server.before_request
    def refuse_others() -> Any:
        origin = flask.request.headers.get("Origin")
        asked = [f"http://{flask.request.host}", *([] if origin is None else [origin])]
        if any(urllib.parse.urlsplit(one).hostname not in NAMES for one in asked):
            return "jals explore answers 127.0.0.1 and localhost alone.\n", 403
        return None

    @server.after_request
    def confine(response: flask.Response) -> flask.Response:
        response.headers["Content-Security-Policy"] = POLICY
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        return response


def listen(server: flask.Flask, port: int | None) -> BaseWSGIServer:
    """A server that is bound, and does not answer yet.

    Args:
        port: None: one that is free.

    Raises:
        ArgumentError: for a port that is in use, or that may not be had.
    """
    guard(server)
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind((HOST, port or 0))
            bound.listen(128)
        except OSError as error:
            said = error.strerror or str(error)
            raise ArgumentError(
                f"port {port or 0} of {HOST} cannot be had: {said}. Choose another --port, or leave it out for a free "
                "one."
            ) from error
        logging.getLogger("werkzeug").setLevel(logging.ERROR)  # no line for each request
        return make_server(HOST, bound.getsockname()[1], server, threaded=True, fd=bound.fileno())


def serve(server: BaseWSGIServer, console: Console, browser: bool, turn: threading.Lock) -> None:
    """Answers until Ctrl-C, which is how it ends. `turn` is held by what computes."""
    address = f"http://{HOST}:{server.port}/"
    # Without a display there are browsers of the terminal alone, which would take it, and cannot show the page.
    shown = sys.platform != "linux" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    with contextlib.suppress(KeyboardInterrupt):
        console.print(f"The page is at {address} until Ctrl-C.", soft_wrap=True)
        if browser and not (shown and webbrowser.open(address)):
            console.print("No browser could be started: open the address in one.", soft_wrap=True)
        server.serve_forever()
    # A thread that compiles while the interpreter ends makes it crash: what is computed is waited for, and nothing new
    # begins.
    turn.acquire(timeout=ENDING)
    console.print("The page has ended.")
