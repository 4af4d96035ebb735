"""`carwright deploy compose` on a real engine, with a real modelcar; a small server stands in for vLLM.

It reads the model through the process namespace that it shares with the modelcar, as vLLM does, and answers with the
digest of the model's configuration.
"""

from __future__ import annotations

import json
import secrets
from contextlib import closing
from typing import TYPE_CHECKING

import docker
import pytest

from containers.errors import BadInput
from containers.oci.reference import Reference
from containers.process import inherited, run
from flows.targets.compose import deploy as deploy_compose
from flows.targets.description import DeploymentRequest, build
from flows.targets.model import of_folder
from infra.settings import Settings
from tests.support.deployments import GOLDEN
from tests.support.docker_world import SERVER, answering
from tests.support.local_registry import LocalRegistry
from tests.support.modelcars import push_folder, write_checkpoint
from tests.support.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from flows.targets.description import Deployment

pytestmark = pytest.mark.integration
BROKEN = "#!/bin/sh\nsleep 2\necho 'ValueError: no such architecture'\nexit 3\n"


@pytest.fixture(scope="module")
def engines() -> Iterator[tuple[str, str]]:
    """Two images: one that serves, one that ends at once."""
    repository = f"carwright-compose-{secrets.token_hex(4)}"
    with closing(docker.APIClient(version="auto")) as api:
        for tag, script in (("serves", SERVER), ("broken", BROKEN)):
            api.import_image_from_data(answering(script), repository=repository, tag=tag, changes="ENV PATH=/bin")
        yield f"{repository}:serves", f"{repository}:broken"
        for tag in ("serves", "broken"):
            api.remove_image(f"{repository}:{tag}", force=True)


@pytest.fixture(scope="module")
def modelcars(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """Two modelcars by digest in a registry that the engine pulls from."""
    folder = tmp_path_factory.mktemp("modelcars")
    settings = Settings(home=folder / "home", cache=folder / "cache")
    references = []
    with LocalRegistry(folder / "registry") as registry:
        for number in (1, 2):
            checkpoint = write_checkpoint(folder / f"model-{number}", size=4096 * number)
            (checkpoint / "config.json").write_text(json.dumps({"number": number}))
            pushed = push_folder(checkpoint, f"{registry}/models/tiny", settings, base="minimal")
            references.append(f"{registry}/models/tiny@{pushed.digest}")
        yield references
    with closing(docker.APIClient(version="auto")) as api:
        for one in references:
            api.remove_image(one, force=True)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """Whatever a test leaves up is taken down."""
    yield tmp_path
    for file in (tmp_path / "deployments").glob("*.compose.yaml"):
        name = file.name.removesuffix(".compose.yaml")
        run(["docker-compose", "--project-name", name, "--file", str(file), "down"], env=inherited("DOCKER_"))


def described(reference: str, image: str, port: int, name: str) -> Deployment:
    model = of_folder(GOLDEN / "demo").model_copy(update={"weights": 1 << 20})
    return build(
        model,
        Reference.parse(reference),
        DeploymentRequest(gpu="cpu", max_model_len=2048, image=image, port=port, name=name),
    )


def containers(name: str) -> dict[str, str]:
    """State of each service of a project."""
    with closing(docker.APIClient(version="auto")) as api:
        found = api.containers(all=True, filters={"label": f"com.docker.compose.project={name}"})
        return {one["Labels"]["com.docker.compose.service"]: one["State"] for one in found}


def test_a_model_is_served_and_replaced_only_by_what_serves(
    engines: tuple[str, str], modelcars: list[str], home: Path
) -> None:
    """A second digest takes over; one that does not serve leaves the one before; a port that is taken leaves nothing."""
    port, name, said = free_port(), f"t-{secrets.token_hex(4)}", list[str]()

    def deploy(reference: str, image: str = engines[0], name: str = name) -> tuple[bool, str]:
        served = deploy_compose(described(reference, image, port, name), home, said.append, timeout=60)
        return served.changed, served.answer

    first = deploy(modelcars[0])
    assert first[0]
    assert deploy(modelcars[0]) == (False, first[1])
    second = deploy(modelcars[1])
    assert second[0]
    assert second[1] != first[1], "the answer is made of the model's own bytes"

    with pytest.raises(BadInput, match="no such architecture") as caught:
        deploy(modelcars[0], image=engines[1])
    assert caught.value.message.endswith("rolled back: the old one was started again")
    assert deploy(modelcars[1]) == (False, second[1])

    with pytest.raises(BadInput, match=r"compose could not start it: .*port is already allocated") as caught:
        deploy(modelcars[0], name=f"{name}-too")
    assert caught.value.message.endswith("rolled back: nothing was left behind")
    assert containers(f"{name}-too") == {}
    assert containers(name) == {"model": "running", "vllm": "running"}
    assert [file.name for file in (home / "deployments").iterdir()] == [f"{name}.compose.yaml"]
