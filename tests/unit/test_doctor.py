"""`carwright doctor` names what is wrong with a machine and its services, and what to do; broken ones are made here."""

from __future__ import annotations

import json
import os
import socket
import threading
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr

from containers.errors import BadInput, DiskFull, Temporary
from containers.oci.access import open_repository
from containers.settings import EvaluateSettings, RegistrySettings, StoreSettings
from infra.doctor import Line, engine, examine, gpu, hub, machine, registry, sandbox, store
from infra.hub import Fault, Hub, Repositories
from infra.settings import DockerSettings, Resources, ResourcesSettings, Settings
from tests.support.answers import Answer, answering
from tests.support.certificates import certificate
from tests.support.download_world import REPO, checkpoint
from tests.support.ports import free_port
from tests.support.registry_double import Fault as RegistryFault
from tests.support.registry_double import registry_double

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MODEL = f"hf://{REPO}"
TOKEN = "hf_secretsecret"
_LINE = pytest.mark.parametrize


@pytest.fixture(autouse=True)
def _no_login_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    # The client asks a hub about the program that it is called by, and keeps the answer for all of a user's programs.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is first on the PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    return folder


def program(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


# ---- the lines themselves


def test_checks_run_beside_each_other_and_keep_their_order() -> None:
    both = threading.Barrier(2)

    def waits(name: str) -> Line:
        both.wait(timeout=60)  # neither comes through alone
        return Line(name, "ok", "")

    lines = examine({"b": lambda: waits("b"), "a": lambda: waits("a")})
    assert [(line.name, line.state) for line in lines] == [("b", "ok"), ("a", "ok")]


def test_a_check_that_hangs_is_a_problem_and_the_others_are_told() -> None:
    for_ever = threading.Event()
    checks: dict[str, Any] = {"stuck": lambda: for_ever.wait() and None, "other": lambda: Line("other", "ok", "fine")}
    stuck, other = examine(checks, deadline=0.3)
    for_ever.set()
    assert (stuck.state, other.state) == ("problem", "ok")
    assert "no answer within" in stuck.text


def test_a_check_that_fails_hides_nothing() -> None:
    def broken() -> Line:
        raise KeyError("x")

    def refused() -> Line:
        raise DiskFull("no space", remedy="free some")

    first, second = examine({"first": broken, "second": refused})
    assert (first.state, "KeyError" in first.text) == ("problem", True)
    assert (second.text, second.remedy) == ("no space", "free some"), "it does not send whoever reads it to itself"


def test_no_line_holds_a_secret() -> None:
    told = Line("hub", "problem", f"it said {TOKEN}", f"see https://ann:{TOKEN}@host/x and http://bob@host")
    (line,) = examine({"hub": lambda: told}, secrets=[TOKEN, ""])
    assert line.text == "it said ***"
    assert line.remedy == "see https://***@host/x and http://***@host"


def test_a_line_is_one_line() -> None:
    assert str(Line("x", "ok", "one\ntwo", " what\tto do ")) == "one two; what to do"


# ---- this machine


def test_this_machine_is_well(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "new" / "home", cache=tmp_path)
    assert machine.python().state == "ok"
    assert machine.disk(settings, room=1, least=1).state == "ok"
    assert not (tmp_path / "new").exists()
    assert machine.memory(wanted=1, least=1).state == "ok"
    assert machine.cores().text.startswith(str(len(os.sched_getaffinity(0))))
    assert sandbox.sandbox(settings) == Line("sandbox", "ok", "generated code runs under bubblewrap")


@_LINE(("room", "least", "state"), [(10**18, 1, "warning"), (10**18, 10**17, "problem")])
def test_a_disk_with_little_room(tmp_path: Path, room: int, least: int, state: str) -> None:
    line = machine.disk(Settings(home=tmp_path, cache=tmp_path), room=room, least=least)
    assert line.state == state
    assert str(tmp_path) in line.text
    assert "CARWRIGHT_HOME and CARWRIGHT_CACHE" in line.remedy


def test_a_state_folder_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    line = machine.disk(Settings(home=tmp_path / "file" / "home", cache=tmp_path))
    assert (line.state, "CARWRIGHT_HOME" in line.remedy) == ("problem", True)


@_LINE(("least", "state"), [(1, "warning"), (10**18, "problem")])
def test_little_memory(least: int, state: str) -> None:
    assert machine.memory(wanted=10**18, least=least).state == state


def test_a_port_in_use_is_named_with_its_variable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port, free = taken.getsockname()[1], free_port()
        line = machine.ports({"CARWRIGHT_PORT": port, "CARWRIGHT_STORE_PORT": free})
    assert line.state == "warning"
    assert f"{port} (CARWRIGHT_PORT)" in line.text
    assert str(free) not in line.text
    assert machine.ports({"CARWRIGHT_STORE_PORT": free}).state == "ok"


GPUS = Settings(resources=ResourcesSettings(serve=Resources(gpus=1)))


@_LINE(
    ("said", "settings", "state", "words"),
    [
        ("0, GPU-1, NVIDIA H100 80GB HBM3, 81559, 81559, 580.95.05, 9.0", GPUS, "ok", "NVIDIA H100 80GB HBM3 (80 GiB, compute capability 9.0)"),
        ("0, GPU-1, NVIDIA H100 80GB HBM3, 81559, 81559, 535.183.01, 9.0", GPUS, "problem", "driver 580 or later"),
        ("0, GPU-1, NVIDIA H100 80GB HBM3, 81559, 81559, 535.183.01, 9.0", Settings(), "warning", "driver 580 or later"),
        ("0, GPU-1, Tesla V100-SXM2-16GB, 16384, 16384, 580.95.05, 7.0", GPUS, "problem", "Tesla V100-SXM2-16GB is too old"),
        ("0, GPU-1, NVIDIA A100, 40960, 40960, 580.95.05, 8.0", GPUS, "warning", "no FP8 arithmetic"),
        ("0, GPU-1, NVIDIA H100, 81559, 81559, 580.95.05, 9.0\n0, GPU-1, Tesla T4, 15360, 15360, 580.95.05, 7.5", GPUS, "warning", "Tesla T4 has no FP8"),
        ("0, GPU-1, NVIDIA H100, 81559, 81559, 580.95.05, [N/A]", GPUS, "ok", "compute capability unknown"),
        ("0, GPU-1, NVIDIA H100, 81559, 81559, 580.95.05, [N/A]\n1, GPU-2, Tesla V100, 16384, 16384, 580.95.05, 7.0", GPUS, "problem", "Tesla V100 is too old"),
        ("something else", GPUS, "problem", "there is none here"),
    ],
    ids=["good", "old driver", "old driver, not used", "old GPU", "without FP8", "two", "not told", "not told and old", "nonsense"],
)  # fmt: skip
def test_gpus(programs: Path, said: str, settings: Settings, state: str, words: str) -> None:
    program(programs, "nvidia-smi", f"cat <<'END'\n{said}\nEND")
    line = gpu.gpu(settings)
    assert line.state == state
    assert words in str(line)


def test_a_driver_that_does_not_answer(programs: Path) -> None:
    program(programs, "nvidia-smi", "echo 'NVIDIA-SMI has failed' >&2; exit 9")
    line = gpu.gpu(GPUS)
    assert (line.state, "NVIDIA-SMI has failed" in line.text) == ("problem", True)


def test_a_driver_too_old_to_be_asked_is_to_be_renewed(programs: Path) -> None:
    """Before 510 it does not know the compute capability, and refuses the question."""
    refused = "echo 'Field \"compute_cap\" is not a valid field to query.'; exit 2"
    answer = "echo '0, GPU-1, NVIDIA A100, 40960, 40000, 470.82.01'"
    program(programs, "nvidia-smi", f'case "$*" in *compute_cap*) {refused};; *) {answer};; esac')
    line = gpu.gpu(GPUS)
    assert (line.state, line.remedy) == ("problem", "install driver 580 or later")


def test_a_gpu_that_is_hidden_is_not_examined(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The remedy for a card that is too old works."""
    old, new = (
        "0, GPU-1, Tesla V100, 16384, 16000, 580.95.05, 7.0",
        "1, GPU-2, NVIDIA H100, 81559, 81000, 580.95.05, 9.0",
    )
    program(programs, "nvidia-smi", f"cat <<'END'\n{old}\n{new}\nEND")
    assert "CUDA_VISIBLE_DEVICES" in gpu.gpu(GPUS).remedy
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert gpu.gpu(GPUS).state == "ok"


def test_no_gpu(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(programs))
    assert gpu.gpu(Settings(), loaded=programs / "none").state == "ok"
    assert gpu.gpu(GPUS, loaded=programs / "none").state == "problem"
    assert "names no GPU" in gpu.gpu(GPUS, loaded=programs).text


def test_no_sandbox(programs: Path) -> None:
    """The one that the settings name; without a name a container's own would do, and nothing is a warning."""
    program(programs, "bwrap", "echo 'bwrap: No permissions to create a new namespace' >&2; exit 1")
    line = sandbox.sandbox(Settings(evaluate=dict(EvaluateSettings(sandbox="bubblewrap"))))
    assert line.state == "problem"
    assert "No permissions to create a new namespace" in line.text
    assert "install bubblewrap and allow user namespaces" in line.remedy
    either = sandbox.sandbox(Settings())
    assert either.state == ("ok" if "Landlock" in either.text else "warning"), either
    assert sandbox.sandbox(Settings(launcher="docker")).state == "skipped"


# ---- the container engine


def docker_at(host: str) -> Settings:
    return Settings(docker=DockerSettings(host=host), launcher="docker")


def said_by_engine(
    api: str, version: str = "20.10.24", name: str = "Engine", **info: Any
) -> dict[tuple[str, str], Answer]:
    told = {"ApiVersion": api, "MinAPIVersion": "1.12", "Version": version, "Components": [{"Name": name}]}
    return {("GET", "/version"): Answer(body=told), ("GET", "/info"): Answer(body=info)}


def test_no_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    host = f"unix://{tmp_path}/docker.sock"
    line = engine.engine(docker_at(host))
    assert line.state == "problem"
    assert "there is no container engine" in line.text
    assert "`make ship` works without one" in line.remedy
    monkeypatch.setenv("DOCKER_HOST", host)
    assert engine.engine(Settings()).state == "warning", "nobody asked for one"


def test_podman_instead_of_docker(programs: Path, tmp_path: Path) -> None:
    program(programs, "podman", "exit 1")
    line = engine.engine(docker_at(f"unix://{tmp_path}/docker.sock"))
    assert "podman" in line.remedy
    assert "CARWRIGHT_DOCKER__HOST=unix://" in line.remedy


def test_an_engine_whose_socket_is_not_for_this_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() == 0:  # root may use any socket, so the refusal is the kernel's to another user
        monkeypatch.setattr(socket.socket, "connect", _refuse)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "docker.sock"))
        (tmp_path / "docker.sock").chmod(0)
        line = engine.engine(docker_at(f"unix://{tmp_path}/docker.sock"))
    assert line.state == "problem"
    assert "this user may not use the container engine" in line.text
    assert "usermod -aG docker" in line.remedy


