"""The main function of every step: request in, work, result out, exit code."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from pydantic import ValidationError

from containers import network
from containers.contract import Step, StepRequest, StepResult
from containers.errors import BadInput, DiskFull, Error, Interrupted, Temporary, exhausted, faults, is_disk_full
from containers.events import Reporter
from containers.settings import StepSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

PRINTED: Final = Path("-")
_OF_THE_MACHINE: Final = (OSError, MemoryError, RuntimeError, ImportError)  # may be for want of something


@dataclass(frozen=True)
class Context:
    """What a step's work may use besides its request. `scratch` is an empty folder that is removed afterwards."""

    settings: StepSettings
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
        "--result", type=Path, required=True, help="where to write the StepResult, JSON; - says it on standard output"
    )
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, _terminate)

    started = time.monotonic()
    report = Reporter()
    try:
        network.arrange()
        settings = StepSettings()
        report = Reporter(structured=None if settings.log_format == "auto" else settings.log_format == "json")
        request = read_request(arguments.request, step)
        if arguments.result != PRINTED and not arguments.result.parent.is_dir():  # said before hours of work, not after
            raise BadInput(f"cannot write {arguments.result}: there is no folder {arguments.result.parent}")
        with tempfile.TemporaryDirectory(prefix=f"carwright-{step}-") as scratch:
            result = work(request, Context(settings, report, Path(scratch), arguments.result))
        timings = {"total": round(time.monotonic() - started, 3), **result.timings}
        write_result(arguments.result, result.model_copy(update={"timings": timings}))
    except Error as error:
        _fail(report, error)
    except KeyboardInterrupt:
        _fail(report, Interrupted(f"{step} was interrupted"))
    except _OF_THE_MACHINE as error:
        _fail(report, _want(step, error))
    sys.exit(0)


@contextmanager
def loading(step: Step) -> Iterator[None]:
    """Around the import of a step's work: large libraries are loaded then, and a machine with too little memory says so here."""
    try:
        yield
    except _OF_THE_MACHINE as error:
        _fail(Reporter(), _want(step, error))


def _want(step: Step, error: Exception) -> Error:
    """What the step lacked; raises the error itself where it is none of that."""
    if isinstance(error, OSError) and is_disk_full(error):
        return DiskFull(f"no space left while {step} wrote {error.filename or 'a file'}", remedy="free some")
    if what := exhausted(error):
        return Temporary(
            f"{step} needed more {what} than this machine lets it have",
            remedy="end other programs, or raise the limit (`ulimit -a`, or that of the container); it resumes",
            doctor="memory" if what == "memory" else "",
        )
    raise error


def _fail(report: Reporter, error: Error) -> NoReturn:
    report.error(error)
    sys.exit(error.exit_code)


def result_line(result: StepResult) -> str:
    """The result as one line of a log, for launchers that share no folder with the step."""
    return json.dumps({"event": "result", "result": result.model_dump(mode="json")})


def parse_result_line(line: str) -> StepResult | None:
    """What `result_line` made; None for any other line."""
    if not line.startswith('{"event": "result"'):
        return None
    try:
        return StepResult.model_validate(json.loads(line)["result"])
    except (ValueError, KeyError):  # half a line, or one of a newer step: then there is no result
        return None


def read_request(path: Path, step: Step) -> StepRequest:
    """Read and check a request; raises BadInput when it is unreadable or meant for another step."""
    try:
        request = StepRequest.model_validate_json(path.read_bytes())
    except OSError as error:
        raise BadInput(f"cannot read the request {path}: {error.strerror}") from error
    except ValidationError as error:
        raise BadInput(f"{path} is not a StepRequest: {faults(error)}") from error
    if request.step is not step:
        raise BadInput(f"{path} is a request for {request.step}, and this is {step}")
    return request


def write_result(path: Path, result: StepResult) -> None:
    """Write the result under a temporary name and rename it: a reader sees all of it or nothing. `-` prints it."""
    if path == PRINTED:
        print(result_line(result), flush=True)
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(result.model_dump_json(indent=2) + "\n")
    temporary.replace(path)


def _terminate(number: int, frame: FrameType | None) -> None:
    """SIGTERM unwinds like Ctrl-C, so that what the step started is stopped and scratch space removed."""
    raise KeyboardInterrupt
