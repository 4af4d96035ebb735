"""Runs a step as a child process in the step's own virtual environment."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from containers import private
from containers.contract import Step
from containers.errors import BadInput
from containers.process import Child, inherited
from containers.safe_path import name_fault
from containers.settings import absolute
from containers.step_variables import step_variables
from containers.suites import makes_load
from flows.runners.process import run_folders
from flows.runners.step_protocol import LOG, REQUEST, RESULT, StepOutput, read_result
from infra.environments.environment import prepare

if TYPE_CHECKING:
    from containers.contract import StepRequest, StepResult
    from containers.events import OnEvent
    from infra.environments.environment import Environment
    from infra.settings import Settings


@dataclass(frozen=True)
class ProcessLauncher:
    """Steps as processes of this machine; `settings` must name a store that is up."""

    settings: Settings

    def prepare(self, request: StepRequest, on_event: OnEvent) -> None:
        prepare(request.step, self.settings, on_event)

    def run(self, request: StepRequest, on_event: OnEvent) -> StepResult:
        settings = _with_load_generator(self.settings, request, on_event)
        return run_in(prepare(request.step, settings, on_event), settings, request, on_event)


def _with_load_generator(settings: Settings, request: StepRequest, on_event: OnEvent) -> Settings:
    """The settings with the Python whose vLLM puts load on an endpoint, if that is what the request does: the one that serves."""
    if settings.evaluate.load_python is not None or not makes_load(request):
        return settings
    python = settings.serve.python or prepare(Step.SERVE, settings, on_event).python
    evaluate = settings.evaluate.model_copy(update={"load_python": python})
    return settings.model_copy(update={"evaluate": evaluate})


SCRATCH = "scratch"
# By these the operator of a machine with GPUs tells vLLM what only he knows: networks, kernels to leave out.
_OF_THE_GPUS = ("CUDA_", "NCCL_", "VLLM_")


def run_in(environment: Environment, settings: Settings, request: StepRequest, on_event: OnEvent) -> StepResult:
    """Run the step in its environment, to its end."""
    folder = run_folder(settings, request)
    output = StepOutput(on_event)
    child = Child(
        argv=step_command(environment, request, folder),
        env=step_environment(settings, request, environment, folder),
        cwd=folder / SCRATCH,
        scratch=True,
        log_file=folder / LOG,
        on_line=output.line,
        umask=-1 if request.step is Step.PUSH else private.UMASK,  # a pushed folder is the user's, and so is its mode
    )
    try:
        with child:
            code = child.wait()
    finally:
        shutil.rmtree(folder / SCRATCH, ignore_errors=True)
    if code != 0:
        raise output.failure(request.step, code, where(folder))
    return read_result(left(folder), request.step)


def run_folder(settings: Settings, request: StepRequest) -> Path:
    """A new folder for the request, the result and the log of one start of a step; raises BadInput for a run's name that
    is no name of a folder.
    """
    if fault := name_fault(request.run):
        raise BadInput(f"the name of a run {request.run!r} {fault}")
    parent = run_folders.of_run(settings.home.resolve(), request.run)
    return Path(tempfile.mkdtemp(prefix=f"{request.step}-", dir=parent))


def step_command(environment: Environment, request: StepRequest, folder: Path) -> list[str]:
    """Write the request into `folder`, make its scratch, and return the command that answers with `result.json` there."""
    private.folder(folder, SCRATCH)
    private.write(folder / REQUEST, request.model_dump_json(indent=2) + "\n")
    return [
        str(environment.python),
        "-m",
        f"containers.{request.step}",
        "--request",
        str(folder / REQUEST),
        "--result",
        str(folder / RESULT),
    ]


def step_environment(
    settings: Settings, request: StepRequest, environment: Environment, folder: Path
) -> dict[str, str]:
    """Environment variables of a step: the settings that this very step needs, with their secrets, and no others."""
    here = absolute(settings).model_copy(update={"log_format": "json"})
    plain, secret = step_variables(here, request)
    machine = inherited(*(_OF_THE_GPUS if request.step is Step.SERVE else ()))
    machine.pop("VLLM_API_KEY", None)  # a secret, and a key that the steps which ask the server do not know
    return {
        **machine,
        **environment.environment(),
        **plain,
        **secret,
        # Temporary files go beside the request: those of a killed step are found and removed.
        "TMPDIR": str(folder / SCRATCH),
        "PYTHONUNBUFFERED": "1",
    }


def left(folder: Path) -> bytes | None:
    """The result as the step wrote it; None when there is none."""
    path = folder / RESULT
    return path.read_bytes() if path.is_file() else None


def where(folder: Path) -> str:
    return f"its log is {folder / LOG}"
