"""Run a web page and an HTTP server that detect people.

The page shows parts and skeletons on the browser's own camera or on an image. The server is for
this machine only, unless --host says otherwise; clients then need a token.
"""

from __future__ import annotations

import argparse
import importlib.util
import secrets
import socket
from urllib.parse import urlencode

from .common import CommandError
from .model import add_model_arguments, load_predictor

LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "::1")
ANY_HOSTS = ("0.0.0.0", "::")
# Each may hold an upload in memory; a browser opens six.
MAX_CONNECTIONS = 64
SHUTDOWN_SECONDS = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `run`."""
    add_model_arguments(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="0: any free (default: %(default)s)")
    parser.add_argument(
        "--token", help="token that clients need (default: none for this machine, else generated)"
    )
    parser.add_argument(
        "--max-megapixels", type=float, default=25, help="per image (default: %(default)s)"
    )
    parser.add_argument(
        "--max-megabytes", type=float, default=10, help="per file (default: %(default)s)"
    )
    parser.add_argument(
        "--threads", type=int, default=1, help="images processed at once (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C."""
    for module in ("fastapi", "uvicorn", "websockets", "python_multipart", "swagger_ui_bundle"):
        if importlib.util.find_spec(module) is None:
            raise CommandError(f"no {module}: pip install 'detectron2_bodyparts[serve]'")
    import uvicorn

    from ..deploy.server import create_app

    if min(args.max_megapixels, args.max_megabytes, args.threads) <= 0:
        raise CommandError("expected limits and threads greater than 0")
    token = args.token
    if token == "":  # for example from an unset environment variable
        raise CommandError("--token: expected something, found nothing")
    if token is None and args.host not in LOOPBACK_HOSTS:
        token = secrets.token_urlsafe(16)
    with listen(args.host, args.port) as listener:
        max_bytes = int(args.max_megabytes * 2**20)
        app = create_app(
            load_predictor(args),
            token=token,
            max_bytes=max_bytes,
            max_pixels=int(args.max_megapixels * 1e6),
            threads=args.threads,
        )
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,  # it would contain the token
            server_header=False,
            limit_concurrency=MAX_CONNECTIONS,
            timeout_graceful_shutdown=SHUTDOWN_SECONDS,
            ws_max_size=max_bytes,
            ws_per_message_deflate=False,  # images are already compressed
        )
        print(f"{page_url(args.host, listener, token)}  (Ctrl-C ends it)", flush=True)
        try:
            uvicorn.Server(config).run(sockets=[listener])
        except KeyboardInterrupt:  # uvicorn raises this after it has closed everything
            pass
    return 0


def listen(host: str, port: int) -> socket.socket:
    """Open a listening TCP socket. Raises ``CommandError`` if that fails."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server(
            (host, port),
            family=family,
            dualstack_ipv6=host == "::" and socket.has_dualstack_ipv6(),
        )
    except (OSError, OverflowError) as e:
        raise CommandError(f"cannot listen on {host} port {port}: {e}") from e
    # Connections inherit it. asyncio sets it only for its own sockets, and without it the second
    # half of a response waits 40 ms for the client's delayed acknowledgement of the first.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def page_url(host: str, listener: socket.socket, token: str | None) -> str:
    """The page's URL; if listening on all addresses, with the machine's name."""
    name = socket.gethostname() if host in ANY_HOSTS else host
    name = f"[{name}]" if ":" in name else name
    query = f"?{urlencode({'token': token})}" if token else ""
    return f"http://{name}:{listener.getsockname()[1]}/{query}"
