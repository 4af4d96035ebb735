"""The end of the front: whoever is connected, or just connects, is hung up on, and nothing is said about it."""

from __future__ import annotations

import gc
import logging
import socket
import tempfile
import threading
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from containers.serve.front import passing_on
from tests.support.waiting import until

if TYPE_CHECKING:
    import pytest


def _connect(port: int, connected: list[socket.socket]) -> None:
    with suppress(OSError):  # the front has ended
        while True:
            one = socket.create_connection(("127.0.0.1", port), 10)
            connected.append(one)
            one.sendall(b"a question that nobody answers")


def _many(connected: list[socket.socket]) -> bool:
    return len(connected) > 20


def test_connections_that_come_at_its_end_leave_nothing_behind(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    unraisable: list[object] = []
    monkeypatch.setattr("sys.unraisablehook", unraisable.append)
    with tempfile.TemporaryDirectory(prefix="s-") as folder, socket.socket(socket.AF_UNIX) as target:
        target.bind(f"{folder}/s")
        target.listen(2048)
        for _ in range(5):
            connected: list[socket.socket] = []
            listening = socket.create_server(("127.0.0.1", 0))
            port = listening.getsockname()[1]
            with passing_on(listening, Path(folder, "s")):
                client = threading.Thread(target=_connect, args=(port, connected))
                client.start()
                until(partial(_many, connected))
            client.join()
            for one in connected:
                one.close()
            gc.collect()  # asyncio complains of a task when it is collected
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert unraisable == []
