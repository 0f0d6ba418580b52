"""The requests library over a Unix socket: every URL leads there."""

import socket
from pathlib import Path
from typing import Any

import urllib3
from requests import PreparedRequest
from requests.adapters import HTTPAdapter


class _Connection(urllib3.connection.HTTPConnection):
    place = ""

    def _new_conn(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(10)
        connection.connect(self.place)
        return connection


class UnixAdapter(HTTPAdapter):
    """Sends requests to one socket and counts the answers by status."""

    def __init__(self, place: Path) -> None:
        super().__init__()
        self.answers: dict[int, int] = {}
        self._pool = urllib3.HTTPConnectionPool("engine", maxsize=4)
        self._pool.ConnectionCls = type("Connection", (_Connection,), {"place": str(place)})

    def get_connection_with_tls_context(
        self, request: PreparedRequest, verify: Any, proxies: Any = None, cert: Any = None
    ) -> Any:
        return self._pool

    def send(self, *arguments: Any, **options: Any) -> Any:
        answer = super().send(*arguments, **options)
        self.answers[answer.status_code] = self.answers.get(answer.status_code, 0) + 1
        return answer
