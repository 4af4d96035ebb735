"""Serve a model with vLLM until the lease runs out or SIGTERM: `python -m containers.serve --request R --result R`.

The result is written as soon as the model answers, while this process goes on; it exits with 0 when it was stopped
after that. Its values are an Endpoint.
"""

from __future__ import annotations

import time
from pathlib import Path

from containers import step
from containers.contract import Step, StepRequest, StepResult
from containers.hardware import gpus, processors
from containers.parameters import Endpoint, ServeOptions, ServeParameters
from containers.ports import claimed
from containers.serve import loading, vllm_command
from containers.serve.argument_check import check_arguments
from containers.serve.models import folder_of, unpacked
from containers.serve.server import VllmServer
from containers.serve.trust import check_files, check_image
from containers.serve.vllm_command import SOCKET


def work(request: StepRequest, context: step.Context) -> StepResult:
    """Serve a modelcar or a checkpoint with vLLM, on loopback unless told otherwise, or check a user's arguments for it."""
    parameters = ServeParameters.read(request.parameters)
    options = ServeOptions.read(request.options)
    if options.stage == "fetch":
        check = parameters.action == "check"  # which needs nothing of a model
        return StepResult(step=Step.SERVE) if check else fetch(parameters, request, context)
    if options.stage == "compare":
        return compare(parameters, options, request, context)
    python = context.settings.serve.python
    vllm = vllm_command.installed(python)
    if parameters.action == "check":
        check_arguments(vllm, parameters, context, python)
        return StepResult(step=Step.SERVE, versions={vllm.name: vllm.version})
    started = time.monotonic()
    check_image(parameters, options, context)
    mounted, there = Path(options.folder) if options.folder else None, options.stage == "serve"
    with (
        unpacked(parameters.reference, request, context, mounted, fetch=not there) as model,
        claimed(options.port, option="--port or CARWRIGHT_SERVE__PORT", host=options.host) as port,
        vllm_command.sockets_folder(context.scratch) as sockets,
    ):
        check_files(model, options, context)
        unpacked_at = time.monotonic()

        def make(load_format: str) -> VllmServer:
            where = (model, sockets / SOCKET)
            return VllmServer(
                argv=vllm_command.command(vllm, parameters, *where, python=python, load_format=load_format),
                env=vllm_command.environment(vllm, parameters, context.settings, sockets, options.devices),
                socket=sockets / SOCKET,
                port=port,
                served_model_name=parameters.served_model_name,
                options=options,
                report=context.report,
                load_format=load_format,
            )

        with loading.ready(make, "" if vllm.cpu else options.load_format) as (server, child):
            ready = time.monotonic()
            with server.answering():
                server.first_answer()
                endpoint = Endpoint(
                    url=options.advertise or server.url,
                    served_model_name=parameters.served_model_name,
                    server=str(vllm),
                    emulated_fp8=server.emulates,
                    hardware=processors() if vllm.cpu else gpus(options.devices, parameters.gpus),
                    start=server.start_facts(time.monotonic() - unpacked_at),
                )
                result = StepResult(
                    step=Step.SERVE,
                    values=endpoint.dump(),
                    metrics={"model_bytes": _size(model)},
                    timings={
                        "unpack": round(unpacked_at - started, 3),
                        "load": round(ready - unpacked_at, 3),
                        "first_answer": round(time.monotonic() - ready, 3),
                    },
                    versions={vllm.name: vllm.version},
                )
                step.write_result(context.result_path, result)
                context.report.log(f"{parameters.served_model_name} is ready at {endpoint.url}")
                ending = server.run_until_stopped(child)
    context.report.log(f"{parameters.served_model_name} {ending}")
    return result


def fetch(parameters: ServeParameters, request: StepRequest, context: step.Context) -> StepResult:
    """Have the model under the home folder, for a server that will look for it there."""
    started = time.monotonic()
    check_image(parameters, ServeOptions.read(request.options), context)
    with unpacked(parameters.reference, request, context) as model:
        timings = {"unpack": round(time.monotonic() - started, 3)}
        return StepResult(step=Step.SERVE, metrics={"model_bytes": _size(model)}, timings=timings)


def compare(
    parameters: ServeParameters, options: ServeOptions, request: StepRequest, context: step.Context
) -> StepResult:
    """Compare what a running server has read with the digests in the request, once more; raises NotTrusted."""
    started = time.monotonic()
    model = Path(options.folder) if options.folder else folder_of(parameters.reference, request, context)
    check_files(model, options, context)
    return StepResult(step=Step.SERVE, timings={"compare": round(time.monotonic() - started, 3)})


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


if __name__ == "__main__":
    step.run(Step.SERVE, work)
