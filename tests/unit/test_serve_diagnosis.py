"""What a user is told when vLLM ends; the logs are vLLM 0.32's own, shortened, one broken start each."""

from pathlib import Path

import pytest

from containers.errors import BadInput, Error, NotReady, Temporary
from containers.serve.diagnosis import explain

_LOGS = Path(__file__).with_name("serve_logs")
_CASES = {
    "unknown_architecture": (BadInput, "FooForCausalLM"),
    "package_missing": (BadInput, "lacks the package torchvision"),
    "unknown_model_type": (BadInput, "model_type 'foo'"),
    "context_too_long": (BadInput, "100000 tokens is more than the 8192"),
    "heads_not_divisible": (BadInput, "attention heads (9) must be divisible by tensor parallel size (2)"),
    "config_not_json": (BadInput, "config.json"),
    "no_tokenizer": (BadInput, "tokenizer"),
    "no_weights": (BadInput, "no weights"),
    "truncated_shard": (BadInput, "damaged: SafetensorError: Error while deserializing header"),
    "port_taken": (BadInput, "port"),
    "kv_cache_too_small": (BadInput, "KV cache is too small"),
    "not_enough_memory": (Temporary, "19.91/23.54 GiB"),
    "argument_unknown": (
        BadInput,
        "does not take an argument as it was given: unrecognized arguments: --no-such-argument=1",
    ),
    "argument_no_choice": (BadInput, "argument --kv-cache-dtype: invalid choice: 'nonsense' (choose from"),
    "argument_no_number": (BadInput, "argument --seed: invalid int value: 'abc'"),
    "argument_of_a_flag": (BadInput, "argument --enforce-eager/--no-enforce-eager: ignored explicit argument '1'"),
    "no_gpu": (BadInput, "there is no GPU that this vLLM could use"),
    "engine_killed": (Temporary, "was killed without an error message"),
}


def _explained(name: str) -> Error:
    return explain((_LOGS / f"{name}.log").read_text().splitlines(), "vLLM ended with code 1")


@pytest.mark.parametrize(("name", "expected", "words"), [(name, *case) for name, case in _CASES.items()])
def test_each_cause_is_named_with_its_remedy(name: str, expected: type, words: str) -> None:
    error = _explained(name)
    assert type(error) is expected
    assert words in error.message
    assert error.remedy


def test_every_captured_log_is_covered() -> None:
    assert {path.stem for path in _LOGS.glob("*.log")} == set(_CASES)


def test_a_gpu_that_another_program_has_is_called_that() -> None:
    """The line is vLLM 0.23's, with a second vLLM on an H100; the cache of the CPU's back end does not come into it."""
    line = (
        "ValueError: Free memory on device cuda:0 (5.17/79.18 GiB) on startup is less than desired GPU memory "
        "utilization (0.92, 72.84 GiB). Decrease GPU memory utilization or reduce GPU memory used by other processes."
    )
    error = explain([f"(EngineCore pid=9) ERROR 11-25 03:11:26 [core.py:1] {line}"], "vLLM ended with code 1")
    assert type(error) is Temporary
    assert "5.17/79.18 GiB" in error.message
    assert "nvidia-smi" in error.remedy
    assert "KV_CACHE" not in error.remedy


@pytest.mark.parametrize(
    "words",
    [
        "RuntimeError: The NVIDIA driver on your system is too old (found version 12020). Please update your GPU driver",
        "torch.AcceleratorError: CUDA error: CUDA driver version is insufficient for CUDA runtime version",
        "torch.AcceleratorError: CUDA error: no kernel image is available for execution on the device",
    ],
)
def test_an_old_driver_in_a_container_is_told_as_one(words: str) -> None:
    """Without containers the driver is looked at first; a container's is the host's."""
    error = explain([f"(EngineCore pid=9) ERROR 11-23 13:22:52 [core.py:1] {words}"], "vLLM ended with code 1")
    assert type(error) is BadInput
    assert "too old for this vLLM's CUDA" in error.message
    assert "580" in error.remedy


@pytest.mark.parametrize(
    "words",
    [
        "RuntimeError: NCCL error: unhandled system error (run with NCCL_DEBUG=INFO for details)",
        (
            "torch.distributed.DistBackendError: NCCL error in: /pytorch/torch/csrc/distributed/c10d/NCCLUtils.cpp:77, unhandled "
            "cuda error (run with NCCL_DEBUG=INFO for details), NCCL version 2.29.7"
        ),
        "torch.AcceleratorError: CUDA error: peer access is not supported between these two devices",
    ],
)
def test_cards_that_cannot_talk_to_each_other_are_told_what_helps(words: str) -> None:
    """Without NVLink, and where PCIe does not do it; the worker's end that follows is not the reason."""
    lines = [
        f"(Worker_TP1 pid=9) ERROR 11-23 13:22:52 [multiproc_executor.py:800] {words}",
        "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}",
    ]
    error = explain(lines, "vLLM ended with code 1")
    assert type(error) is BadInput
    assert "could not talk to each other" in error.message
    assert "NCCL_P2P_DISABLE=1" in error.remedy


def test_a_gpu_that_runs_out_of_memory_is_not_taken_for_one_that_cannot_talk() -> None:
    """As a card of several does in the middle of a suite: NCCL fails in the others."""
    lines = [
        "(Worker_TP1 pid=9) ERROR 11-23 13:22:52 [x.py:1] torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
        "(Worker_TP0 pid=8) ERROR 11-23 13:22:53 [x.py:1] RuntimeError: NCCL error: remote process exited or there was a network error",
        "(APIServer pid=7) ERROR 11-23 13:22:53 [async_llm.py:1] AsyncLLM output_handler failed.",
    ]
    error = explain(lines, "vLLM ended with code 1")
    assert type(error) is Temporary
    assert "CUDA out of memory. Tried to allocate 2.00 GiB." in error.message


def test_an_unknown_end_shows_the_last_words_without_stack_frames_and_prefixes() -> None:
    lines = [
        "(APIServer pid=7) INFO 11-23 13:22:51 [api_utils.py:286] starting",
        "Traceback (most recent call last):",
        '  File "/env/vllm/x.py", line 1, in f',
        "    g()",
        "(EngineCore pid=9) ERROR 11-23 13:22:52 [core.py:1] ZeroDivisionError: division by zero",
        "(APIServer pid=7) INFO 11-23 13:22:53 [core.py:2] [shutdown] bye",
    ]
    error = explain(lines, "vLLM ended with code 1")
    assert type(error) is NotReady
    assert error.message == "vLLM ended with code 1\nstarting\nZeroDivisionError: division by zero"


def test_a_failed_start_with_another_cause_is_not_taken_for_a_killed_engine() -> None:
    lines = [
        "(EngineCore pid=9) ERROR 11-23 13:22:52 [core.py:1510] EngineCore failed to start.",
        "ZeroDivisionError: division by zero",
        "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}",
    ]
    assert "division by zero" in explain(lines, "vLLM ended with code 1").message


@pytest.mark.parametrize(
    "words",
    [
        "NotImplementedError: No FP8 MoE backend supports the deployment configuration.",
        "ValueError: Failed to find a kernel that can implement the ScaledMM linear layer. Reasons: ",
    ],
)
def test_a_scheme_that_this_machine_cannot_compute_is_not_retried(words: str) -> None:
    error = explain([f"(EngineCore pid=9) ERROR 11-23 13:22:52 [core.py:1510] {words}"], "vLLM ended with code 1")
    assert type(error) is BadInput
    assert "no kernel on this machine" in error.message
