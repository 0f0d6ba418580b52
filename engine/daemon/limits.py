"""Limits of a connection: its user, its duration and the size of its requests."""

import asyncio
import json
import os
import socket
import struct
from typing import Any

import h11
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from engine.daemon.http_errors import problem_response
from engine.runs.errors import ExitCode

LARGEST_HEAD, LARGEST_BODY = 2**15, 2**20
"""Bytes."""
REQUEST_SECONDS = 30.0
"""A connection that sends no complete request for this long is closed."""
MOST_CONNECTIONS = 256
_CREDENTIALS = struct.Struct("3i")
_TOO_MANY = "too_many_connections"
_TOO_LARGE = f"the body is larger than {LARGEST_BODY} bytes; send less at once"


def peer_uid(connection: socket.socket) -> int:
    """The user at the other end of a Unix socket, as the kernel reports it."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(raw)[1])


class PrivateProtocol(H11Protocol):
    """HTTP/1.1 for the engine's own user only, with a time limit per request."""

    _refused = False
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept the engine's own user; close connections of others, root included."""
        if peer_uid(transport.get_extra_info("socket")) != os.geteuid():
            self._refused = True
            transport.abort()
            return
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS:
            self.app_state = {**self.app_state, _TOO_MANY: True}
        self._update_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer."""
        if not self._refused:
            super().connection_lost(exc)
        self._stop_timer()

    def data_received(self, data: bytes) -> None:
        """Process received bytes; the timer stops while a request is being answered."""
        super().data_received(data)
        self._update_timer()

    def on_response_complete(self) -> None:
        """Start the timer of the next request."""
        super().on_response_complete()
        self._update_timer()

    def send_400_response(self, msg: str) -> None:
        """Answer invalid HTTP with a problem, unless a response has been partly sent."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = json.dumps({"message": "this is not valid HTTP/1.1", "exit_code": 2}).encode()
            headers = [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(body)).encode()),
                (b"connection", b"close"),
            ]
            start = h11.Response(status_code=400, headers=headers, reason=b"Bad Request")
            for event in (start, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _update_timer(self) -> None:
        """Run the timer while a request is incomplete."""
        if self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):
            self._stop_timer()
        elif self._deadline is None and not self._refused:
            self._deadline = self.loop.call_later(REQUEST_SECONDS, self.transport.abort)

    def _stop_timer(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class Limits:
    """ASGI middleware that limits the size of headers and bodies and the number of connections."""

    def __init__(self, app: ASGIApp) -> None:
        """Guard ``app``."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        refusal = _refusal(scope)
        if refusal is None:
            counted = _CountedBody(receive, send)
            await self._app(scope, counted.receive, counted.send)
        else:
            await refusal(scope, receive, send)


def _refusal(scope: Scope) -> Response | None:
    closing = {"Connection": "close"}
    if scope.get("state", {}).get(_TOO_MANY):
        message = f"the engine has {MOST_CONNECTIONS} connections already; close some first"
        return problem_response(503, message, ExitCode.UNREACHABLE, closing)
    if sum(len(name) + len(value) + 4 for name, value in scope["headers"]) > LARGEST_HEAD:
        message = f"the headers are larger than {LARGEST_HEAD} bytes; send fewer"
        return problem_response(431, message, ExitCode.USAGE, closing)
    length = dict(scope["headers"]).get(b"content-length", b"0")
    if len(length) > 15 or (length.isdigit() and int(length) > LARGEST_BODY):
        return problem_response(413, _TOO_LARGE, ExitCode.USAGE, closing)
    return None


class _CountedBody:
    """Counts the bytes of a body as they arrive."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send
        self._bytes = 0
        self._answering = False

    async def receive(self) -> Message:
        message = await self._receive()
        self._bytes += len(message.get("body", b""))
        if self._bytes <= LARGEST_BODY:
            return message
        if self._answering:
            return {"type": "http.disconnect"}
        raise HTTPException(413, _TOO_LARGE, {"Connection": "close"})

    async def send(self, message: Any) -> None:
        self._answering = True
        await self._send(message)