def _refuse(*_: object) -> None:
    raise PermissionError(13, "Permission denied")


@_LINE(
    ("api", "version", "name", "state", "words"),
    [
        ("1.41", "20.10.24", "Engine", "ok", "Docker 20.10.24, API 1.41"),
        ("1.41", "4.9.3", "Podman Engine", "ok", "Podman 4.9.3, API 1.41"),
        ("1.40", "19.03.15", "Engine", "problem", "Docker 19.03.15, API 1.40: too old"),
    ],
)
def test_an_engine_says_what_it_is(api: str, version: str, name: str, state: str, words: str) -> None:
    with answering(said_by_engine(api, version, name)) as served:
        line = engine.engine(docker_at(served.url.replace("http", "tcp")))
    assert (line.state, line.text) == (state, words)


def test_a_rootless_engine() -> None:
    with answering(said_by_engine("1.45", SecurityOptions=["name=seccomp", "name=rootless"])) as served:
        assert engine.engine(docker_at(served.url.replace("http", "tcp"))).text.endswith("rootless")


@_LINE(
    ("info", "state", "words"),
    [
        ({"Runtimes": {"runc": {}, "nvidia": {}}}, "ok", "the NVIDIA runtime"),
        ({"DiscoveredDevices": [{"Source": "cdi", "ID": "nvidia.com/gpu=all"}]}, "ok", "CDI"),
        ({"Runtimes": {"runc": {}}, "CDISpecDirs": ["/nowhere"]}, "problem", "nvidia-ctk runtime configure"),
    ],
)
def test_gpus_in_containers(programs: Path, info: dict[str, Any], state: str, words: str) -> None:
    program(programs, "nvidia-smi", "echo '0, GPU-1, NVIDIA H100, 81559, 81559, 580.95.05, 9.0'")
    with answering(said_by_engine("1.45", **info)) as served:
        settings = docker_at(served.url.replace("http", "tcp"))
        line = engine.engine_gpu(settings.model_copy(update={"resources": GPUS.resources}))
    assert (line.state, words in str(line)) == (state, True)


