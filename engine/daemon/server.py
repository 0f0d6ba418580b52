"""Serving an engine at a Unix socket until it is told to end."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator

import anyio.to_thread
import uvicorn

from engine.daemon.api import make_app
from engine.daemon.engine import Engine
from engine.daemon.limits import MOST_CONNECTIONS, PrivateProtocol
from engine.daemon.listener import Listener
from engine.daemon.serving import Serving
from engine.runs.errors import UnreachableError

_CHECK_TICKS = 20
"""The socket's name is looked at every so many tenths of a second."""
_CUT_SECONDS = 1.5
"""Clients that have not taken the end of their answer by then are cut off."""
_LAST_RESORT_SECONDS = 10.0
_log = logging.getLogger(__name__)


def serve(engine: Engine, listener: Listener, listening: socket.socket) -> None:
    """Start the engine and serve it at an open socket until a signal or a request ends it."""
    engine.start()
    try:
        Server(engine, listener).run(sockets=[listening])
    finally:
        engine.stop()


class Server(uvicorn.Server):
    """Uvicorn at a socket of ours, whose name is made again where it was lost."""

    def __init__(self, engine: Engine, listener: Listener) -> None:
        """Serve ``engine`` at the socket that ``listener`` has opened."""
        self._listener = listener
        self._serving = Serving(engine, lambda: str(listener.path), self.stop)
        self._complaint = ""
        config = uvicorn.Config(
            make_app(self._serving),
            http=PrivateProtocol,
            ws="none",
            loop="asyncio",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=15,
            timeout_graceful_shutdown=2,
        )
        super().__init__(config)

    def stop(self) -> None:
        """End soon; asked twice, without waiting for anybody."""
        if self.should_exit:
            self.force_exit = True
            return
        self.should_exit = True
        self._serving.ending.set()
        notify("STOPPING=1")
        asyncio.get_running_loop().call_later(_CUT_SECONDS, self._cut)
        # A disk that hangs holds a thread for ever; runs do not need this process.
        last_resort = threading.Timer(_LAST_RESORT_SECONDS, os._exit, (1,))
        last_resort.daemon = True
        last_resort.start()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to serve, and say so."""
        await super().startup(sockets=sockets)
        # A disk that hangs holds a thread of each who asks about it, and others want to be served.
        anyio.to_thread.current_default_thread_limiter().total_tokens = MOST_CONNECTIONS
        _log.info("serving at %s, process %d", self._listener.path, os.getpid())
        notify("READY=1")

    async def on_tick(self, counter: int) -> bool:
        """Look after the socket now and then."""
        if counter % _CHECK_TICKS == 0 and self._listener.is_lost():
            await self._listen_again()
        return await super().on_tick(counter)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """End at a signal; unlike uvicorn, then go on to what comes after serving."""
        loop = asyncio.get_running_loop()
        signals = [signal.SIGTERM, signal.SIGINT]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            signals.append(signal.SIGHUP)
        for number in signals:
            loop.add_signal_handler(number, self.stop)
        try:
            yield
        finally:
            for number in signals:
                loop.remove_signal_handler(number)

    async def _listen_again(self) -> None:
        """Listen at a new socket; connections of the old one go on."""
        try:
            listening = self._listener.open()
        except UnreachableError as error:
            if str(error) != self._complaint:
                self._complaint = str(error)
                _log.error("the socket is lost and cannot be made again: %s", error)
            return
        self._complaint = ""
        server = await asyncio.get_running_loop().create_server(self._protocol, sock=listening)
        for old in self.servers:
            old.close()
        self.servers = [server]
        _log.warning("the socket was lost; serving at %s now", self._listener.path)

    def _protocol(self) -> PrivateProtocol:
        return PrivateProtocol(self.config, self.server_state, self.lifespan.state)

    def _cut(self) -> None:
        for connection in list(self.server_state.connections):
            if isinstance(connection, PrivateProtocol):
                connection.transport.abort()


def notify(state: str) -> None:
    """Tell the service manager, if one asked to be told."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    name = "\0" + address[1:] if address.startswith("@") else address
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.setblocking(False)
        try:
            channel.sendto(state.encode(), name)
        except OSError as error:
            _log.warning("cannot tell the service manager %s: %s", state, error.strerror)
