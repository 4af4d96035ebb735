"""What goes into a step's container, and what the engine's words mean; no engine is asked."""

from __future__ import annotations

import base64
import json
import os
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import pytest
from docker.errors import APIError

from containers import suites
from containers.contract import Step, StepRequest
from containers.errors import BadInput, DiskFull, Error, Temporary
from containers.signing_settings import SigningSettings
from flows.runners.docker import container_spec, seccomp
from flows.runners.docker.container_spec import environment, labels, payload, step_spec, with_identity
from flows.runners.docker.launcher import check_addresses, image_of
from flows.runners.step_container import image_step
from flows.runtime import Runtime
from flows.steps import Steps
from infra.container_engine.failures import refusal, translated_errors
from infra.container_engine.ownership import is_alive, owner
from infra.settings import FlowServeSettings, Settings

if TYPE_CHECKING:
    from pathlib import Path


def settings(resources: dict[str, dict[str, float]] | None = None, **docker: Any) -> Settings:
    return Settings(
        home="/somewhere",
        busybox="/somewhere/busybox",
        docker_config="/somewhere/.docker",
        store={"endpoint": "http://store:9000", "secret_access_key": "storesecret", "folder": "/somewhere/store"},
        registry={"auth_file": "/somewhere/auth.json", "plain_http": ("registry:5000",)},
        hub_token="hubsecret",
        notify_webhook="http://127.0.0.1/websecret",
        docker=docker,
        resources=resources or {},
    )


def test_what_concerns_this_machine_alone_stays_here() -> None:
    variables = environment(settings(network="n", host="tcp://elsewhere:2375"), StepRequest(step=Step.PUSH, run="r"))
    assert variables["CARWRIGHT_STORE__ENDPOINT"] == "http://store:9000"
    assert variables["CARWRIGHT_REGISTRY__PLAIN_HTTP"] == '["registry:5000"]'
    assert variables["CARWRIGHT_LOG_FORMAT"] == "json"
    assert not [name for name, value in variables.items() if "somewhere" in value or "elsewhere" in value]
    assert not [name for name, value in variables.items() if "secret" in value]


def test_what_is_said_about_how_gpus_talk_reaches_the_one_that_serves_on_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cards without NVLink on a host that cannot do it over PCIe, either; a key of vLLM's is no such word."""
    monkeypatch.setenv("NCCL_P2P_DISABLE", "1")
    monkeypatch.setenv("VLLM_API_KEY", "websecret")
    serve, quantize = StepRequest(step=Step.SERVE, run="r"), StepRequest(step=Step.QUANTIZE, run="r")
    on_gpus = settings({"all": {"gpus": 2}})
    assert environment(on_gpus, serve)["NCCL_P2P_DISABLE"] == "1"
    for without in (environment(settings(), serve), environment(on_gpus, quantize)):
        assert "NCCL_P2P_DISABLE" not in without
    assert "websecret" not in str(environment(on_gpus, serve))


def test_secrets_are_files_of_the_step_that_needs_them() -> None:
    files = payload(settings(), StepRequest(step=Step.QUANTIZE, run="r"))
    assert files["secrets/CARWRIGHT_STORE__SECRET_ACCESS_KEY"] == b"storesecret"
    assert not [name for name, content in files.items() if content and (b"hubsecret" in content or b"webs" in content)]
    files = payload(settings(), StepRequest(step=Step.DOWNLOAD, run="r"))
    assert files["secrets/CARWRIGHT_HUB_TOKEN"] == b"hubsecret"
    assert files["carwright/scratch"] is None