# ---- the hub


@pytest.fixture
def local_hub(tmp_path: Path) -> Iterator[Hub]:
    repositories = Repositories(tmp_path / "hub")
    repositories.publish(REPO, checkpoint(tmp_path / "model"))
    with Hub(repositories) as served:
        yield served


def at_hub(endpoint: str, token: str | None = None) -> Settings:
    return Settings(hub_endpoint=endpoint, hub_token=SecretStr(token) if token else None)


def test_a_hub_that_answers(local_hub: Hub) -> None:
    line = hub.hub(at_hub(local_hub.endpoint), f"{MODEL}@main")
    assert (line.state, line.remedy) == ("ok", "")
    assert f"{MODEL}@main can be read" in line.text


def test_a_token_that_the_hub_knows() -> None:
    answers = {("HEAD", "/"): Answer(), ("GET", "/api/whoami-v2"): Answer(body={"name": "ann", "type": "user"})}
    with answering(answers) as served:
        line = hub.hub(at_hub(served.url, TOKEN))
    assert line == Line("hub", "ok", f"{served.url} answers, and knows the token as ann's")


def test_a_token_that_the_hub_does_not_know(local_hub: Hub) -> None:
    local_hub.faults.add(Fault(match="whoami", status=401))
    line = hub.hub(at_hub(local_hub.endpoint, TOKEN))
    assert (line.state, line.text) == ("problem", f"{local_hub.endpoint} rejects the token")
    assert "set HF_TOKEN to a valid token" in line.remedy


