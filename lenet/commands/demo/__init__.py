"""Serve a page where you draw a digit and watch the network read it, layer by layer.

It also walks through the test set, and compares two networks. Only browsers on this machine can
open it.
"""

import contextlib
import os
import signal
import socket
from collections.abc import Sequence

from lenet.cli import add_data_folder, command_parser, number_from

HOST = "127.0.0.1"


def main(argv: Sequence[str]) -> int:
    """Returns: 0 after Ctrl-C, once it serves."""
    from lenet.commands.predict import add_network

    parser = command_parser(__name__, __doc__, "latest")
    add_network(parser, "sources", nargs="+")
    add_data_folder(parser)
    note = "default: %(default)s; 0 takes a free port"
    parser.add_argument("--port", type=number_from(0, 65535), default=8000, metavar="N", help=note)
    options = parser.parse_args(argv)
    with _listen(options.port) as listening:
        # Only now, because networks take seconds to load.
        import torch
        import uvicorn

        from lenet.commands.demo.network import open_network
        from lenet.commands.demo.server import make_app

        torch.set_num_threads(1)  # one image is too little work for two
        how = options.activation, options.pooling, options.data
        networks = [open_network(source, *how) for source in options.sources]
        print("\n".join(network.name for network in networks))
        # From here on Ctrl-C is the way to end it, and no interruption.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        print(f"http://{HOST}:{listening.getsockname()[1]}  (Ctrl-C ends it)", flush=True)
        app, wait = make_app(networks), 1  # seconds for open requests after Ctrl-C
        settings = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=wait)
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(settings).run(sockets=[listening])
    return 0


def _listen(port: int) -> socket.socket:
    try:
        listening = socket.create_server((HOST, port))
        # asyncio sets this on its own sockets only; without it an answer waits 40 ms.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listening
    except OSError as error:
        why = os.strerror(error.errno or 0)
        raise OSError(f"--port {port}: {why}; --port 0 takes a free one") from None
