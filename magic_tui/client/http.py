"""HTTP over the engine's Unix socket, on the standard library.

A client library such as httpx2 adds 0.12 s of CPU time to the 0.36 s of ``magic ls --json``, which
only sends one short request. Each request has a connection of its own: on one machine that costs
nothing, and no connection is left open when an engine ends.
"""

import contextlib
import http.client
import json
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode


class DisconnectedError(Exception):
    """There is no listener, or it closed the connection or timed out before the response."""


class NotListeningError(DisconnectedError):
    """There is no listener, so the request was not received."""


class NoResponseError(DisconnectedError):
    """There is a listener, but it did not respond in time."""


@dataclass(frozen=True)
class Request:
    """One request."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    timeout: float = 60.0
    """Seconds for the connection, and for each read of a response that is no stream."""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Response:
    """The response to a request."""

    status: int
    content: bytes

    def json(self) -> Any:
        """The content; None if it is not JSON."""
        try:
            return json.loads(self.content)
        except ValueError:
            return None


@dataclass(frozen=True)
class Stream:
    """A response that is read line by line."""

    status: int
    lines: Iterator[str]


def send(socket_path: Path, request: Request) -> Response:
    """Send a request to the listener at a socket.

    Raises:
        DisconnectedError: if there is no response.
    """
    with _response(socket_path, request, request.timeout) as response:
        return Response(response.status, response.read())


@contextlib.contextmanager
def open_stream(
    socket_path: Path, request: Request, read_timeout: float | None
) -> Iterator[Stream]:
    """Send a request and read the response in lines; each read may take ``read_timeout`` s.

    Raises:
        DisconnectedError: if there is no response, or it ends early.
    """
    with _response(socket_path, request, read_timeout) as response:
        yield Stream(response.status, _lines(response))


@contextlib.contextmanager
def _response(
    socket_path: Path, request: Request, read_timeout: float | None
) -> Iterator[http.client.HTTPResponse]:
    connection = _UnixConnection(socket_path, request.timeout)
    target = request.path + (f"?{urlencode(request.query)}" if request.query else "")
    body = None if request.body is None else json.dumps(request.body).encode()
    headers = {} if body is None else {"Content-Type": "application/json"}
    try:
        connection.connect()
        connection.sock.settimeout(read_timeout)
    except BlockingIOError as error:
        # The listener's backlog is full.
        raise NoResponseError(_described(error)) from None
    except OSError as error:
        raise NotListeningError(_described(error)) from None
    try:
        connection.request(request.method, target, body, {**headers, **request.headers})
        yield connection.getresponse()
    except TimeoutError:
        raise NoResponseError("no response in time") from None
    except (OSError, http.client.HTTPException) as error:
        raise DisconnectedError(_described(error)) from None
    finally:
        connection.close()


def _lines(response: http.client.HTTPResponse) -> Iterator[str]:
    """The lines of a response as they arrive.

    ``read1`` raises an error if the response is cut off; ``readline`` would not.
    """
    rest = b""
    while piece := response.read1(1 << 16):
        *complete, rest = (rest + piece).split(b"\n")
        for line in complete:
            yield line.decode(errors="replace")
    if rest:
        yield rest.decode(errors="replace")


def _described(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, socket_path: Path, timeout: float) -> None:
        super().__init__("engine", timeout=timeout)
        self._socket_path = socket_path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        try:
            self.sock.connect(str(self._socket_path))
        except BaseException:
            self.close()
            raise
