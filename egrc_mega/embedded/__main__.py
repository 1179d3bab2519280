"""`python -m egrc_mega.embedded`: one server process. It ends when its parent does (end of file on stdin)."""

import argparse
import os
import socket
import sys
import threading
from pathlib import Path

from aiohttp import web

from egrc_mega.embedded.connections import bear_a_flood
from egrc_mega.errors import RolloutError
from egrc_mega.observe.streams import show_text_plain
from egrc_mega.parent import die_with_parent

KEEP_ALIVE_S = 5.0
"""As SGLang's: without a whole head of a request for so long, a connection is closed. Our clients close after 2."""


def main() -> None:
    """Bind, load, serve; an error is one line on stderr."""
    parser = argparse.ArgumentParser(prog="python -m egrc_mega.embedded", description=__doc__)
    parser.add_argument("--model-path", type=Path, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 lets the system choose")
    parser.add_argument("--port-file", type=Path, help="gets the port once the server answers")
    parser.add_argument("--weight-version", default="default")
    parser.add_argument("--max-batch-size", type=int, default=256, help="rows generated at once")
    parser.add_argument("--exit-with-stdin", action="store_true", help="end when stdin closes")
    arguments = parser.parse_args()
    if arguments.exit_with_stdin:
        die_with_parent()  # a server that is stopped reads no end of file
        threading.Thread(target=_exit_at_end_of_stdin, daemon=True).start()
    show_text_plain()
    try:
        _serve(arguments)
    except RolloutError as error:
        print(f"egrc server: error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def _serve(arguments: argparse.Namespace) -> None:
    # bound before the model is loaded: a port in use is known at once, and nobody can take it in between
    listener = _bind(arguments.host, arguments.port)
    from egrc_mega.embedded.engine import Engine
    from egrc_mega.embedded.server import EmbeddedServer

    engine = Engine(arguments.model_path, arguments.weight_version, arguments.max_batch_size)
    app = EmbeddedServer(engine).application()
    app.on_startup.append(bear_a_flood)
    if arguments.port_file:
        port = listener.getsockname()[1]

        async def announce(_app: web.Application) -> None:
            partial = arguments.port_file.with_suffix(".tmp")
            partial.write_text(str(port))
            partial.replace(arguments.port_file)

        app.on_startup.append(announce)
    web.run_app(
        app, sock=listener, print=None, access_log=None, handler_cancellation=True, keepalive_timeout=KEEP_ALIVE_S
    )


def _bind(host: str, port: int) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        raise RolloutError(
            f"rollout.port: {host}:{port} cannot be used: {error.strerror}; choose another or 0"
        ) from error
    listener.listen(4096)
    return listener


def _exit_at_end_of_stdin() -> None:
    # not sys.stdin: its lock, held here, would abort the interpreter's own end
    while os.read(0, 4096):
        pass
    os._exit(0)


if __name__ == "__main__":
    main()
