"""What is no decent request: a clean answer or none, and the engine lives."""

import contextlib
import random
import socket
import threading
import time
from collections.abc import Callable

import httpx2
import psutil
import pytest

from engine.contract.api import Problem
from engine.contract.states import RunState
from engine.daemon import limits
from tests.daemon_http.conftest import RUN, Daemon, add_events, read_answer, within

HEAD = b"Host: engine\r\n"
CLOSE = b"Connection: close\r\n"
GET = b"GET /v1/engine HTTP/1.1\r\n" + HEAD + b"\r\n"
POST = b"POST /v1/runs HTTP/1.1\r\n" + HEAD + b"Content-Type: application/json\r\n"


@pytest.fixture(autouse=True)
def lives(daemon: Daemon) -> object:
    before = len(daemon.log.read_text())
    yield
    assert daemon.is_alive()
    assert "Traceback" not in daemon.log.read_text()[before:]


def exchange(daemon: Daemon, sent: bytes) -> tuple[int, bytes]:
    """Status and body that some bytes are answered with; 0 for no answer."""
    with daemon.connect() as connection:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(sent)
        return read_answer(connection)


def told(answer: tuple[int, bytes]) -> tuple[int, str]:
    problem = Problem.model_validate_json(answer[1])
    assert problem.exit_code == 2
    return answer[0], problem.message


@pytest.mark.parametrize(
    "sent",
    [
        b"hello\r\n\r\n",
        b"\x00\x01\x02\xff\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\xaa" * 300,
        b"GET /v1/engine\r\n\r\n",
        b"GET /v1/engine HTTP/1.1\r\n\r\n",
        b"GET  /v1/engine HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /v1/\xff HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /v1/engine HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n",
        b"GET /v1/engine HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n",
        b"GET /v1/engine HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        POST + b"Content-Length: -1\r\n\r\n",
        POST + b"Content-Length: 1e3\r\n\r\n",
        POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        POST + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n",
        POST + b"Transfer-Encoding: gzip\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 30 + b"\r\n",
        b"GET /v1/engine HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 1_000_000,
    ],
    ids=lambda sent: repr(sent[:40] + sent[-20:]),
)
def test_what_is_not_http_gets_400(daemon: Daemon, sent: bytes) -> None:
    status, message = told(exchange(daemon, sent))
    assert (status, message) == (400, "this is not valid HTTP/1.1")


def test_a_large_head_that_comes_at_once(daemon: Daemon) -> None:
    for head in (b"X: " + b"a" * 100_000 + b"\r\n", b"X: a\r\n" * 20_000):
        assert told(exchange(daemon, GET[:-2] + head + b"\r\n"))[0] == 431
    sent = b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n" + HEAD + CLOSE + b"\r\n"
    status, message = told(exchange(daemon, sent))
    assert status == 404 and len(message) < 300


@pytest.mark.parametrize("version", [b"1.0", b"2.0", b"9.9"])
def test_other_versions(daemon: Daemon, version: bytes) -> None:
    sent = b"GET /v1/engine HTTP/" + version + b"\r\n" + CLOSE + b"\r\n"
    assert exchange(daemon, sent)[0] == 200
    sent = b"PRI * HTTP/2.0\r\n" + CLOSE + b"\r\nSM\r\n\r\n"
    assert told(exchange(daemon, sent))[0] == 404


def test_a_flood_without_an_end_is_cut_off(daemon: Daemon) -> None:
    with daemon.connect() as connection:
        connection.sendall(b"GET /v1/engine HTTP/1.1\r\n")
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            for number in range(100_000):
                connection.sendall(b"X-%d: %s\r\n" % (number, b"a" * 100))
        assert read_answer(connection)[0] in (400, 0)


def test_random_bytes(daemon: Daemon) -> None:
    random_ = random.Random(0)
    for _ in range(200):
        post = POST + b"Content-Length: 2\r\n" + CLOSE + b"\r\n{}"
        sent = bytearray(random_.choice([GET[:-2] + CLOSE + b"\r\n", post]))
        for _ in range(random_.randint(1, 8)):
            sent[random_.randrange(len(sent))] = random_.randrange(256)
        with daemon.connect() as connection:
            connection.sendall(sent)
            # What became an unfinished request, or one that keeps its connection, ends so.
            connection.shutdown(socket.SHUT_WR)
            assert read_answer(connection)[0] in (0, 200, 400, 404, 405, 413, 422)


@pytest.mark.parametrize(
    "body",
    [
        b"{", b"[", b"null", b"1", b'"x"', b"[]", b"{}", b"\xff\xfe", b"\x00", b"NaN",
        b'{"id": NaN}', b'{"id": 1e999}', b'{"id": ' + b"9" * 6000 + b"}", b"[" * 100_000,
        b'{"a":' * 50_000, b'{"id": "\\ud800"}', b'{"\\ud800": 1}', b'{"config": {"model": 1}}',
    ],
    ids=lambda body: repr(body[:20]),
)  # fmt: skip
def test_bodies_that_are_wrong(daemon: Daemon, body: bytes) -> None:
    sent = POST + CLOSE + b"Content-Length: %d\r\n\r\n" % len(body) + body
    status, message = told(exchange(daemon, sent))
    assert status in (400, 422)
    assert len(message) < 300


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "x", ""])
def test_bodies_of_another_kind(client: httpx2.Client, kind: str) -> None:
    answer = client.post("/v1/runs", content=b"{}", headers={"Content-Type": kind})
    assert answer.status_code == 422
    assert "Content-Type: application/json" in answer.json()["message"]


