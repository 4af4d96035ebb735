"""From what vLLM printed before it ended to one error that says what to do.

The patterns are of vLLM 0.32's own messages (tests/unit/serve_logs holds logs as they were captured). What no pattern
knows is reported with the last lines that look like an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from typing import Final

from containers.errors import BadInput, Error, NotReady, Temporary
from containers.hardware import MINIMUM_CAPABILITY, MINIMUM_DRIVER

_LAST: Final = 8  # lines of an unknown end that are shown
_WIDTH: Final = 300  # characters of each: vLLM prints its configuration in one line
_PREFIX: Final = re.compile(r"^(\(\w[\w-]* pid=\d+\) )?((DEBUG|INFO|WARNING|ERROR|CRITICAL) [\d: -]+\[[\w.]+:\d+\] ?)?")
_NOISE: Final = re.compile(r"\[shutdown]|resource_tracker|^\s*$|^  |^Traceback|^During handling|^The above exception")

_Reading = Callable[[re.Match[str]], Error]


def _unsupported(match: re.Match[str]) -> Error:
    return BadInput(
        f"vLLM does not know the architecture {match['name']}",
        remedy="vLLM's list of supported models names those that can be served; a newer vLLM may know this one",
    )


def _package(match: re.Match[str]) -> Error:
    return BadInput(
        f"this vLLM lacks the package {match['package']}, which models for images, video or sound need",
        remedy="serve it on a GPU, whose vLLM has all of them, or by a vLLM of your own (CARWRIGHT_SERVE__PYTHON, "
        "--baseline-endpoint and --candidate-endpoint)",
    )


def _model_type(match: re.Match[str]) -> Error:
    return BadInput(
        f"vLLM does not know the architecture of this model: model_type {match['name']!r} in config.json",
        remedy="vLLM's list of supported models names those that can be served; a newer vLLM may know this one",
    )


def _port(match: re.Match[str]) -> Error:
    return BadInput(
        "another program took the port while vLLM was starting",
        remedy="start again; CARWRIGHT_SERVE__PORT=0 takes a free port",
    )


def _context(match: re.Match[str]) -> Error:
    return BadInput(
        f"a context of {match['asked']} tokens is more than the {match['most']} that the model was made for",
        remedy=f"ask for {match['most']} or fewer (--max-model-len)",
    )


def _memory(match: re.Match[str]) -> Error:
    return Temporary(
        f"vLLM could not get the memory that it needs: {match['detail'].strip()}",
        remedy="free memory, or lower CARWRIGHT_SERVE__KV_CACHE_GIB and --max-model-len",
    )


def _card(match: re.Match[str]) -> Error:
    return Temporary(
        f"vLLM could not get the GPU memory that it needs: {match['detail'].strip()}",
        remedy="`nvidia-smi` says which program has it: stop that one, or take another GPU (CUDA_VISIBLE_DEVICES); a model "
        "that is too large for its GPU needs a smaller --max-model-len, or several",
    )


def _no_gpu(match: re.Match[str]) -> Error:
    return BadInput(
        "there is no GPU that this vLLM could use, and it is built for GPUs alone",
        remedy="give it one (a container gets it by CARWRIGHT_RESOURCES__SERVE__GPUS and the engine's GPU toolkit), or serve with "
        "the CPU build",
    )


def _old(match: re.Match[str]) -> Error:
    return BadInput(
        f"driver and GPU are too old for this vLLM's CUDA: {match['detail'].strip()}",
        remedy=f"renew NVIDIA's driver (the locked build needs {MINIMUM_DRIVER}, and compute capability "
        f"{'.'.join(map(str, MINIMUM_CAPABILITY))}), or use a vLLM that runs with it: "
        "CARWRIGHT_SERVE__PYTHON, in containers CARWRIGHT_SERVE__GPU_IMAGE=serve",
    )


def _no_way(match: re.Match[str]) -> Error:
    return BadInput(
        f"the GPUs could not talk to each other: {match['detail'].strip()}",
        remedy="cards without NVLink may not reach each other's memory (`nvidia-smi topo -p2p r`): NCCL_P2P_DISABLE=1 has them go "
        "through the host's, NCCL_DEBUG=INFO says more; or serve on one: --tensor-parallel-size 1",
    )


def _killed(match: re.Match[str]) -> Error:
    return Temporary(
        "vLLM's worker process was killed without an error message, as the kernel does when memory runs out",
        remedy="free memory, or lower CARWRIGHT_SERVE__KV_CACHE_GIB; `dmesg` shows whether the kernel did it",
    )


def _kv_cache(match: re.Match[str]) -> Error:
    return BadInput(
        "the KV cache is too small for one request of the longest length",
        remedy="raise CARWRIGHT_SERVE__KV_CACHE_GIB, or lower --max-model-len",
    )


def _damaged(match: re.Match[str]) -> Error:
    return BadInput(
        f"a shard of the checkpoint is damaged: {match['detail'].strip()}",
        remedy="make or download the checkpoint again",
    )


def _no_weights(match: re.Match[str]) -> Error:
    return BadInput("there are no weights in the checkpoint", remedy="a checkpoint needs safetensors files")


def _config(match: re.Match[str]) -> Error:
    return BadInput("config.json of the checkpoint is missing or not JSON", remedy="make or download it again")


def _tokenizer(match: re.Match[str]) -> Error:
    return BadInput(
        "vLLM cannot load a tokenizer from the checkpoint",
        remedy="a checkpoint needs its tokenizer's files (tokenizer.json, tokenizer_config.json)",
    )


def _scheme(match: re.Match[str]) -> Error:
    return BadInput(
        "vLLM has no kernel on this machine for the checkpoint's quantization scheme",
        remedy="serve it on a GPU, or quantize with FP8_DYNAMIC",
    )


def _refused(match: re.Match[str]) -> Error:
    return BadInput(
        f"vLLM refuses to serve this model as asked: {match['detail']}",
        remedy="change the checkpoint's configuration or the options of the request",
    )


def _nodes(match: re.Match[str]) -> Error:
    return BadInput(
        "this machine has fewer memory nodes than the parts that the model was to be split into",
        remedy="serve with a tensor parallel size of 1",
    )


def _argument(match: re.Match[str]) -> Error:
    return BadInput(
        f"vLLM does not take an argument as it was given: {match['detail'].strip()}",
        remedy="correct --vllm-argument; the arguments of this version are in vLLM's documentation of `vllm serve`",
    )


def _parser(match: re.Match[str]) -> Error:
    near = get_close_matches(match["name"], match["known"].split(","), 1)
    return BadInput(
        f"this vLLM has no {match['kind']} parser {match['name']!r}" + (f", did you mean {near[0]}?" if near else ""),
        remedy=f"it has {match['known'].replace(',', ', ')}",
    )


# The first pattern of this list that is found anywhere in the log decides: particular ones stand before general ones.
_KNOWN: Final[tuple[tuple[re.Pattern[str], _Reading], ...]] = tuple(
    (re.compile(pattern, re.MULTILINE), reading)
    for pattern, reading in (
        # argparse's own words (its `error`), before anything of a model is looked at
        (r"^\S+: error: (?P<detail>(unrecognized arguments|argument |ambiguous option).*)", _argument),
        (
            r"KeyError: ['\"]invalid (?P<kind>tool call|reasoning) parser: (?P<name>.+?) \(chose from \{ ?(?P<known>.*?) ?\}\)",
            _parser,
        ),
        (
            r"ModuleNotFoundError: No module named '(?P<package>torchvision|torchaudio|torchcodec|mistral_common|cv2)",
            _package,
        ),
        (r"Model architectures \['(?P<name>[^']+)'.*(not supported|failed to be inspected)", _unsupported),
        (r"model type `?(?P<name>[^`\s]+)`? but Transformers does not recognize", _model_type),
        (r"max_model_len \((?P<asked>\d+)\) is greater than the derived max_model_len \(\D*(?P<most>\d+)", _context),
        (r"address already in use|\[Errno 98\]", _port),
        (r"(?P<detail>CUDA out of memory.*|Free memory on device cuda\S* .* is less than .*)", _card),
        (r"Failed to infer device type|No CUDA GPUs are available", _no_gpu),
        # torch's words for a driver, and CUDA's for a driver and for a card (cudaErrorInsufficientDriver, NoKernelImageForDevice)
        (
            r"(?P<detail>(The NVIDIA driver on your system is too old|CUDA driver version is insufficient|no kernel image is).*)",
            _old,
        ),
        # NCCL's own words as torch and vLLM pass them on, and CUDA's for cudaErrorPeerAccessUnsupported
        (r"(?P<detail>NCCL error\b.*|peer access is not supported between these two devices)", _no_way),
        (r"(?P<detail>(DefaultCPUAllocator: |Unable to )?can't allocate memory.*)", _memory),
        (r"(?P<detail>(Available|Free) memory on \S+ .* is less than .*)", _memory),
        (
            r"To serve at least one request with the model's max seq len|No available memory for the cache blocks",
            _kv_cache,
        ),
        (r"(?P<detail>(SafetensorError|HeaderTooLarge|MetadataIncompleteBuffer|InvalidHeader)\b.*)", _damaged),
        (r"Cannot find any model weights|no safetensors", _no_weights),
        (r"It looks like the config file at|Invalid repository ID or local directory|not a valid JSON file", _config),
        (r"Can't load tokenizer|Couldn't instantiate the backend tokenizer|Error retrieving .*tokenizer", _tokenizer),
        (r"Failed to find a kernel that can implement|No FP8 MoE backend supports", _scheme),
        (r"Not enough allowed NUMA nodes", _nodes),
        (r"(?P<detail>MemoryError.*|Cannot allocate memory.*)", _memory),
        (r"Value error, (?P<detail>.+?)( \[type=|$)", _refused),
        (r"Engine core proc \S+ died unexpectedly", _killed),
        (r"\A(?![\s\S]*EngineCore failed to start)[\s\S]*Engine core initialization failed", _killed),
    )
)


def explain(lines: Iterable[str], ending: str) -> Error:
    """The error for a server that ended or never got ready; `ending` says which ("vLLM ended with code 1")."""
    plain = [_PREFIX.sub("", line) for line in lines]
    text = "\n".join(plain)
    for pattern, reading in _KNOWN:
        if match := pattern.search(text):
            return reading(match)
    return NotReady(f"{ending}\n{last(plain)}", remedy="the whole log says more")


def last(lines: Iterable[str]) -> str:
    """The last lines that mean something."""
    plain = (_PREFIX.sub("", line) for line in lines)
    telling = [line.rstrip()[:_WIDTH] for line in plain if not _NOISE.search(line)]
    return "\n".join(telling[-_LAST:])
