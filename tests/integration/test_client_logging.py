"""Prefect's client writes nothing of its own between the lines of a command, even when its server has gone."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from containers.process import inherited, run
from flows.local import client_logging

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.integration

_PROGRAM = """
import logging, sys
from flows.local import client_logging
client_logging.set_up()
from prefect.logging.handlers import APILogWorker
APILogWorker.instance().send({"name": "x", "level": 20, "message": "m", "timestamp": "2026-01-01T00:00:00Z"})
APILogWorker.drain_all(timeout=60)
logging.getLogger("prefect._internal.concurrency").error("a service failed with 2 pending items")
logging.getLogger("httpx").error("a library's")
print("error: the server of this run has ended", file=sys.stderr)
"""


def test_the_error_of_a_run_stands_alone(tmp_path: Path) -> None:
    nobody = {
        "PREFECT_API_URL": "http://127.0.0.1:9/api",
        "PREFECT_HOME": str(tmp_path),
        "PREFECT_CLIENT_MAX_RETRIES": "0",
    }
    done = run([sys.executable, "-c", _PROGRAM], env={**inherited(), **client_logging.ENVIRONMENT, **nobody})
    assert done.stderr == "error: the server of this run has ended\n"
