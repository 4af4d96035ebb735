"""What the dry run does before and beside the engine: keys, words for what the engine says, the pools' templates."""

from __future__ import annotations

import re
import stat
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import yaml

from containers.errors import BadInput, Error, Temporary
from flows.cli import server
from flows.local.dry_run import compose
from flows.local.dry_run.site import Site
from flows.orchestrator.work_pools import POOLS, Host
from infra import credentials, with_login
from infra.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path


def test_keys_are_made_once_and_for_their_owner_alone(tmp_path: Path) -> None:
    """A second start finds them, and the settings read them by their names."""
    folder = tmp_path / "secrets"
    assert credentials.ensure(folder) == [credentials.KEY_ID, credentials.SECRET]
    before = {path.name: path.read_text() for path in folder.iterdir()}
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o400}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o500
    assert credentials.ensure(folder) == []
    assert {path.name: path.read_text() for path in folder.iterdir()} == before
    assert credentials.ensure(tmp_path / "other") != []
    assert (tmp_path / "other" / credentials.SECRET).read_text() != before[credentials.SECRET]


def test_settings_read_the_keys_from_the_folder(tmp_path: Path) -> None:
    credentials.ensure(tmp_path)
    store = Settings(_secrets_dir=tmp_path).store
    assert store.access_key_id is not None
    assert store.access_key_id.get_secret_value() == (tmp_path / credentials.KEY_ID).read_text()


@pytest.mark.parametrize(
    ("said", "kind", "words"),
    [
        ("ERROR: for x  Cannot start service x: Bind for 127.0.0.1:4200 failed: port is already allocated",
         BadInput, "4200"),
        ("listen tcp4 127.0.0.1:5000: bind: address already in use", BadInput, "CARWRIGHT_REGISTRY_PORT"),
        ("Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?",
         BadInput, "without Docker"),
        ("something else", Temporary, "dry-run-down"),
    ],
    ids=["port", "port in use", "no engine", "other"],
)  # fmt: skip
def test_what_docker_says_is_told_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, kind: type[Error], words: str
) -> None:
    (tmp_path / "docker").write_text(f"#!/bin/sh\necho '{said}' >&2\nexit 1\n")
    (tmp_path / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(kind) as caught:
        compose.docker("ps")
    assert type(caught.value) is kind
    assert said in caught.value.message
    assert words in caught.value.remedy + caught.value.message


def test_without_an_engine_the_way_without_docker_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    with pytest.raises(BadInput, match="make ship"):
        compose.docker("ps")


def test_a_port_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARWRIGHT_REGISTRY_PORT", "five")
    with pytest.raises(BadInput, match=r"(?i)registry_port"):
        Site.read()


CPU_POOL, GPU_POOL = POOLS


def test_the_socket_goes_by_group_and_the_secrets_as_volumes() -> None:
    """Flow runs are no root, have no key in their environment, and remove themselves."""
    host = Host(project="p", socket_group=998, environment={"A": "b"})
    told = host.template(CPU_POOL)["job_configuration"]
    assert told["volumes"] == [
        "p-secrets:/run/secrets:ro",
        "p-login:/run/login:ro",
        "/var/run/docker.sock:/var/run/docker.sock",
    ]
    assert told["container_create_kwargs"]["group_add"] == ["998"]
    assert told["container_create_kwargs"]["security_opt"] == ["no-new-privileges", "label=disable"]
    assert told["auto_remove"] is True
    environment = host.variables(CPU_POOL)
    assert environment["A"] == "b"
    assert not [name for name, value in environment.items() if value is not None and ("KEY" in name or "AUTH" in name)]


def test_without_a_group_there_is_no_socket() -> None:
    told = Host().template(CPU_POOL)["job_configuration"]
    assert told["volumes"] == ["carwright-secrets:/run/secrets:ro", "carwright-login:/run/login:ro"]
    assert "group_add" not in told["container_create_kwargs"]


def test_runs_of_the_gpu_pool_alone_have_gpus() -> None:
    assert "CARWRIGHT_RESOURCES__SERVE__GPUS" not in Host().variables(CPU_POOL)
    for step in ("QUANTIZE", "SERVE"):
        assert Host().variables(GPU_POOL)[f"CARWRIGHT_RESOURCES__{step}__GPUS"] == "-1"
    one = Host(environment={"CARWRIGHT_RESOURCES__QUANTIZE__GPUS": "1"})
    assert one.variables(GPU_POOL)["CARWRIGHT_RESOURCES__QUANTIZE__GPUS"] == "1"


def test_deployments_have_no_job_variables(root: Path) -> None:
    """The pools refuse them: what a run may do is the pool's to say."""
    assert "job_variables" not in (root / "infra" / "prefect.yaml").read_text()


def test_parents_leave_room_for_the_child_runs_that_they_wait_for() -> None:
    for pool in POOLS:
        limits = {queue.name: queue.limit or pool.limit for queue in pool.queues}
        assert sum(limits.values()) <= pool.limit


def test_deployments_name_pools_and_queues_that_are_made(root: Path) -> None:
    known = {(pool.name, queue.name) for pool in POOLS for queue in pool.queues}
    deployments = yaml.safe_load((root / "infra" / "prefect.yaml").read_text())["deployments"]
    used = {(one["work_pool"]["name"], one["work_pool"]["work_queue_name"]) for one in deployments}
    assert used <= known
    assert {(one["entrypoint"].split(".")[1], one["name"]) for one in deployments} >= {
        ("quantize_and_ship", "local"),
        ("quantize_and_ship", "gpu"),
    }


def test_compose_publishes_on_loopback_alone_and_holds_no_secret(root: Path) -> None:
    services = yaml.safe_load((root / "infra" / "compose.yaml").read_text())["services"]
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)
    with_socket = [name for name, service in services.items() if "docker.sock" in str(service.get("volumes"))]
    assert with_socket == ["worker", "deployments"]
    assert services["deployments"]["user"] == "1001:1001"  # it sees whose the socket is, and is not in that group


