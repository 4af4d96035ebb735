"""`carwright size`, `render` and the RHEL AI lines, from a modelcar in a real registry."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from typer.testing import CliRunner

from containers.errors import BadInput
from flows.cli.main import app
from flows.targets import rhel_ai
from infra.settings import Settings
from tests.support.deployments import GOLDEN
from tests.support.kserve_world import KServe
from tests.support.kube_api import NAMESPACE, kube_api, kubeconfig
from tests.support.local_registry import LocalRegistry
from tests.support.modelcars import push_folder, write_safetensors

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from containers.oci.modelcar import Pushed

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with LocalRegistry(tmp_path_factory.mktemp("registry")) as address:
        yield address


@pytest.fixture(scope="module")
def pushed(registry: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Pushed]:
    """The demo's configuration with a small weight file, as a modelcar and as raw files, under the tag 1.0."""
    home, folder = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("checkpoint")
    (folder / "config.json").write_text((GOLDEN / "demo" / "config.json").read_text())
    write_safetensors(folder / "model.safetensors", 4096)
    settings = Settings(home=home, cache=home)
    reference = f"{registry}/models/modelcar-demo"
    return reference, push_folder(folder, reference, settings, tag="1.0", also_raw=True)


def carwright(*arguments: str) -> str:
    result = CliRunner().invoke(app, [*arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_size(pushed: tuple[str, Pushed]) -> None:
    """Shapes from config.json in a layer, weights from the manifest, exactly."""
    reference, _ = pushed
    answer = json.loads(carwright("size", f"{reference}:1.0", "--gpu", "L4", "--max-model-len", "2048", "--json"))
    assert answer["model"]["layers"] == 30
    header = 8 + len('{"weight": {"dtype": "F32", "shape": [1024], "data_offsets": [0, 4096]}}')
    assert answer["model"]["weights"] == 4096 + header
    assert answer["sizing"]["kv_per_token"] == 2 * 30 * 3 * 64 * 2
    assert "1 x L4" in carwright("size", f"{reference}:1.0", "--gpu", "L4")


def test_render_resolves_the_tag(pushed: tuple[str, Pushed], tmp_path: Path) -> None:
    """The digest stands in the manifests; a mirror has the same digest under another name."""
    reference, push = pushed
    carwright("render", "kserve", f"{reference}:1.0", "--gpu", "L4", "-o", str(tmp_path), "-n", "models")
    _, service = yaml.safe_load_all((tmp_path / "demo.kserve.yaml").read_text())
    model: dict[str, Any] = service["spec"]["predictor"]["model"]
    assert model["storageUri"] == f"oci://{reference}@{push.digest}"
    assert model["resources"]["limits"]["nvidia.com/gpu"] == "1"
    mirrored = carwright("render", "kserve", f"{reference}:1.0", "--gpu", "cpu", "--from", "mirror.example.com/m/demo")
    assert f"oci://mirror.example.com/m/demo@{push.digest}" in mirrored


def test_render_without_a_registry() -> None:
    """With a folder nothing is asked of anybody, and the reference must hold the digest itself."""
    reference = f"r.example.com/m/x@sha256:{'1' * 64}"
    text = carwright("render", "podman", reference, "--model", str(GOLDEN / "llama-3.3-70b"), "--gpu", "H100")
    assert "--tensor-parallel-size=2" in text
    with pytest.raises(BadInput, match="holds no digest"):
        carwright("render", "podman", "r.example.com/m/x:1", "--model", str(GOLDEN / "demo"), "--gpu", "cpu")
    raw = f"r.example.com/m/x:1.5@sha256:{'2' * 64}"
    lines = carwright("render", "rhel-ai", raw, "--model", str(GOLDEN / "demo"), "--gpu", "cpu")
    assert "--release 1.5" in lines
    assert f"sha256:{'2' * 64}" in lines
    with pytest.raises(BadInput, match="holds no tag"):
        carwright("render", "rhel-ai", reference, "--model", str(GOLDEN / "demo"), "--gpu", "cpu")


def test_a_registry_without_the_tag(pushed: tuple[str, Pushed]) -> None:
    """Named as such, by every command."""
    for command in (["size"], ["render", "docker"], ["deploy", "kserve"]):
        with pytest.raises(BadInput, match=r"has no tag or digest 9\.9"):
            carwright(*command, f"{pushed[0]}:9.9")


def test_a_modelcar_is_deployed_to_a_cluster(
    pushed: tuple[str, Pushed], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By kubectl's configuration, into the namespace that is named; what the cluster refuses is said and undone."""
    reference, push = pushed
    with kube_api(KServe()) as api:
        monkeypatch.setenv("CARWRIGHT_KUBERNETES__KUBECONFIG", str(kubeconfig(api, tmp_path)))
        asked = ["deploy", "kserve", f"{reference}:1.0", "--gpu", "cpu", "-n", NAMESPACE, "--timeout", "20"]
        served = json.loads(carwright(*asked, "--json"))
        assert served["url"] == f"{api.url}/served/demo"
        assert served["answer"].endswith(f"oci://{reference}@{push.digest}")
        assert carwright(*asked) == f"demo served already at {api.url}/served/demo\n"
        api.forbidden.add(("patch", "inferenceservices"))
        with pytest.raises(BadInput, match="forbidden") as caught:
            carwright(*asked, "--name", "second")
        assert caught.value.exit_code == 2
        assert api.names("inferenceservices") == ["demo"]


def test_the_raw_artifact_is_found_from_the_modelcar(
    pushed: tuple[str, Pushed], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its subject, with the tag that points at it; the rule about ports is switched off for a registry on loopback."""
    reference, push = pushed
    with pytest.raises(BadInput, match="registry with a port"):
        carwright("render", "rhel-ai", f"{reference}:1.0", "--gpu", "cpu")
    monkeypatch.setattr(rhel_ai, "check_repository", lambda _: None)
    for name in ("1.0", "1.0-raw"):
        release = rhel_ai.find(f"{reference}:{name}", Settings())
        assert (release.tag, release.digest) == ("1.0-raw", str(push.raw))
    assert "--release 1.0-raw" in carwright("render", "rhel-ai", f"{reference}:1.0", "--gpu", "cpu")


def test_no_raw_artifact(registry: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A modelcar alone cannot be read by ilab; what to push is said."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    write_safetensors(tmp_path / "model" / "model.safetensors")
    reference = f"{registry}/models/alone"
    push_folder(tmp_path / "model", reference, Settings(home=tmp_path / "home", cache=tmp_path / "cache"), tag="1")
    monkeypatch.setattr(rhel_ai, "check_repository", lambda _: None)
    with pytest.raises(BadInput, match="no raw artifact") as caught:
        rhel_ai.find(f"{reference}:1", Settings())
    assert "--also raw" in caught.value.remedy