@_LINE(("token", "words"), [(None, "no token is set"), (TOKEN, "the owner of this token has no access")])
def test_a_gated_model(local_hub: Hub, token: str | None, words: str) -> None:
    local_hub.repositories.protect(REPO, gated="manual")
    local_hub.repositories.add_token(TOKEN)
    line = hub.hub(at_hub(local_hub.endpoint, token), MODEL)
    assert line.state == "problem"
    assert f"{REPO} is gated, and {words}" in line.text
    assert f"{local_hub.endpoint}/{REPO}" in line.remedy


def test_a_gated_model_with_access(local_hub: Hub) -> None:
    local_hub.repositories.protect(REPO, gated="manual")
    local_hub.repositories.grant(REPO, TOKEN)
    assert hub.hub(at_hub(local_hub.endpoint, TOKEN), MODEL).state == "ok"


@_LINE(
    ("model", "words"),
    [
        ("hf://nobody/nothing", "there is no model nobody/nothing"),
        (f"{MODEL}@v9", "has no revision 'v9'"),
        ("not a name/x", "is not a model on a hub"),
    ],
)
def test_a_model_that_is_not_there(local_hub: Hub, model: str, words: str) -> None:
    local_hub.repositories.add_token(TOKEN)
    line = hub.hub(at_hub(local_hub.endpoint, TOKEN), model)
    assert (line.state, words in line.text) == ("problem", True)


def test_a_hub_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = f"http://127.0.0.1:{free_port()}"
    assert hub.hub(at_hub(endpoint)).state == "problem"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
    line = hub.hub(Settings())
    assert (line.state, "does not answer" in line.text) == ("warning", True), "the demo needs none"
    assert hub.hub(Settings(), MODEL).state == "problem"


# ---- the registry


def at_registry(**registry: Any) -> Settings:
    return Settings(registry=RegistrySettings(**registry))


def test_a_registry_that_takes_a_push_keeps_nothing() -> None:
    with registry_double(auth="bearer") as served:
        line = registry.registry(
            at_registry(host=served.address, username="ann", password=SecretStr("secret")), f"{served.address}/models/m"
        )
        assert (line.state, line.text) == ("ok", f"{served.address}/models/m takes a push")
        assert any("pull,push" in str(token["scope"]) for token in served.tokens)
    assert (served.uploads, served.blobs, served.manifests) == ({}, {}, {})


def test_a_registry_that_denies_the_push() -> None:
    with registry_double(faults=[RegistryFault("POST", "uploads", status=403, times=9)]) as served:
        line = registry.registry(Settings(), f"{served.address}/models/m")
    assert line.state == "problem"
    assert "answered 403 to the beginning of a push" in line.text
    assert f"not allowed to do this in {served.address}/models/m" in line.remedy


