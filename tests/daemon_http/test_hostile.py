"""Malformed requests: a clean response or none, and the engine survives."""

import random
import socket
import threading

import httpx2
import pytest

from engine.runs.states import RunState
from tests.daemon_http.conftest import RUN, Daemon, read_answer
from tests.daemon_http.raw import CLOSE, GET, HEAD, POST, exchange, status_and_message

pytestmark = pytest.mark.usefixtures("lives")


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
    status, message = status_and_message(exchange(daemon, sent))
    assert (status, message) == (400, "this is not valid HTTP/1.1")


@pytest.mark.parametrize("version", [b"1.0", b"2.0", b"9.9"])
def test_other_versions(daemon: Daemon, version: bytes) -> None:
    sent = b"GET /v1/engine HTTP/" + version + b"\r\n" + CLOSE + b"\r\n"
    assert exchange(daemon, sent)[0] == 200
    sent = b"PRI * HTTP/2.0\r\n" + CLOSE + b"\r\nSM\r\n\r\n"
    assert status_and_message(exchange(daemon, sent))[0] == 404


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
    status, message = status_and_message(exchange(daemon, sent))
    assert status in (400, 422)
    assert len(message) < 300


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "x", ""])
def test_bodies_of_another_kind(client: httpx2.Client, kind: str) -> None:
    answer = client.post("/v1/runs", content=b"{}", headers={"Content-Type": kind})
    assert answer.status_code == 422
    assert "Content-Type: application/json" in answer.json()["message"]


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
    """Also during the response to the previous one."""
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
    assert status_and_message(exchange(daemon, sent))[0] in (404, 405)
    sent = b"CONNECT engine:80 HTTP/1.1\r\n" + HEAD + b"Connection: close\r\n\r\n"
    assert status_and_message(exchange(daemon, sent))[0] == 404


def test_hanging_up(daemon: Daemon) -> None:
    for sent in (b"", b"G", GET[:-1], POST + b"Content-Length: 100\r\n\r\n{"):
        with daemon.connect() as connection:
            connection.sendall(sent)


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
