"""What a measurement is named by."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from containers.contract import StoreLocation
from containers.fingerprints import locked_vllm
from containers.parameters import Endpoint, ServeParameters, ServerStart
from containers.suites import makes_load
from flows.requests import Requests, Subject, fingerprint, inference_server
from infra.settings import DockerSettings, FlowServeSettings, KubernetesSettings, PlacementSettings, Settings
from tests.support.environment_desk import Desk
from tests.support.gpus import OLD_DRIVER, TWO, driver
from tests.support.package_index import pin, wheel

if TYPE_CHECKING:
    from pathlib import Path

UPSTREAM = FlowServeSettings(gpu_image="serve")
IMAGES = "registry.example.com/carwright/{target}:0.23.0"


@pytest.mark.parametrize(
    ("settings", "server"),
    [
        (Settings(), locked_vllm()),
        (Settings(launcher="docker", resources={"quantize": {"gpus": 1}}), locked_vllm()),
        (Settings(resources={"serve": {"gpus": 1}}), locked_vllm()),  # the launcher is not docker
        (Settings(launcher="docker", resources={"serve": {"gpus": -1}}), locked_vllm(cuda=True)),
        (
            Settings(
                launcher="docker",
                resources={"serve": {"gpus": -1}},
                docker=DockerSettings(image=IMAGES),
                serve=UPSTREAM,
            ),
            "vllm of registry.example.com/carwright/serve:0.23.0",
        ),
        (
            Settings(
                launcher="docker",
                resources={"serve": {"gpus": -1}},
                docker=DockerSettings(image=IMAGES, gpu_kind="rocm"),
            ),
            "vllm of registry.example.com/carwright/serve:0.23.0",
        ),
        (
            Settings(
                launcher="kubernetes",
                resources={"all": {"gpus": 1}},
                kubernetes=KubernetesSettings(image=IMAGES),
                serve=UPSTREAM,
            ),
            "vllm of registry.example.com/carwright/serve:0.23.0",
        ),
        (Settings(placement=PlacementSettings(serve="run-step/gpu")), "vllm by run-step/gpu"),
        (Settings(serve=FlowServeSettings(engine="vllm 0.23.0")), "vllm 0.23.0"),
    ],
)
def test_a_gpus_measurements_are_not_a_cpus(settings: Settings, server: str) -> None:
    assert inference_server(settings) == server


def test_without_containers_the_device_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    driver(tmp_path, monkeypatch, TWO)
    assert inference_server(Settings()) == locked_vllm(cuda=True)
    assert inference_server(Settings(device="cpu")) == locked_vllm()
    assert locked_vllm() != locked_vllm(cuda=True)
    driver(tmp_path, monkeypatch, OLD_DRIVER)
    assert inference_server(Settings()) == locked_vllm()


def test_a_vllm_of_the_users_own_names_what_it_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its true version, which no setting says."""
    desk = Desk.at(tmp_path, monkeypatch)
    desk.lock.write_text(pin(wheel(desk.index, "vllm", "0.31.0+cu130")))
    own = Settings(serve=FlowServeSettings(python=desk.make().python))
    assert inference_server(own) == "vllm 0.31.0+cu130"
    none = Settings(serve=FlowServeSettings(python=sys.executable))
    assert inference_server(none) == "vllm of unknown version"


def test_times_under_the_load_of_another_generator_are_measured_anew() -> None:
    """They would not be compared, and a stored measurement could never be replaced."""
    store = StoreLocation(endpoint="http://127.0.0.1:1", bucket="b")
    subject = Subject("baseline", "sha256:1", ServeParameters(served_model_name="m"), {}, hardware="1 x H100")
    own = Settings(evaluate={"load_python": sys.executable})
    names = {fingerprint(Requests("r", store, one).measure(subject, "speed")) for one in (Settings(), own)}
    assert len(names) == 2