def chunks(count: int, size: int = 65536) -> bytes:
    return (b"%x\r\n" % size + b" " * size + b"\r\n") * count


def test_a_body_of_the_largest_size_is_read(daemon: Daemon) -> None:
    body = b"{}" + b" " * (limits.LARGEST_BODY - 2)
    sent = POST + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body
    assert told(exchange(daemon, sent))[0] == 422
    sent = POST + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n2\r\n{}\r\n"
    assert told(exchange(daemon, sent + chunks(15) + b"0\r\n\r\n"))[0] == 422


def test_a_body_that_is_too_large_is_refused(daemon: Daemon) -> None:
    before = psutil.Process(daemon.pid).memory_info().rss
    for length in (limits.LARGEST_BODY + 1, 10**12, 10**18):
        status, message = told(exchange(daemon, POST + b"Content-Length: %d\r\n\r\n" % length))
        assert (status, message[:39]) == (413, "the body is larger than 1048576 bytes; ")
    sent = POST + b"Transfer-Encoding: chunked\r\n\r\n" + chunks(16) + b"1\r\n \r\n"
    assert told(exchange(daemon, sent))[0] == 413
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


def test_several_requests_at_once_are_answered_in_order(daemon: Daemon) -> None:
    body = b'{"a": 1}'
    post = POST + b"Content-Length: %d\r\n\r\n" % len(body) + body
    last = b"GET /nothing HTTP/1.1\r\n" + HEAD + b"Connection: close\r\n\r\n"
    with daemon.connect() as connection:
        connection.sendall(GET * 50 + post + GET + last)
        received = b""
        while piece := connection.recv(65536):
            received += piece
    lines = [line for line in received.split(b"\r\n") if b"HTTP/1.1 " in line]
    statuses = [int(line[line.index(b"HTTP/1.1 ") + 9 :][:3]) for line in lines]
    assert statuses == [200] * 50 + [422, 200, 404]


def test_garbage_behind_a_request(daemon: Daemon) -> None:
    """Also while the one before it is still being answered."""
    with daemon.connect() as connection:
        connection.sendall(GET + b"garbage\r\n\r\n")
        status, body = read_answer(connection)
        assert status == 200 and b"HTTP/1.1 400 " in body
    daemon.make_run(RunState.RUNNING, events=3)
    path = f"GET /v1/runs/{RUN}/events?follow=true&runs_dir={daemon.runs} HTTP/1.1\r\n".encode()
    with daemon.connect() as connection:
        connection.sendall(path + HEAD + b"\r\n" + b"garbage\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
    with daemon.connect() as connection:
        connection.sendall(path + HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 200 ")
        connection.sendall(b"no chunk\r\n\r\n")
        while connection.recv(65536):
            pass


@pytest.mark.parametrize(
    "head",
    [
        b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: eA==\r\n"
        b"Sec-WebSocket-Version: 13\r\n",
        b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: \r\n",
        b"Expect: 100-continue\r\nContent-Length: 2\r\n",
        b"Expect: miracles\r\n",
    ],
    ids=["websocket", "h2c", "continue", "expect"],
)
def test_offers_that_are_not_taken_up(daemon: Daemon, head: bytes) -> None:
    sent = GET[:-2] + head + b"Connection: close\r\n\r\n"
    assert exchange(daemon, sent + b"{}")[0] == 200


@pytest.mark.parametrize("target", [b"*", b"http://elsewhere/v1/engine", b"//v1/engine", b"/%00"])
def test_unusual_targets(daemon: Daemon, target: bytes) -> None:
    sent = b"OPTIONS " + target + b" HTTP/1.1\r\n" + HEAD + b"Connection: close\r\n\r\n"
    assert told(exchange(daemon, sent))[0] in (404, 405)
    sent = b"CONNECT engine:80 HTTP/1.1\r\n" + HEAD + b"Connection: close\r\n\r\n"
    assert told(exchange(daemon, sent))[0] == 404


def test_hanging_up(daemon: Daemon) -> None:
    for sent in (b"", b"G", GET[:-1], POST + b"Content-Length: 100\r\n\r\n{"):
        with daemon.connect() as connection:
            connection.sendall(sent)


def test_descriptors_come_back(daemon: Daemon) -> None:
    """Of streams that were abandoned in every way."""
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
        assert (problem.exit_code, problem.message[-10:]) == (3, "close some")
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
        """How long a byte now and then keeps a connection open."""
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
        # A stream is an answer: it may take as long as it likes.
        connection.sendall(stream + HEAD + b"\r\n")
        time.sleep(1)
        add_events(folder, 1)
        received = b""
        while b"id: 0\n" not in received:
            piece = connection.recv(65536)
            assert piece
            received += piece


def test_threads_that_ask_all_at_once(daemon: Daemon) -> None:
    daemon.make_run(RunState.RUNNING, events=100)
    wrong: list[int] = []

    def ask(seed: int) -> None:
        random_ = random.Random(seed)
        with daemon.client() as client:
            for _ in range(15):
                path = random_.choice(["", f"/{RUN}", f"/{RUN}/events", "/find", "/nothing"])
                answer = client.get("/v1/runs" + path, params={"runs_dir": str(daemon.runs)})
                if answer.status_code not in (200, 422):
                    wrong.append(answer.status_code)

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
