"""The real engine for tests: vLLM over a checkpoint folder, and the demo model in BF16 and FP8."""

from __future__ import annotations

import os
import socket
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import httpx

from containers.contract import Step
from containers.process import Child, inherited, run
from containers.serve import engine
from flows.environments import ensure, prepare
from infra.demo import LOCK, ensure_demo

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from containers.settings import Settings

NAME = "demo"
_DEADLINE = 600.0  # seconds; 20 to 40 on two free cores, and tests share them


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
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    argv = [str(prepare(Step.SERVE, settings, print).python), "-m", "vllm.entrypoints.openai.api_server"]
    argv += ["--model", str(checkpoint), "--served-model-name", NAME, "--host", "127.0.0.1", "--port", str(port)]
    argv += ["--max-model-len", "2048", "--max-logprobs", "20", "--enforce-eager", "--no-enable-prefix-caching"]
    argv += ["--distributed-executor-backend", "uni"]
    env = {
        **inherited(),
        "PYTHONPATH": str(engine.PLUGIN),
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "OMP_WAIT_POLICY": "PASSIVE",
        "OMP_NUM_THREADS": str(len(os.sched_getaffinity(0))),
    }
    with Child(argv, env, log_file=log) as child:
        until = time.monotonic() + _DEADLINE
        while not _healthy(port):
            assert child.poll() is None, child.tail
            assert time.monotonic() < until, child.tail
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"


def _healthy(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health", timeout=5, trust_env=False).is_success
    except httpx.TransportError:
        return False
