"""The worker frees what its runs leave behind, although much more is loaded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

# How many objects come into being, and stay, until Python frees an old one that only refers to itself.
_COUNT = """
import gc, weakref
from flows.orchestrator import prefect_worker

prefect_worker.load()

class Client:
    pass

client = Client()
client.itself = client
gone = weakref.ref(client)
gc.collect(1)  # a run takes seconds: its clients are old by its end
del client
kept = []
while gone() is not None:
    kept.append([])
print(len(kept))
"""


def test_what_a_run_leaves_is_freed_in_time(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", _COUNT]
    environment = {"PREFECT_HOME": str(tmp_path), "HOME": str(tmp_path)}
    done = subprocess.run(argv, env=environment, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120)
    assert int(done.stdout) < 30_000  # 70,000 if all that is loaded counts


def test_its_options_are_those_of_prefect(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "flows.orchestrator.prefect_worker", "--help"]
    environment = {"PREFECT_HOME": str(tmp_path), "HOME": str(tmp_path)}
    done = subprocess.run(argv, env=environment, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120)
    assert "--with-healthcheck" in done.stdout
