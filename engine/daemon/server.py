"""Serve an engine at a Unix socket until a signal or a request stops it."""

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

from engine.daemon.engine import Engine
from engine.daemon.limits import MOST_CONNECTIONS, PrivateProtocol
from engine.daemon.listener import Listener
from engine.daemon.routes import make_app
from engine.daemon.serving import Serving
from engine.runs.errors import UnreachableError

_CHECK_TICKS = 20
"""Ticks of 0.1 s between two checks of the socket's path."""
_CUT_SECONDS = 1.5
"""Connections of clients that have not read their response by then are closed."""
_LAST_RESORT_SECONDS = 10.0
_log = logging.getLogger(__name__)


def serve(engine: Engine, listener: Listener, listening: socket.socket) -> None:
    """Start the engine and serve it at an open socket until it is stopped."""
    engine.start()
    try:
        Server(engine, listener).run(sockets=[listening])
    finally:
        engine.stop()


class Server(uvicorn.Server):
    """Uvicorn at our own socket, which is bound again if its path is lost."""

    def __init__(self, engine: Engine, listener: Listener) -> None:
        """Serve ``engine`` at the socket that ``listener`` has opened."""
        self._listener = listener
        self._serving = Serving(engine, lambda: str(listener.path), self.stop)
        self._problem = ""
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
        """Shut down; the second call does not wait for open connections."""
        if self.should_exit:
            self.force_exit = True
            return
        self.should_exit = True
        self._serving.ending.set()
        notify("STOPPING=1")
        asyncio.get_running_loop().call_later(_CUT_SECONDS, self._cut)
        # A thread at a hung disk never ends. Runs do not need this process, so it may exit.
        last_resort = threading.Timer(_LAST_RESORT_SECONDS, os._exit, (1,))
        last_resort.daemon = True
        last_resort.start()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to serve, and notify the service manager."""
        await super().startup(sockets=sockets)
        # Requests about a hung disk block their threads, so others need many more.
        anyio.to_thread.current_default_thread_limiter().total_tokens = MOST_CONNECTIONS
        _log.info("serving at %s, process %d", self._listener.path, os.getpid())
        notify("READY=1")

    async def on_tick(self, counter: int) -> bool:
        """Check the socket from time to time."""
        if counter % _CHECK_TICKS == 0 and self._listener.is_lost():
            await self._listen_again()
        return await super().on_tick(counter)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop at a signal. Unlike uvicorn, do not raise it again after serving."""
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
        """Bind a new socket; connections of the old one continue."""
        try:
            listening = self._listener.open()
        except UnreachableError as error:
            if str(error) != self._problem:
                self._problem = str(error)
                _log.error("the socket is lost and cannot be bound again: %s", error)
            return
        self._problem = ""
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
    """Send a state to the service manager, if there is one (sd_notify)."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    name = "\0" + address[1:] if address.startswith("@") else address
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.setblocking(False)
        try:
            channel.sendto(state.encode(), name)
        except OSError as error:
            _log.warning("cannot notify the service manager of %s: %s", state, error.strerror)