def test_the_worker_is_root_until_it_knows_the_sockets_group(root: Path) -> None:
    """With what a change of user takes, and nothing else."""
    worker = yaml.safe_load((root / "infra" / "compose.yaml").read_text())["services"]["worker"]
    assert (worker["user"], worker["cap_drop"], worker["cap_add"]) == ("0:0", ["ALL"], ["SETUID", "SETGID"])
    assert worker["command"][:3] == ["python", "-m", "infra.socket_user"]
    assert "no-new-privileges:true" in worker["security_opt"]


@pytest.mark.parametrize("name", ["compose.yaml", "compose.gpu.yaml"])
def test_no_secret_is_in_an_environment_or_a_command(root: Path, name: str) -> None:
    """Files of volumes alone: an environment and a command are in `docker inspect`, which shows them to every client."""
    services = yaml.safe_load((root / "infra" / name).read_text())["services"]
    for service in services.values():
        named = [key for key in service.get("environment", {}) if re.search("KEY|SECRET|AUTH|TOKEN|PASSWORD", key)]
        assert not named
        assert "${CARWRIGHT_LOGIN" not in str(service)
        words = [str(word) for word in service.get("command") or [] if "AUTH_STRING" in str(word)]
        assert all(word.startswith("--login=/run/login/") for word in words)
    readers = {key for key, service in services.items() if "/run/login:ro" in str(service.get("volumes"))}
    ours = {"prefect", "worker", "deployments", "ship"}
    assert readers == {"compose.yaml": ours, "compose.gpu.yaml": {"worker"}}[name]


def test_the_login_is_made_once_in_a_folder_of_its_own(tmp_path: Path) -> None:
    """Neither the store, which reads the keys, sees it, nor the server the keys."""
    folder = tmp_path / "login"
    assert credentials.ensure_login(folder) == [credentials.LOGIN]
    (file,) = folder.iterdir()
    assert (file.name, stat.S_IMODE(file.stat().st_mode)) == (credentials.LOGIN, 0o400)
    secret = file.read_text()
    assert re.fullmatch(r"carwright:[\w-]{43}", secret)
    assert credentials.ensure_login(folder) == []
    assert file.read_text() == secret
    assert credentials.ensure_login(tmp_path / "other") != []
    assert (tmp_path / "other" / credentials.LOGIN).read_text() != secret


