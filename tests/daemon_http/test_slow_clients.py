"""Clients that do not read cost no memory and delay no other client."""

import statistics
import threading
import time
from collections.abc import Callable

import httpx2
import psutil
import pytest

from engine.runs.states import RunState
from tests.daemon_http.conftest import RUN, Daemon, add_events

EVENTS = 10_000
STALLED = 20


@pytest.mark.slow
def test_clients_that_stop_reading(new_daemon: Callable[[], Daemon]) -> None:
    daemon = new_daemon().start()
    folder = daemon.make_run(RunState.RUNNING, events=EVENTS)
    add_events(folder, EVENTS, text="x" * 1000)
    size = (folder / "events.jsonl").stat().st_size
    process = psutil.Process(daemon.pid)
    path = f"/v1/runs/{RUN}/events?follow=true&runs_dir={daemon.runs}"

    with daemon.client() as client:
        read_through(client, daemon)
        before = process.memory_info().rss
        connections = [daemon.connect() for _ in range(STALLED)]
        for connection in connections:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: engine\r\n\r\n".encode())
        # One journal grows meanwhile.
        writer = threading.Thread(target=add_events, args=(folder, EVENTS))
        writer.start()
        latencies, deadline = [], time.monotonic() + 2
        while time.monotonic() < deadline:
            begin = time.perf_counter()
            client.get("/v1/engine").raise_for_status()
            latencies.append(time.perf_counter() - begin)
            time.sleep(0.01)
        writer.join()
        after = process.memory_info().rss
        busy = process.cpu_percent(0.5)
        # A client that reads again receives everything.
        last = connections.pop()
        received = bytearray()
        while b"id: %d\n" % (3 * EVENTS - 1) not in received[-200_000:]:
            received += last.recv(2**20)
        last.close()
        for connection in connections:
            connection.close()
        counts = {received.count(b"\nid: %d\n" % number) for number in (1, EVENTS, 2 * EVENTS)}
        assert counts == {1}
        assert received.count(b"\nevent: train_step\n") == 3 * EVENTS
    print(
        f"{STALLED} clients that do not read, journal of {size / 1e6:.0f} MB: memory "
        f"{before / 1e6:.1f} -> {after / 1e6:.1f} MB, {busy:.0f} % CPU; others are answered in "
        f"{statistics.median(latencies) * 1e3:.1f} ms (worst {max(latencies) * 1e3:.0f} ms)"
    )
    assert after - before < STALLED * 1e6
    assert statistics.median(latencies) < 0.1
    assert daemon.is_alive()


def read_through(client: httpx2.Client, daemon: Daemon) -> None:
    """Read it all once, so that what is loaded only then does not count."""
    params = {"runs_dir": str(daemon.runs)}
    with client.stream("GET", f"/v1/runs/{RUN}/events", params=params) as answer:
        assert sum(piece.count(b"\nevent: ") for piece in answer.iter_bytes()) > EVENTS


def test_events_are_not_held_up_by_a_client_that_reads_slowly(daemon: Daemon) -> None:
    """Two readers of one run: the quick one is through long before the slow one."""
    folder = daemon.make_run(RunState.SUCCEEDED, events=EVENTS)
    size = (folder / "events.jsonl").stat().st_size
    path = f"/v1/runs/{RUN}/events?runs_dir={daemon.runs}"
    with daemon.connect() as slow, daemon.client() as client:
        slow.sendall(f"GET {path} HTTP/1.1\r\nHost: engine\r\n\r\n".encode())
        slow.recv(1000)
        begin = time.monotonic()
        answer = client.get(f"/v1/runs/{RUN}/events", params={"runs_dir": str(daemon.runs)})
        assert answer.content.count(b"\nevent: ") == EVENTS
        seconds = time.monotonic() - begin
    print(f"{EVENTS} events ({size / 1e6:.1f} MB) read in {seconds:.2f} s")
