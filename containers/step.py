"""The main function of every step: request in, work, result out, exit code."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from pydantic import ValidationError

from containers.contract import Step, StepRequest, StepResult
from containers.errors import BadInput, Error, Interrupted
from containers.events import Reporter
from containers.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType


@dataclass(frozen=True)
class Context:
    """What a step's work may use besides its request. `scratch` is an empty folder that is removed afterwards."""

    settings: Settings
    report: Reporter
    scratch: Path
    result_path: Path


def run(step: Step, work: Callable[[StepRequest, Context], StepResult]) -> NoReturn:
    """Parse the command line, do the work, write the result, exit with a code of `containers.errors`."""
    parser = argparse.ArgumentParser(
        prog=f"python -m containers.{step}",
        description=(work.__doc__ or "").strip().splitlines()[0] if work.__doc__ else None,
        epilog="Exit codes: 0 done, 2 bad input (not retried), 75 temporary (retried), anything else a bug.",
    )
    parser.add_argument("--request", type=Path, required=True, help="StepRequest, JSON")
    parser.add_argument(
        "--result", type=Path, required=True, help="where to write the StepResult, JSON"
    )
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, _terminate)

    settings = Settings()
    report = Reporter(
        structured=None if settings.log_format == "auto" else settings.log_format == "json"
    )
    started = time.monotonic()
    try:
        request = read_request(arguments.request, step)
        with tempfile.TemporaryDirectory(prefix=f"carwright-{step}-") as scratch:
            result = work(
                request, Context(settings, report, Path(scratch), arguments.result)
            )
        timings = {"total": round(time.monotonic() - started, 3), **result.timings}
        write_result(arguments.result, result.model_copy(update={"timings": timings}))
    except Error as error:
        report.error(error)
        sys.exit(error.exit_code)
    except ValidationError as error:
        report.error(BadInput(f"the request for {step} does not fit: {error}"))
        sys.exit(BadInput.exit_code)
    except KeyboardInterrupt:
        report.error(Interrupted(f"{step} was interrupted"))
        sys.exit(Interrupted.exit_code)
    sys.exit(0)


def read_request(path: Path, step: Step) -> StepRequest:
    """Read and check a request; raises BadInput when it is unreadable or meant for another step."""
    try:
        request = StepRequest.model_validate_json(path.read_bytes())
    except OSError as error:
        raise BadInput(f"cannot read the request {path}: {error.strerror}") from error
    except ValidationError as error:
        raise BadInput(f"{path} is not a StepRequest: {error}") from error
    if request.step is not step:
        raise BadInput(f"{path} is a request for {request.step}, and this is {step}")
    return request


def write_result(path: Path, result: StepResult) -> None:
    """Write the result under a temporary name and rename it: a reader sees all of it or nothing."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(result.model_dump_json(indent=2) + "\n")
    temporary.replace(path)


def _terminate(number: int, frame: FrameType | None) -> None:
    """SIGTERM unwinds like Ctrl-C, so that what the step started is stopped and scratch space removed."""
    raise KeyboardInterrupt
