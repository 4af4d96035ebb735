"""How long a step's environment takes to make, and to find again.

    python -m tests.bench.environments [STEP ...]

For each step (default: download): by pip and by uv, with nothing in its cache and with what the first time left there, then as
it is found again; and how long the first two starts of its Python take to import what the step works with, the first of
which compiles.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from typing import Final

from containers.contract import Step
from containers.process import inherited, run

_WORKS_WITH: Final = {
    Step.DOWNLOAD: "huggingface_hub, httpx, boto3",
    Step.QUANTIZE: "llmcompressor",
    Step.PUSH: "httpx, boto3",
    Step.SERVE: "vllm.entrypoints.openai.api_server",
    Step.EVALUATE: "numpy, httpx, boto3",
}


_MAKE: Final = """
import sys, time
from pathlib import Path
from containers.contract import Step
from infra.environments import uv
from infra.environments.environment import ensure, lock_of
step = Step(sys.argv[1])
if sys.argv[3] == "pip":
    uv.program = lambda: None
started = time.monotonic()
made = ensure(step.value, lock_of(step), Path(sys.argv[2]), on_event=lambda event: None)
print(time.monotonic() - started, made.python)
"""
_START: Final = "import time; t = time.monotonic(); import {}; print(time.monotonic() - t)"


def measure(step: Step) -> list[tuple[str, float]]:
    """What was done and how long it took, in seconds."""
    with tempfile.TemporaryDirectory(prefix="carwright-bench-") as scratch:
        variables = inherited("PIP_") | {"PIP_CACHE_DIR": f"{scratch}/pip", "UV_CACHE_DIR": f"{scratch}/uv"}

        def make(cache: str, installer: str = "uv") -> tuple[float, str]:
            done = run([sys.executable, "-c", _MAKE, step.value, f"{scratch}/{cache}", installer], env=variables)
            seconds, python = done.stdout.split()
            return float(seconds), python

        found = []
        for installer in ("pip", "uv"):
            found.append((f"made by {installer}, its cache empty", make(f"{installer}-1", installer)[0]))
            found.append((f"made by {installer}, its cache filled", make(f"{installer}-2", installer)[0]))
        again, python = make("uv-2")
        found.append(("found again", again))
        for start in ("first", "second"):
            done = run([python, "-c", _START.format(_WORKS_WITH[step])], env=inherited())
            found.append((f"{start} import of {_WORKS_WITH[step]}", float(done.stdout.split()[-1])))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.environments")
    parser.add_argument("steps", nargs="*", type=Step, default=[Step.DOWNLOAD])
    for step in parser.parse_args().steps:
        for what, seconds in measure(step):
            print(f"{step:10} {seconds:8.2f} s  {what}")


if __name__ == "__main__":
    main()