def test_what_changes_answers_is_part_of_the_name() -> None:
    """Other arguments, and layers spread over groups of GPUs; the tensor parallel size has a field of its own."""
    settings = Settings(serve=FlowServeSettings(engine="vllm 0.32.0"))
    plain = ServeParameters(served_model_name="m", tensor_parallel_size=2, gpu_memory_utilization=0.95)
    assert inference_server(settings, plain) == "vllm 0.32.0"
    more = plain.model_copy(update={"pipeline_parallel_size": 2, "arguments": ("--kv-cache-dtype=fp8", "--seed=1")})
    assert inference_server(settings, more) == "vllm 0.32.0 --pipeline-parallel-size=2 --kv-cache-dtype=fp8 --seed=1"


def test_times_are_named_by_the_machine_and_where_it_is_not_known_by_the_run() -> None:
    store = StoreLocation(endpoint="http://127.0.0.1:1", bucket="b")
    subject = Subject("baseline", "sha256:1", ServeParameters(served_model_name="m"), {})
    known = replace(subject, hardware="1 x H100 (machine 01234567)")

    def named(run: str, subject: Subject, suite: str) -> str:
        return fingerprint(Requests(run, store, Settings()).measure(subject, suite))

    assert named("r", known, "speed") == named("s", known, "speed")
    assert named("r", known, "speed") != named("r", replace(known, hardware="1 x H100 (machine 76543210)"), "speed")
    assert named("r", subject, "speed") != named("s", subject, "speed")
    assert named("r", subject, "smoke") == named("s", known, "smoke")


def test_times_are_named_by_what_changes_them_and_no_answers() -> None:
    requests = Requests("r", StoreLocation(endpoint="http://127.0.0.1:1", bucket="b"), Settings())

    def named(suite: str, **more: float) -> str:
        parameters = ServeParameters(served_model_name="m", **more)
        return fingerprint(
            requests.measure(Subject("baseline", "sha256:1", parameters, {}, hardware="1 x H100"), suite)
        )

    ways = ({}, {"max_model_len": 4096}, {"gpu_memory_utilization": 0.5})
    assert len({named("speed", **way) for way in ways}) == 3
    assert len({named("smoke", **way) for way in ways}) == 1


def test_a_step_of_an_older_image_is_told_of_nothing_that_it_does_not_need() -> None:
    """It refuses names that it does not know."""
    requests = Requests("r", StoreLocation(endpoint="http://127.0.0.1:1", bucket="b"), Settings())
    subject = Subject("baseline", "sha256:1", ServeParameters(served_model_name="m"), {}, devices=("0",))
    start = ServerStart(weights_per_gpu=1, cache_tokens=1, seconds=1.0)
    served = Endpoint(url="http://127.0.0.1:1/v1", served_model_name="m", server="vllm 1", start=start)
    measured = requests.measure(subject, "smoke", served)
    younger = {"load_format", "hardware", "emulated_fp8", "look"}
    for said in (requests.serve(subject).options, measured.options, measured.parameters):
        assert younger.isdisjoint(said)
    assert measured.options["server_start"] == {"weights_per_gpu": 1, "cache_tokens": 1, "seconds": 1.0}
    assert requests.serve(replace(subject, load_format="fastsafetensors")).options["load_format"] == "fastsafetensors"


def test_a_suite_of_speed_is_told_the_hardware_and_makes_no_load_beside_its_own() -> None:
    requests = Requests("r", StoreLocation(endpoint="http://127.0.0.1:1", bucket="b"), Settings())
    subject = Subject("baseline", "sha256:1", ServeParameters(served_model_name="m"), {}, devices=("0",))
    served = Endpoint(url="http://127.0.0.1:1/v1", served_model_name="m", server="vllm 1", hardware="1 x H100")
    asked = requests.measure(subject, "speed", served)
    assert asked.options["hardware"] == "1 x H100"
    assert not asked.options.get("load_levels")
    assert makes_load(asked)
    assert requests.measure(subject, "smoke", served).options["load_levels"]
    assert not makes_load(requests.measure(subject, "smoke", served))
    assert not makes_load(requests.measure(subject, "speed"))  # a question to the store
