"""One question to the engine and its answer: HTTP over a Unix socket.

Short questions go through the standard library, because loading an HTTP client with everything it
can do takes longer than asking. Each has a connection of its own: on one machine that costs
nothing, and nothing is left open when an engine ends. Streams are in ``stream``.
"""

import http.client
import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode


class BrokenOffError(Exception):
    """Nobody listens, or whoever did ended or fell silent before answering."""


class NobodyError(BrokenOffError):
    """Nobody listens, so nobody has been asked."""


class SilentError(BrokenOffError):
    """Somebody listens, but has not answered in time."""


@dataclass(frozen=True)
class Question:
    """What is asked."""

    method: str
    path: str
    query: Mapping[str, str]
    body: Any = None
    timeout: float = 60.0


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    content: bytes

    def json(self) -> Any:
        """The content; None if it is no JSON."""
        try:
            return json.loads(self.content)
        except ValueError:
            return None


def ask(listening: Path, question: Question) -> Answer:
    """Ask whoever listens at a socket.

    Raises:
        BrokenOffError: if there is no answer.
    """
    connection = _Connection(listening, question.timeout)
    target = question.path + (f"?{urlencode(question.query)}" if question.query else "")
    body = None if question.body is None else json.dumps(question.body).encode()
    headers = {} if body is None else {"Content-Type": "application/json"}
    try:
        connection.connect()
    except BlockingIOError as error:
        # So many wait to be let in that there is no room for another one.
        raise SilentError(_told(error)) from None
    except OSError as error:
        raise NobodyError(_told(error)) from None
    try:
        connection.request(question.method, target, body, headers)
        answer = connection.getresponse()
        return Answer(answer.status, answer.read())
    except TimeoutError:
        raise SilentError(f"nothing came for {question.timeout:.0f} s") from None
    except (OSError, http.client.HTTPException) as error:
        raise BrokenOffError(_told(error)) from None
    finally:
        connection.close()


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


class _Connection(http.client.HTTPConnection):
    def __init__(self, listening: Path, timeout: float) -> None:
        super().__init__("engine", timeout=timeout)
        self._listening = listening

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        try:
            self.sock.connect(str(self._listening))
        except BaseException:
            self.close()
            raise
