"""Requests as bytes, over a bare connection."""

import contextlib

from engine.runs.api_schema import Problem
from tests.daemon_http.conftest import Daemon, read_answer

HEAD = b"Host: engine\r\n"
CLOSE = b"Connection: close\r\n"
GET = b"GET /v1/engine HTTP/1.1\r\n" + HEAD + b"\r\n"
POST = b"POST /v1/runs HTTP/1.1\r\n" + HEAD + b"Content-Type: application/json\r\n"


def exchange(daemon: Daemon, sent: bytes) -> tuple[int, bytes]:
    """Status and body of the response to some bytes; status 0 without a response."""
    with daemon.connect() as connection:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(sent)
        return read_answer(connection)


def status_and_message(answer: tuple[int, bytes]) -> tuple[int, str]:
    problem = Problem.model_validate_json(answer[1])
    assert problem.exit_code == 2
    return answer[0], problem.message