def test_a_gpu_host_is_given_keys_and_login_apart(tmp_path: Path) -> None:
    given = tmp_path / "given"
    given.mkdir()
    (given / credentials.KEY_ID).write_text("known")
    with pytest.raises(BadInput, match=credentials.LOGIN):
        credentials.copy_given(given, tmp_path / "keys", login=tmp_path / "login")
    (given / credentials.LOGIN).write_text("a:b")
    assert credentials.copy_given(given, tmp_path / "keys", login=tmp_path / "login") == [
        credentials.KEY_ID,
        credentials.LOGIN,
    ]
    assert [path.name for path in (tmp_path / "keys").iterdir()] == [credentials.KEY_ID]
    assert with_login.read(tmp_path / "login") == {credentials.LOGIN: "a:b"}


def test_a_program_gets_the_login_in_its_environment_and_not_on_its_command_line(tmp_path: Path) -> None:
    look = "import os, pathlib; print(os.environ['PREFECT_API_AUTH_STRING']); print(pathlib.Path('/proc/self/cmdline').read_text())"
    argv = [sys.executable, "-m", "infra.with_login", "--folder", str(tmp_path), sys.executable, "-c", look]
    missing = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert missing.returncode == BadInput.exit_code
    assert "no login" in missing.stderr
    (tmp_path / credentials.LOGIN).write_text("a:secret\n")
    said, command = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split("\n", 1)
    assert said == "a:secret"
    assert "secret" not in command


def test_parameters_are_json_where_they_can_be() -> None:
    assert server.parameters(["force=true", "max_model_len=512", "model=hf://a/b", "reason=a=b"]) == {
        "force": True,
        "max_model_len": 512,
        "model": "hf://a/b",
        "reason": "a=b",
    }
    with pytest.raises(BadInput, match="NAME=VALUE"):
        server.parameters(["force"])


def test_given_keys_are_brought_in_and_replace_older_ones(tmp_path: Path) -> None:
    given = tmp_path / "given"
    given.mkdir()
    (given / credentials.KEY_ID).write_text("known")
    credentials.ensure(tmp_path / "keys")
    assert credentials.copy_given(given, tmp_path / "keys") == [credentials.KEY_ID]
    assert (tmp_path / "keys" / credentials.KEY_ID).read_text() == "known"
    (given / credentials.KEY_ID).unlink()
    with pytest.raises(BadInput, match="no keys"):
        credentials.copy_given(given, tmp_path / "keys")


def test_the_keys_that_sign_replace_those_of_before(tmp_path: Path) -> None:
    """And are for their owner alone; a name that leads elsewhere is refused before anything is removed."""
    folder = tmp_path / "signing"
    assert credentials.replace_all(folder, {"a.key": "old", "a.password": "p"}) == ["a.key", "a.password"]
    assert credentials.replace_all(folder, {"b.key": "new"}) == ["b.key"]
    assert [(path.name, path.read_text(), path.stat().st_mode & 0o777) for path in folder.iterdir()] == [
        ("b.key", "new", 0o400)
    ]
    with pytest.raises(BadInput, match="not the name of a file"):
        credentials.replace_all(folder, {"../c.key": "c"})
    assert [path.name for path in folder.iterdir()] == ["b.key"]


def test_promotion_of_a_dry_run_mounts_the_keys_if_there_are_any() -> None:
    site = Site(project="p")
    assert "CARWRIGHT_DOCKER__SIGNING_VOLUME" not in site.host(1).environment
    signing = site.signing()
    assert signing.host(1).environment["CARWRIGHT_DOCKER__SIGNING_VOLUME"] == "p-signing"
    assert signing.stack().variables["CARWRIGHT_SIGNING_VOLUME"] == "p-signing"
