"""The real images on a real engine: push makes a modelcar in its container, and vLLM reads it in place.

The images must be there, as `make images` leaves them.
"""

from __future__ import annotations

import secrets
from contextlib import closing
from typing import TYPE_CHECKING

import docker
import httpx
import pytest

from containers.contract import Kind, Step, StepRequest
from containers.errors import NotReady
from containers.parameters import PushedImage, PushParameters, ServeOptions, ServeParameters
from containers.store import FileEntry, Manifest, Store
from flows.runners.docker.launcher import DockerLauncher
from flows.runners.docker.services import DockerServices
from flows.runtime import location
from flows.targets import smoke
from flows.targets.description import DeploymentRequest, describe
from flows.targets.docker import deploy as deploy_docker
from infra.objectstore import EmbeddedStore
from infra.settings import Settings
from tests.support.docker_world import left
from tests.support.local_registry import LocalRegistry
from tests.support.ports import free_port
from tests.support.tiny_llama import write_tiny_llama

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flows.targets.target import RolloutResult

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """A store and nothing else: what the steps need reaches them through the engine."""
    folder = tmp_path_factory.mktemp("real")
    with EmbeddedStore(folder / "store", folder / "store.log") as store:
        given = Settings(home=folder / "home", docker={"project": f"test-{secrets.token_hex(4)}"})
        yield given.model_copy(update={"store": store})


@pytest.fixture(scope="module")
def pushed(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PushedImage]:
    """A modelcar that the push step made, in its container, out of the store."""
    folder = tmp_path_factory.mktemp("model")
    store = Store.open(location(settings), settings.store)
    files = sorted(write_tiny_llama(folder / "checkpoint", fp8=True).iterdir())
    entries = tuple(FileEntry(path=path.name, size=path.stat().st_size, sha256=store.put_file(path)) for path in files)
    checkpoint = store.commit(Manifest(kind=Kind.CHECKPOINT, fingerprint="0" * 64, files=entries))
    with LocalRegistry(folder / "registry") as registry:
        result = DockerLauncher(settings).run(
            StepRequest(
                step=Step.PUSH,
                run="test",
                inputs={"checkpoint": checkpoint},
                parameters=PushParameters(target=f"{registry}/models/tiny").dump(),
                store=location(settings),
            ),
            lambda event: print(event.text()),
        )
        yield PushedImage.read(result.values)


def test_vllm_answers_from_a_modelcar_that_it_reads_in_place(settings: Settings, pushed: PushedImage) -> None:
    """Through the process namespace, as in KServe; nothing stays when the lease ends."""
    parameters = ServeParameters(reference=pushed.reference, served_model_name="tiny", max_model_len=256)
    request = StepRequest(
        step=Step.SERVE,
        run="test",
        parameters=parameters.dump(),
        options=ServeOptions(ready_timeout=600).dump(),
        store=location(settings),
    )
    api = docker.APIClient(version="auto")
    lease = DockerServices(settings).start(request, lambda event: print(event.text()))
    try:
        server = next(name for name in left(api, settings.docker.project) if not name.endswith("-model"))
        mounts = {mount["Destination"] for mount in api.inspect_container(server)["Mounts"]}
        look = "import pathlib; print([str(path) for path in pathlib.Path('/run').rglob('*.safetensors')])"
        copies = api.exec_start(api.exec_create(server, ["python3", "-c", look]))
        body = {"model": "tiny", "prompt": "w5 w6 w7", "max_tokens": 4, "ignore_eos": True, "temperature": 0}
        answer = httpx.post(f"{lease.endpoint.url}/completions", json=body, timeout=120, trust_env=False)
        assert answer.raise_for_status().json()["usage"]["completion_tokens"] == 4
        assert lease.endpoint.emulated_fp8
        assert mounts == {"/run", "/mnt"}
        assert copies == b"[]\n"
    finally:
        lease.end()
        api.remove_image(pushed.reference, force=True)
    assert left(api, settings.docker.project) == []
    api.close()


def test_a_modelcar_is_deployed_found_again_and_ended(
    settings: Settings, pushed: PushedImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `carwright deploy docker` does: it serves at the port that was asked for until somebody ends it by word.

    A model that has no answer is ended at once: this one knows no word of the usual question, and says words it has none for.
    """
    wanted = DeploymentRequest(name="tiny", gpu="cpu", max_model_len=256, port=free_port())
    deployment = describe(pushed.reference, wanted, settings)
    said: list[str] = []

    def deploy() -> RolloutResult:
        return deploy_docker(deployment, settings, said.append, lambda event: print(event.text()), timeout=300)

    with closing(docker.APIClient(version="auto")) as api:
        with pytest.raises(NotReady, match="answered 'The capital of France is' with nothing"):
            deploy()
        assert left(api, settings.docker.project) == []

        monkeypatch.setattr(smoke, "PROMPT", "w5 w6 w7")
        first, second = deploy(), deploy()
        assert (first.changed, second.changed) == (True, False)
        assert first.url == second.url == f"http://127.0.0.1:{wanted.port}/v1"
        assert first.answer == second.answer
        assert said[0].startswith("it answers: 'w5 w6 w7'")
        assert len(left(api, settings.docker.project)) == 2, "vLLM, and the modelcar beside it"
        assert DockerServices(settings).stop_all(kept=True) == [first.url]
        assert left(api, settings.docker.project) == []
        api.remove_image(pushed.reference, force=True)