def test_the_hub_s_own_login_goes_along(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_login")
    given = settings().model_copy(update={"hub_token": None})
    files = payload(given, StepRequest(step=Step.DOWNLOAD, run="r"))
    assert files["secrets/CARWRIGHT_HUB_TOKEN"] == b"hf_of_the_login"
    assert "secrets/CARWRIGHT_HUB_TOKEN" not in payload(given, StepRequest(step=Step.PUSH, run="r"))


def test_logins_of_this_machine_for_the_registries_that_are_named(tmp_path: Path) -> None:
    """And no others, in a file that only the step reads."""

    def pair(text: str) -> dict[str, str]:
        return {"auth": base64.b64encode(text.encode()).decode()}

    auths = {"registry:5000": pair("me:mine"), "other:5000": pair("me:others"), "base.example": {"identitytoken": "t"}}
    (tmp_path / "auth.json").write_text(json.dumps({"auths": auths}))
    given = Settings(registry={"auth_file": tmp_path / "auth.json"})
    parameters = {"target": "registry:5000/a/b", "base": "base.example/c:1", "reference": ""}
    request = StepRequest(step=Step.PUSH, run="r", parameters=parameters)
    content = payload(given, request)["secrets/registry-logins.json"]
    assert content
    assert json.loads(content)["auths"] == {
        "registry:5000/a/b": pair("me:mine"),
        "base.example/c": {"identitytoken": "t"},
    }
    spec = step_spec(given, request, "image")
    assert spec.environment["CARWRIGHT_REGISTRY__AUTH_FILE"] == "/run/secrets/registry-logins.json"
    assert "mine" not in repr(spec)
    given = Settings(registry={"username": "u", "password": "p", "auth_file": tmp_path / "auth.json"})
    assert "CARWRIGHT_REGISTRY__AUTH_FILE" not in step_spec(given, request, "image").environment


@pytest.mark.parametrize("options", [{"stage": "serve"}, {"folder": "/mnt/models"}], ids=str)
def test_a_server_s_container_has_no_secret(options: dict[str, str], tmp_path: Path) -> None:
    """Beside it runs a modelcar of the same user, which may look into it (proc(5), /proc/pid/root)."""
    pair = base64.b64encode(b"me:mine").decode()
    (tmp_path / "auth.json").write_text(json.dumps({"auths": {"r.example.com": {"auth": pair}}}))
    given = settings()
    given.registry.auth_file = tmp_path / "auth.json"
    request = StepRequest(
        step=Step.SERVE, run="r", parameters={"reference": f"r.example.com/m@sha256:{'1' * 64}"}, options=options
    )
    assert {name for name in payload(given, request) if name.startswith("secrets/")} == set()
    spec = step_spec(given, request, "image")
    assert not [name for name in spec.environment if "STORE" in name or "REGISTRY" in name or "TOKEN" in name]
    fetch = request.model_copy(update={"options": {"stage": "fetch"}})
    assert {name for name in payload(given, fetch) if name.startswith("secrets/")} == {"secrets/registry-logins.json"}


def test_the_volume_with_keys_is_mounted_where_the_step_promotes() -> None:
    """For reading, and by nothing else; its name is all that the launcher knows."""
    given = settings(signing_volume="carwright-signing")
    promote = StepRequest(step=Step.PUSH, run="r", parameters={"action": "promote"})
    spec = step_spec(given, promote, "image")
    assert spec.volumes_by_name == {"carwright-signing": "/run/signing"}
    assert spec.environment["CARWRIGHT_SIGN__FOLDER"] == "/run/signing"
    assert [name for name in payload(given, promote) if name.startswith("secrets/CARWRIGHT_SIGN")] == []
    for step in Step:
        other = step_spec(given, StepRequest(step=step, run="r"), "image")
        assert (other.volumes_by_name, "CARWRIGHT_SIGN__FOLDER" in other.environment) == ({}, False)


def test_a_folder_with_keys_of_this_machine_is_not_for_a_container(tmp_path: Path) -> None:
    given = settings().model_copy(update={"sign": SigningSettings(folder=tmp_path)})
    with pytest.raises(BadInput, match="is of this machine, and promotion runs in a container"):
        step_spec(given, StepRequest(step=Step.PUSH, run="r", parameters={"action": "promote"}), "image")
    assert step_spec(given, StepRequest(step=Step.PUSH, run="r"), "image")


@pytest.mark.parametrize(
    ("given", "refused"),
    [
        ({"launcher": "docker"}, True),
        ({"launcher": "kubernetes"}, True),
        ({"launcher": "process"}, False),
        ({"launcher": "docker", "placement": {"push": "run-step/signs"}}, False),  # where other settings count
        ({"launcher": "docker", "sign": {}}, False),
    ],
    ids=str,
)
def test_a_run_that_could_not_sign_is_refused_when_it_begins(
    given: dict[str, Any], refused: bool, tmp_path: Path
) -> None:
    """With the check of its suite, before anything is resolved or downloaded."""
    made = Settings.model_validate({"sign": {"folder": tmp_path}, **given})
    none: Any = None  # it uses nothing but the settings
    runtime = Runtime(made, none, none, none, none, "run")
    with pytest.raises(BadInput, match="SIGNING_VOLUME") if refused else nullcontext():
        Steps(runtime).check("smoke")


def test_the_token_of_a_ci_job_is_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """For the environment and the secrets of a container together, and not at all where nothing is signed."""
    tokens = iter(("the first", "the second"))
    monkeypatch.setattr("id.detect_credential", lambda _: next(tokens))
    given = settings().model_copy(update={"sign": SigningSettings(keyless="public")})
    other = StepRequest(step=Step.PUSH, run="r")
    assert with_identity(given, other) is given
    promote = StepRequest(step=Step.PUSH, run="r", parameters={"action": "promote"})
    once = with_identity(given, promote)
    assert "the first" not in repr(step_spec(once, promote, "image"))
    assert payload(once, promote)["secrets/CARWRIGHT_SIGN__IDENTITY_TOKEN"] == b"the first"
    assert next(tokens) == "the second"


def test_limits_are_by_step() -> None:
    given = settings({"all": {"memory_gib": 2}, "quantize": {"memory_gib": 32, "cpus": 1.5, "gpus": -1}})
    quantize = step_spec(given, StepRequest(step=Step.QUANTIZE, run="r"), "image")
    push = step_spec(given, StepRequest(step=Step.PUSH, run="r"), "image")
    assert (quantize.memory, quantize.cpus, quantize.gpus) == (32 << 30, 1.5, -1)
    assert (push.memory, push.cpus, push.gpus) == (2 << 30, None, 0)


@pytest.mark.parametrize(
    ("step", "resources", "image"),
    [
        (Step.PUSH, {}, "localhost/carwright/push:latest"),
        (Step.SERVE, {}, "localhost/carwright/serve-cpu:latest"),
        (Step.SERVE, {"serve": {"gpus": 2}}, "localhost/carwright/serve-cuda:latest"),
        (Step.QUANTIZE, {"all": {"gpus": -1}}, "localhost/carwright/quantize-cuda:latest"),
        (Step.QUANTIZE, {"all": {"gpus": 1}, "quantize": {"gpus": 0}}, "localhost/carwright/quantize:latest"),
    ],
)
def test_the_image_of_a_step(step: Step, resources: dict[str, dict[str, float]], image: str) -> None:
    assert image_of(settings(resources), step) == image


def test_load_is_made_where_vllm_is() -> None:
    def measures(suite: str) -> StepRequest:
        files = suites.read(suite)
        where = files.options(endpoint="http://vllm:8000/v1", served_model_name="m")
        parameters = files.parameters(action="measure", subject="sha256:1")
        return StepRequest(step=Step.EVALUATE, run="r", parameters=parameters.dump(), options=where.dump())

    assert image_step(measures("speed")) is Step.SERVE
    assert image_step(measures("smoke")) is Step.EVALUATE
    spec = step_spec(settings({}), measures("speed"), "image")
    assert spec.command[:2] == ("-m", "containers.evaluate")


def test_upstreams_image_serves_on_gpus_where_it_is_asked_for_or_the_only_one() -> None:
    given = settings({"serve": {"gpus": 1}})
    upstream = given.model_copy(update={"serve": FlowServeSettings(gpu_image="serve")})
    assert image_of(upstream, Step.SERVE) == "localhost/carwright/serve:latest"
    rocm = given.model_copy(
        update={"launcher": "docker", "docker": given.docker.model_copy(update={"gpu_kind": "rocm"})}
    )
    assert image_of(rocm, Step.SERVE) == "localhost/carwright/serve:latest"
    assert image_of(upstream, Step.PUSH) == "localhost/carwright/push:latest"


def test_labels_name_the_run_and_the_flow_run_where_there_is_one() -> None:
    flow_run = "01234567-89ab-cdef-0123-456789abcdef"
    assert labels(StepRequest(step=Step.PUSH, run=flow_run))["flow-run"] == flow_run
    plain = labels(StepRequest(step=Step.PUSH, run="20261123T180000"))
    assert "flow-run" not in plain
    assert (plain["run"], plain["step"], plain["owner"]) == ("20261123T180000", "push", owner())


def test_only_the_measuring_of_generated_code_may_make_namespaces() -> None:
    asked = {step: StepRequest(step=step, run="r", parameters={"action": "measure"}) for step in Step}
    free = {step for step, request in asked.items() if step_spec(settings(), request, "i").security}
    assert free == {Step.EVALUATE}
    judge = StepRequest(step=Step.EVALUATE, run="r", parameters={"action": "judge"})
    assert step_spec(settings(), judge, "i").security == ()
    forbidden = set(json.loads(seccomp.profile())["syscalls"][0]["names"])
    assert not forbidden & {"clone", "clone3", "unshare", "mount", "umount2", "pivot_root", "seccomp", "prctl"}
    assert {"bpf", "ptrace", "setns", "init_module", "keyctl", "io_uring_setup", "kexec_load"} <= forbidden


@pytest.mark.parametrize(
    ("endpoint", "docker", "fine"),
    [
        ("http://store:9000", {"network": "carwright"}, True),
        (None, {"network": "carwright"}, True),
        ("http://127.0.0.1:9000", {"network": "host"}, True),
        ("http://127.0.0.1:9000", {"network": "host", "host": "unix:///run/user/1/docker.sock"}, True),
        ("http://127.0.0.1:9000", {"network": "carwright"}, False),
        ("http://localhost:9000", {"network": "host", "host": "ssh://me@elsewhere"}, False),
    ],
)
def test_a_store_that_containers_cannot_reach_is_refused(
    endpoint: str | None, docker: dict[str, str], fine: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    given = Settings(store={"endpoint": endpoint}, docker=docker)
    if fine:
        check_addresses(given)
    else:
        with pytest.raises(BadInput, match="cannot reach"):
            check_addresses(given)


def test_whether_an_owner_lives() -> None:
    assert is_alive(owner()) is True
    place, pid, _ = owner().rsplit("/", 2)
    assert is_alive(f"{place}/{pid}/1") is False
    assert is_alive(f"elsewhere:pid:[1]/{os.getpid()}/1") is None
    assert is_alive("") is None


# As Docker 20.10 and 28 say it.
@pytest.mark.parametrize(
    ("text", "kind", "meaning"),
    [
        ('could not select device driver "" with capabilities: [[gpu]]', BadInput, "GPUs were requested"),
        ("nvidia-container-cli: initialization error: load library failed", BadInput, "GPUs were requested"),
        ('error gathering device information while adding custom device "/dev/kfd"', BadInput, "GPUs were requested"),
        ("network carwright not found", BadInput, "network"),
        (
            'invalid mount config for type "bind": bind source path does not exist: /m',
            BadInput,
            "does not have the folder",
        ),
        ("Bind for 127.0.0.1:8000 failed: port is already allocated", BadInput, "port is in use"),
        ("manifest for nvcr.io/nvidia/x:1 not found: manifest unknown", BadInput, "the image does not exist"),
        ("write /var/lib/docker/tmp/x: no space left on device", DiskFull, "no space"),
        ("something else", Error, "refused to start it: something else"),
    ],
)
def test_the_engine_s_words(text: str, kind: type[Error], meaning: str) -> None:
    error = refusal(text, "start it")
    assert type(error) is kind
    assert meaning in error.message


@pytest.mark.parametrize("raised", [ConnectionResetError("gone"), BrokenPipeError(), APIError("busy")])
def test_an_engine_that_is_gone_is_temporary(raised: Exception) -> None:
    if isinstance(raised, APIError):
        raised.response = type("Busy", (), {"status_code": 503})()
    with pytest.raises(Temporary, match="stopped answering"), translated_errors("start it"):
        raise raised


def test_the_order_of_a_payload_makes_folders_before_what_is_in_them() -> None:
    names = list(payload(settings(), StepRequest(step=Step.PUSH, run="r")))
    for name in names:
        parent = name.rpartition("/")[0]
        assert not parent or names.index(parent) < names.index(name)
    assert container_spec.WORK.startswith(container_spec.VOLUME)
