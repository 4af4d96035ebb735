"""Podman runs what is rendered: KServe's pod, and the card's command made right, over a modelcar that we pushed.

The engine is a shell script named python3 beside busybox, which serves only when the model is where it was told; vLLM
itself takes longer than these tests may. Podman gets a storage of its own, and the network of the machine.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from containers.errors import BadInput
from containers.oci.reference import Reference
from flows.targets import pod as kserve_pod
from flows.targets.description import DeploymentRequest, build
from flows.targets.model import of_folder
from flows.targets.podman import deploy as deploy_podman
from infra.settings import Settings
from tests.support.deployments import GOLDEN
from tests.support.docker_world import SERVER, answering
from tests.support.local_registry import LocalRegistry
from tests.support.modelcars import push_folder, write_checkpoint
from tests.support.ports import free_port
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flows.targets.description import Deployment

pytestmark = pytest.mark.integration
ENGINE = "localhost/engine:1"
BROKEN = "localhost/engine:broken"
CONFIG = """\
[containers]
default_ulimits = ["nofile=20000:20000", "nproc=1000:1000"]
netns = "host"
log_driver = "k8s-file"
[engine]
cgroup_manager = "cgroupfs"
runtime = "runc"
events_logger = "file"
"""


class Podman:
    """Podman with a storage of its own; `options` go before the verb."""

    def __init__(self, folder: Path) -> None:
        self.options = (f"--root={folder}/root", f"--runroot={folder}/run")

    def __call__(self, *words: str, check: bool = True, text: str | None = None) -> str:
        ended = subprocess.run(
            ["podman", *self.options, *words], check=False, capture_output=True, text=True, input=text
        )
        assert not check or ended.returncode == 0, ended.stderr
        return ended.stdout

    def engine(self, name: str, script: str) -> None:
        """An image of busybox and two scripts, without a build."""
        path = Path(self.options[0].partition("=")[2]).parent / "engine.tar"
        path.write_bytes(answering(script))
        self("import", "--change=ENV PATH=/bin", "--change=STOPSIGNAL SIGKILL", str(path), name)


@pytest.fixture(scope="module")
def podman() -> Iterator[Podman]:
    """In a folder of its own: podman takes no `--runroot` of more than 50 characters, and pytest's folders are longer."""
    folder = Path(tempfile.mkdtemp(prefix="podman-", dir="/tmp"))
    (folder / "containers.conf").write_text(CONFIG)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONTAINERS_CONF", str(folder / "containers.conf"))
        engine = Podman(folder)
        engine.engine(ENGINE, SERVER)
        engine.engine(BROKEN, "#!/bin/busybox sh\necho 'ValueError: no such architecture'\nexit 3\n")
        yield engine
        engine("pod", "rm", "--force", "--all")
        engine("rm", "--force", "--all", "--time", "0")
        subprocess.run(["umount", f"{folder}/root/overlay"], check=False, capture_output=True)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def modelcars(podman: Podman, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two modelcars by digest, of both bases that are made here, pushed by us and pulled by podman."""
    folder = tmp_path_factory.mktemp("modelcars")
    settings = Settings(home=folder / "home", cache=folder / "cache")
    references = []
    with LocalRegistry(folder / "registry") as registry:
        for number, base in ((1, "minimal"), (2, "busybox")):
            checkpoint = write_checkpoint(folder / f"model-{number}", size=4096 * number)
            (checkpoint / "config.json").write_text(json.dumps({"number": number}))
            target = f"{registry}/models/modelcar-tiny"
            pushed = push_folder(checkpoint, target, settings, base=base)
            references.append(f"{target}@{pushed.digest}")
            podman("pull", "--quiet", "--tls-verify=false", references[-1])
    return references


def described(reference: str, *, image: str = ENGINE, port: int = 0, argument: str = "") -> Deployment:
    """The deployment of a modelcar by our engine; the demo's configuration stands for its model."""
    model = of_folder(GOLDEN / "demo").model_copy(update={"weights": 1 << 20})
    arguments = (argument,) if argument else ()
    wanted = DeploymentRequest(
        gpu="cpu", max_model_len=2048, image=image, port=port or free_port(), arguments=arguments
    )
    return build(model, Reference.parse(reference), wanted)


@pytest.mark.parametrize("number", [0, 1], ids=["minimal", "busybox"])
def test_kserves_pod_serves(podman: Podman, modelcars: list[str], tmp_path: Path, number: int) -> None:
    """Init container, sidecar and engine in one pid namespace: the engine reads the model through /proc, as user 1001."""
    pod: dict[str, Any] = kserve_pod.manifest(described(modelcars[number]))
    server = pod["spec"]["containers"][0]
    del server["ports"]  # the pod is in the machine's network
    server["args"] = [
        one.replace("8080", str(port := free_port())) if "--port" in one else one for one in server["args"]
    ]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        del server[probe]
    path = tmp_path / "pod.yaml"
    path.write_text(yaml.safe_dump(pod))
    podman("kube", "play", "--network=host", "--log-driver=k8s-file", str(path))
    try:
        name = pod["metadata"]["name"]
        log = until(
            lambda: (said := podman("logs", f"{name}-{server['name']}")).endswith("\n") and said, "the engine serves"
        )
        assert log == "serving /mnt/models as 1001\n"
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.sendall(b"GET /v1/models HTTP/1.1\r\n\r\n")
            assert name in connection.makefile().read()
    finally:
        podman("pod", "rm", "--force", "--time=0", name)


def test_an_image_without_a_model_stops_the_pod(podman: Podman, tmp_path: Path, modelcars: list[str]) -> None:
    """The init container of KServe's pod ends with 1: the engine never starts."""
    pod: dict[str, Any] = kserve_pod.manifest(described(modelcars[0]))
    del pod["spec"]["containers"][0]["ports"]
    pod["spec"]["initContainers"][0]["image"] = ENGINE
    pod["metadata"]["name"] = "empty"
    pod["spec"]["restartPolicy"] = "Never"  # once is enough here
    path = tmp_path / "pod.yaml"
    path.write_text(yaml.safe_dump(pod))
    podman("kube", "play", "--network=host", "--log-driver=k8s-file", str(path), check=False)
    try:
        states = podman("ps", "--all", "--filter=pod=empty", "--format={{.Names}} {{.Status}}").splitlines()
        assert "empty-kserve-container Created" in states
    finally:
        podman("pod", "rm", "--force", "--time=0", "empty")


def test_the_command_serves_and_is_replaced_only_by_what_serves(podman: Podman, modelcars: list[str]) -> None:
    """The model is mounted by digest; a second digest takes over; one that does not serve leaves the one before."""
    said: list[str] = []
    port = free_port()

    def deploy(reference: str, image: str = ENGINE, argument: str = "") -> Any:
        deployment = described(reference, image=image, port=port, argument=argument)
        return deploy_podman(deployment, said.append, timeout=30, options=podman.options)

    first = deploy(modelcars[0])
    assert first.changed
    assert not deploy(modelcars[0]).changed, "what serves already is left alone"
    assert deploy(modelcars[0], argument="--seed=1").changed, "and something else is not that"
    second = deploy(modelcars[1])
    assert second.answer != first.answer, "the answer is made of the model's own bytes"
    with pytest.raises(BadInput, match="no such architecture") as caught:
        deploy(modelcars[0], image=BROKEN)
    assert "the old one was started again" in caught.value.message
    again = deploy(modelcars[1])
    assert (again.changed, again.answer) == (False, second.answer)
    podman("rm", "--force", "--time=0", first.name)


def test_podman_is_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Said as such."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BadInput, match="podman is not installed"):
        deploy_podman(described("r.example.com/m@sha256:" + "1" * 64), lambda _: None, timeout=1)
