"""Limits on the size, duration and number of requests."""

import contextlib
import socket
import time
from collections.abc import Callable

import httpx2
import psutil
import pytest

from engine.daemon import limits
from engine.runs.api_schema import Problem
from engine.runs.states import RunState
from tests.daemon_http.conftest import RUN, Daemon, add_events, read_answer, within
from tests.daemon_http.raw import CLOSE, GET, HEAD, POST, exchange, status_and_message

pytestmark = pytest.mark.usefixtures("lives")


def chunks(count: int, size: int = 65536) -> bytes:
    return (b"%x\r\n" % size + b" " * size + b"\r\n") * count


def test_a_body_of_the_largest_size_is_read(daemon: Daemon) -> None:
    body = b"{}" + b" " * (limits.LARGEST_BODY - 2)
    sent = POST + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body
    assert status_and_message(exchange(daemon, sent))[0] == 422
    sent = POST + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n2\r\n{}\r\n"
    assert status_and_message(exchange(daemon, sent + chunks(15) + b"0\r\n\r\n"))[0] == 422


def test_a_body_that_is_too_large_is_refused(daemon: Daemon) -> None:
    before = psutil.Process(daemon.pid).memory_info().rss
    for length in (limits.LARGEST_BODY + 1, 10**12, 10**18):
        status, message = status_and_message(
            exchange(daemon, POST + b"Content-Length: %d\r\n\r\n" % length)
        )
        assert (status, message[:39]) == (413, "the body is larger than 1048576 bytes; ")
    sent = POST + b"Transfer-Encoding: chunked\r\n\r\n" + chunks(16) + b"1\r\n \r\n"
    assert status_and_message(exchange(daemon, sent))[0] == 413
    # Without an end, and with a route that does not look at it.
    sent = POST + b"Transfer-Encoding: chunked\r\n\r\n" + chunks(400)
    assert exchange(daemon, sent)[0] in (413, 0)
    sent = GET[:-2] + CLOSE + b"Transfer-Encoding: chunked\r\n\r\n" + chunks(400)
    assert exchange(daemon, sent)[0] in (200, 0)
    assert psutil.Process(daemon.pid).memory_info().rss - before < 20e6


def test_a_large_body_of_a_client_library(client: httpx2.Client) -> None:
    def parts() -> object:
        for _ in range(100):
            yield b" " * 65536

    headers = {"Content-Type": "application/json"}
    for content in (b" " * 2**22, parts()):
        answer = client.post("/v1/runs", content=content, headers=headers)  # type: ignore[arg-type]
        assert answer.status_code == 413
        assert "larger than" in answer.json()["message"]
    assert client.get("/v1/engine").status_code == 200


def test_a_large_head_that_comes_at_once(daemon: Daemon) -> None:
    for head in (b"X: " + b"a" * 100_000 + b"\r\n", b"X: a\r\n" * 20_000):
        assert status_and_message(exchange(daemon, GET[:-2] + head + b"\r\n"))[0] == 431
    sent = b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n" + HEAD + CLOSE + b"\r\n"
    status, message = status_and_message(exchange(daemon, sent))
    assert status == 404 and len(message) < 300


def test_a_flood_without_an_end_is_cut_off(daemon: Daemon) -> None:
    with daemon.connect() as connection:
        connection.sendall(b"GET /v1/engine HTTP/1.1\r\n")
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            for number in range(100_000):
                connection.sendall(b"X-%d: %s\r\n" % (number, b"a" * 100))
        assert read_answer(connection)[0] in (400, 0)


def test_descriptors_come_back(daemon: Daemon) -> None:
    """Streams that clients abandon in different ways."""
    daemon.make_run(RunState.RUNNING, events=2000)
    (daemon.runs / RUN / "logs").mkdir()
    (daemon.runs / RUN / "logs/0001-0001.log").write_text("x" * 10**6)
    process = psutil.Process(daemon.pid)
    before = process.num_fds()
    for number in range(40):
        what = ("events", "logs")[number % 2]
        path = f"/v1/runs/{RUN}/{what}?follow=true&runs_dir={daemon.runs}"
        with daemon.connect() as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\n".encode() + HEAD + b"\r\n")
            if number % 4 > 1:
                connection.recv(1000)
    assert within(5, lambda: process.num_fds() <= before)


def test_more_connections_than_there_may_be(daemon: Daemon) -> None:
    with contextlib.ExitStack() as stack:
        idle = [stack.enter_context(daemon.connect()) for _ in range(limits.MOST_CONNECTIONS + 5)]
        idle[-1].sendall(GET)
        status, body = read_answer(idle[-1])
        assert status == 503
        problem = Problem.model_validate_json(body)
        assert (problem.exit_code, problem.message[-16:]) == (3, "close some first")
        idle[0].sendall(GET)
        assert idle[0].recv(100).startswith(b"HTTP/1.1 200 ")
    assert within(5, daemon.is_alive)


def test_a_request_that_does_not_come_is_not_waited_for(
    new_daemon: Callable[[], Daemon],
) -> None:
    daemon = new_daemon()
    daemon.start(MAGIC_TEST_REQUEST_SECONDS="0.4")
    folder = daemon.make_run(RunState.RUNNING)
    stream = f"GET /v1/runs/{RUN}/events?follow=true&runs_dir={daemon.runs} HTTP/1.1\r\n".encode()

    def drip(connection: socket.socket) -> float:
        """How long a slow sender keeps a connection open."""
        begin = time.monotonic()
        with contextlib.suppress(OSError):
            for byte in b"X-Slow: " + b"a" * 1000:
                connection.sendall(bytes([byte]))
                time.sleep(0.02)
        return time.monotonic() - begin

    with daemon.connect() as connection:
        assert read_answer(connection) == (0, b"")
    for sent in (GET[:-2], POST + b"Content-Length: 10000\r\n\r\n"):
        with daemon.connect() as connection:
            connection.sendall(sent)
            assert 0.2 < drip(connection) < 3
    with daemon.connect() as connection:
        connection.sendall(GET)
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        connection.sendall(GET[:-2])
        assert 0.2 < drip(connection) < 3
    with daemon.connect() as connection:
        # A stream is a response, which has no time limit.
        connection.sendall(stream + HEAD + b"\r\n")
        time.sleep(1)
        add_events(folder, 1)
        received = b""
        while b"id: 0\n" not in received:
            piece = connection.recv(65536)
            assert piece
            received += piece