def test_a_registry_that_wants_another_login() -> None:
    with registry_double(auth="basic") as served:
        line = registry.registry(
            at_registry(host=served.address, username="ann", password=SecretStr("wrong")), f"{served.address}/models/m"
        )
    assert line.state == "problem"
    assert f"docker login {served.address}" in line.remedy
    assert "wrong" not in str(line)


def test_a_registry_with_a_certificate_that_nobody_vouches_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A push ends at once, too: another attempt would change nothing."""
    monkeypatch.setenv("NO_PROXY", "*")
    with answering({("POST", "uploads"): Answer(202)}, tls=certificate(tmp_path)) as served:
        target = f"{by_another_name(served.url)}/models/m"
        line = registry.registry(Settings(), target)
        with (
            open_repository(target, Settings(), write=True) as repository,
            pytest.raises(BadInput, match="TLS failed") as caught,
        ):
            repository.tags()
    assert (line.state, "CERTIFICATE_VERIFY_FAILED" in line.text) == ("problem", True)
    assert "SSL_CERT_FILE" in line.remedy
    assert caught.value.remedy.endswith("(`carwright doctor`, line `registry`)")


def test_a_registry_without_tls_is_named_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    with registry_double() as served:
        line = registry.registry(Settings(), f"{by_another_name(served.address)}/models/m")
    assert (line.state, "CARWRIGHT_REGISTRY__PLAIN_HTTP" in line.remedy) == ("problem", True)


def by_another_name(address: str) -> str:
    """Loopback under a name for which TLS is the rule: Linux takes 0.0.0.0 for this machine (ip(7))."""
    return address.removeprefix("https://").replace("127.0.0.1", "0.0.0.0")


def test_a_registry_that_does_not_answer() -> None:
    line = registry.registry(Settings(), f"127.0.0.1:{free_port()}/models/m")
    assert (line.state, "cannot connect" in line.text) == ("problem", True)
    assert "check its name" in line.remedy


def test_targets_that_are_no_registry(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert registry.registry(Settings()).state == "skipped"
    assert registry.registry(Settings(), f"oci:{tmp_path}/new/image").state == "ok"
    assert registry.registry(Settings(), f"oci:{tmp_path}/file/image").state == "problem"
    assert registry.registry(Settings(), "no registry").state == "problem"
    assert not (tmp_path / "new").exists()


# ---- the store


def at_store(endpoint: str) -> Settings:
    keys = {"access_key_id": SecretStr("key"), "secret_access_key": SecretStr("storesecret")}
    return Settings(store=StoreSettings(endpoint=endpoint, **keys))


def said_by_store(ahead: float = 0.0, **listing: Any) -> dict[tuple[str, str], Answer]:
    date = {"Date": format_datetime(datetime.now(UTC) + timedelta(seconds=ahead), usegmt=True)}
    xml = '<?xml version="1.0"?><{0} xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{1}</{0}>'
    began = xml.format("InitiateMultipartUploadResult", "<UploadId>u1</UploadId>")
    answers = {
        ("GET", "/carwright"): Answer(
            body=xml.format("ListBucketResult", "<Name>carwright</Name>").encode(), headers=date
        ),
        ("POST", "uploads"): Answer(body=began.encode(), headers=date),
        ("DELETE", "uploadId=u1"): Answer(204, headers=date),
    }
    if listing:
        code = xml.format("Error", f"<Code>{listing['code']}</Code><Message>said so</Message>").replace(" xmlns", " x")
        answers[listing.get("at", ("GET", "/carwright"))] = Answer(listing["status"], code.encode(), date)
    return answers


def test_a_store_takes_a_write_and_keeps_nothing() -> None:
    with answering(said_by_store()) as served:
        line = store.store(at_store(served.url))
    assert (line.state, line.text) == ("ok", f"{served.url}/carwright takes a write")
    (begun,) = [path for method, path in served.requests if method == "POST"]
    (ended,) = [path for method, path in served.requests if method == "DELETE"]
    assert begun.partition("?")[0] == ended.partition("?")[0]
    assert not [method for method, _ in served.requests if method == "PUT"]


@_LINE(
    ("ahead", "state", "words"),
    [(300, "warning", "ahead of"), (-1500, "problem", "behind"), (-300, "warning", "behind")],
)
def test_a_store_with_another_time(ahead: float, state: str, words: str) -> None:
    with answering(said_by_store(ahead)) as served:
        line = store.store(at_store(served.url))
    assert (line.state, words in line.text, "set this machine's clock" in line.remedy) == (state, True, True)


@_LINE(
    ("code", "status", "at", "words"),
    [
        ("RequestTimeTooSkewed", 403, ("GET", "/carwright"), "set this machine's clock, or the store's"),
        ("InvalidAccessKeyId", 403, ("GET", "/carwright"), "the store refuses these keys"),
        ("AccessDenied", 403, ("POST", "uploads"), "grant these keys list, get, put and delete"),
    ],
)
def test_a_store_that_refuses(code: str, status: int, at: tuple[str, str], words: str) -> None:
    with answering(said_by_store(code=code, status=status, at=at)) as served:
        line = store.store(at_store(served.url))
    assert (line.state, words in line.remedy) == ("problem", True), line
    assert "storesecret" not in str(line)


def test_a_store_without_the_bucket_yet() -> None:
    with answering(said_by_store(code="NoSuchBucket", status=404)) as served:
        line = store.store(at_store(served.url))
    assert (line.state, "the first run makes the bucket" in line.text) == ("ok", True)
    assert [method for method, _ in served.requests] == ["GET"], "nothing is made by looking"


def test_a_store_that_does_not_answer() -> None:
    line = store.store(at_store(f"http://127.0.0.1:{free_port()}"))
    assert (line.state, "does not answer" in line.text) == ("problem", True)


def test_the_store_of_a_machine_without_settings() -> None:
    line = store.store(Settings())
    assert (line.state, "rclone" in line.text) == ("ok", True)


# ---- errors name their line


def test_an_error_names_the_line_that_looks_for_its_cause() -> None:
    assert BadInput("a", remedy="do b", doctor="hub").remedy == "do b (`carwright doctor`, line `hub`)"
    assert DiskFull("a").remedy == "(`carwright doctor`, line `disk`)"
    assert Temporary("a", remedy="b").remedy == "b"


# ---- the command


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a little engine and a hub of its own, so that the command asks nobody else."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    for name in ("CARWRIGHT_PORT", "CARWRIGHT_REGISTRY_PORT", "CARWRIGHT_STORE_PORT"):
        monkeypatch.setenv(name, str(free_port()))
    return tmp_path


def test_the_command(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A good machine, then the same with an invalid token and a registry that denies: code 2, JSON, and no secret."""
    from typer.testing import CliRunner

    from flows.cli.main import app

    names = ["python", "disk", "memory", "cores", "gpu", "engine", "engine-gpu", "hub", "registry", "store", "ports"]
    known = {("HEAD", "/"): Answer(), ("GET", "/api/whoami-v2"): Answer(body={"name": "ann"})}
    with ExitStack() as stack:
        docker = stack.enter_context(answering(said_by_engine("1.45")))
        good = stack.enter_context(answering(known))
        bad = stack.enter_context(answering({("HEAD", "/"): Answer(), ("GET", "/api/whoami-v2"): Answer(401)}))
        pushes = stack.enter_context(registry_double())
        monkeypatch.setenv("CARWRIGHT_DOCKER__HOST", docker.url.replace("http", "tcp"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setenv("HF_ENDPOINT", good.url)
        done = CliRunner().invoke(app, ["doctor", "--to", f"{pushes.address}/models/m"])
        assert done.exit_code == 0, done.output
        assert [line.split()[1] for line in done.stdout.splitlines()] == [*names, "sandbox", "prefect"]
        assert {line.split()[0] for line in done.stdout.splitlines()} <= {"ok", "skipped", "warning"}

        monkeypatch.setenv("HF_ENDPOINT", bad.url)
        pushes.faults.append(RegistryFault("POST", "uploads", status=403))
        done = CliRunner().invoke(app, ["doctor", "--to", f"{pushes.address}/models/m", "--json"])
    assert isinstance(done.exception, BadInput)
    assert done.exception.message == "2 problems: hub, registry"
    told = json.loads(done.stdout)
    assert told["ok"] is False
    assert {line["name"] for line in told["lines"] if line["state"] == "problem"} == {"hub", "registry"}
    assert TOKEN not in done.output


def test_a_hub_with_a_certificate_that_nobody_vouches_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    with answering({}, tls=certificate(tmp_path)) as served:
        line = hub.hub(Settings(hub_endpoint=f"https://{by_another_name(served.url)}"))
    assert line.remedy == "name the bundle of your own certificate authority in SSL_CERT_FILE"
