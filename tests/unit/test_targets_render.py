"""What is rendered: held against files that a person read, and against the schemas of those who read them."""

from __future__ import annotations

import importlib.util
import re
import sys
import types
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from containers.errors import BadInput
from containers.oci.reference import Reference
from flows.targets import TARGETS, compose, kserve, pod, rhel_ai
from flows.targets.description import DeploymentRequest, build, name_of
from flows.targets.model import of_folder
from flows.targets.target import TargetOptions
from infra.settings import DeploySettings
from tests.support.deployments import DEMO, GOLDEN, demo_deployment, large_deployment, render, rendered

KUBERNETES = "1.33"  # the first with image volumes by default
BOTH = pytest.mark.parametrize("deployment", [demo_deployment(), large_deployment()], ids=["demo", "70b"])
OF_IMAGES = pytest.mark.parametrize("target", sorted(TARGETS.keys() - {"rhel-ai"}))  # that takes a raw artifact, by tag


@pytest.mark.parametrize("path", sorted(rendered()))
def test_as_it_was_read(path: str) -> None:
    """The files under tests/golden/targets. They are edited by hand: no command writes them from the code's output.

    They are read by podman's generator (tests/integration/test_quadlet.py), Compose and Docker's client
    (tests/integration/test_targets_tools.py), and held against the reference card (test_targets_reference.py).
    """
    assert rendered()[path] == (GOLDEN / path).read_text()


def test_every_golden_file_is_rendered() -> None:
    """None is left of a target that went; config.json is the model's."""
    files = {path.relative_to(GOLDEN).as_posix() for path in GOLDEN.rglob("*") if path.is_file()}
    assert {path for path in files if not path.endswith("/config.json")} == set(rendered())


@BOTH
@OF_IMAGES
def test_everything_is_by_digest(deployment: Any, target: str) -> None:
    """No target names the model by a tag, and every one names the digest."""
    for text in render(target, deployment).values():
        assert deployment.reference in text
        assert not re.search(re.escape(DEMO) + r":\w", text)


@BOTH
def test_the_pod_fits_the_schema_of_kubernetes(deployment: Any) -> None:
    """Strictly: an unknown field is an error."""
    kubernetes_validate.validate(pod.manifest(deployment), KUBERNETES, strict=True)


@BOTH
@pytest.mark.parametrize("mode", ["oci", "oci+native", "oci+fetch"])
def test_kserve_objects_fit_kserves_types(deployment: Any, mode: Any) -> None:
    """Every field is one of the kserve package's types, and what is Kubernetes' own fits its schema in a pod."""
    runtime, service = kserve.objects(deployment, mode, "models")
    check_type(runtime, "V1alpha1ServingRuntime")
    check_type(service, "V1beta1InferenceService")
    predictor = dict(service["spec"]["predictor"])
    container = {key: value for key, value in predictor["model"].items() if key not in MODEL_ONLY}
    pod = {key: value for key, value in predictor.items() if key not in PREDICTOR_ONLY}
    pod["containers"] = [{**runtime["spec"]["containers"][0], **container}]
    document = {"apiVersion": "v1", "kind": "Pod", "metadata": service["metadata"], "spec": pod}
    kubernetes_validate.validate(document, KUBERNETES, strict=True)
    assert service["spec"]["predictor"]["model"]["runtime"] == runtime["metadata"]["name"]


@pytest.mark.parametrize(
    "change",
    [
        lambda service: service["spec"]["predictor"].update(tolerationz=[]),
        lambda service: service["spec"]["predictor"]["model"].update(storageURI="x"),
        lambda service: service["spec"]["predictor"].update(minReplicas="1"),
    ],
)
def test_a_wrong_field_is_noticed(change: Any) -> None:
    """The check against KServe's types can fail."""
    service = kserve.objects(demo_deployment())[1]
    change(service)
    with pytest.raises(AssertionError):
        check_type(service, "V1beta1InferenceService")


MODEL_ONLY = ("modelFormat", "runtime", "storageUri")
PREDICTOR_ONLY = ("model", "minReplicas", "maxReplicas", "deploymentStrategy")
_SIMPLE = {"str": str, "int": int, "bool": bool, "float": float, "dict(str, str)": dict, "object": dict}


@cache
def kserve_models() -> Path:
    """The folder of the kserve package's types, which can then be imported without its web frameworks."""
    (root,) = (Path(one) for one in importlib.util.find_spec("kserve").submodule_search_locations)
    for package, folder in (("kserve", root), ("kserve.models", root / "models")):
        module = types.ModuleType(package)
        module.__path__ = [str(folder)]
        sys.modules[package] = module
    return root / "models"


@cache
def kserve_type(name: str) -> Any:
    """A class of the kserve package, None for a type that is Kubernetes' own."""
    for file in kserve_models().glob("*.py"):
        if file.stem.replace("_", "") == name.lower():
            return getattr(importlib.import_module(f"kserve.models.{file.stem}"), name)
    return None


def check_type(value: Any, name: str, where: str = "") -> None:
    """`value` has only fields of the type and of the right kind; types of Kubernetes itself are not looked into."""
    if inner := re.fullmatch(r"list\[(.+)\]", name):
        assert isinstance(value, list), where
        for number, one in enumerate(value):
            check_type(one, inner[1], f"{where}[{number}]")
        return
    if name in _SIMPLE:
        assert isinstance(value, _SIMPLE[name]), f"{where} is no {name}"
        return
    kind = kserve_type(name)
    if kind is None:
        assert isinstance(value, (dict, str)), where
        return
    fields = {json: kind.openapi_types[python] for python, json in kind.attribute_map.items()}
    unknown = set(value) - set(fields)
    assert not unknown, f"{where}: {name} has no {unknown}"
    for key, item in value.items():
        check_type(item, fields[key], f"{where}.{key}")


def test_what_differs_from_the_reference_card() -> None:
    """Its wrong command: there is no tag behind ilab's colon."""
    text = rendered()["llama-3.3-70b/llama-3-3-70b-instruct-fp8-dynamic.rhel-ai.sh"]
    assert "--release 1.5" in text
    assert not re.search(r"--repository \S+:\d", text)


def test_a_second_engine_has_a_runtime_of_its_own() -> None:
    """So that a new image never touches what serves by an older one."""
    one, other = (
        kserve.objects(demo_deployment(image=image))[0] for image in ("a.example.com/e:1", "a.example.com/e:2")
    )
    assert one["metadata"]["name"] != other["metadata"]["name"]


@pytest.mark.parametrize(
    ("target", "setting"),
    [
        ("docker", "docker_image"),
        ("compose", "docker_image"),
        ("podman", "podman_image"),
        ("kserve", "kserve_image"),
        ("pod", "kserve_image"),
    ],
)
def test_the_engines_image_is_a_setting(target: str, setting: str) -> None:
    """For GPUs alone; what the command line says counts for more."""
    images = DeploySettings(**{setting: "registry.example.com/engines/vllm:9"})
    reference = Reference.parse(f"{DEMO}@sha256:{'1' * 64}")

    def texts(**wanted: Any) -> str:
        described = build(of_folder(GOLDEN / "demo"), reference, DeploymentRequest(**wanted), images)
        return "".join(render(target, described).values())

    assert "registry.example.com/engines/vllm:9" in texts(gpu="H100")
    assert "registry.example.com" in texts(gpu="cpu")  # the model's own
    assert "engines/vllm" not in texts(gpu="cpu")
    said = texts(gpu="H100", image="registry.example.com/other:1")
    assert "registry.example.com/other:1" in said
    assert "engines/vllm" not in said


@BOTH
@pytest.mark.parametrize("mode", ["oci+native", "oci+fetch"])
def test_kserves_ways_to_a_model_differ_in_the_uri_alone(deployment: Any, mode: Any) -> None:
    (usual,) = render("kserve", deployment).values()
    (other,) = render("kserve", deployment, TargetOptions(storage=mode)).values()
    assert other == usual.replace("storageUri: oci://", f"storageUri: {mode}://")
    assert other != usual


@OF_IMAGES
def test_a_folder_cannot_be_pulled_from(target: str) -> None:
    """An image layout is of this machine; said before anything is written."""
    reference = Reference.parse("oci:./image@sha256:" + "1" * 64)
    deployment = build(of_folder(GOLDEN / "demo"), reference, DeploymentRequest(gpu="cpu"))
    with pytest.raises(BadInput, match="pulls from a registry"):
        render(target, deployment)


def test_raw_files_cannot_be_started() -> None:
    """A raw artifact is no image; only ilab takes it."""
    facts = of_folder(GOLDEN / "demo").model_copy(update={"raw": True})
    deployment = build(facts, Reference.parse(f"{DEMO}@sha256:{'1' * 64}"), DeploymentRequest(gpu="cpu"))
    with pytest.raises(BadInput, match="raw artifact"):
        kserve.render(deployment)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("quay.io/org/modelcar-llama-3-3-70b:1.5", "llama-3-3-70b"),
        ("quay.io/org/Name_1.2".lower(), "name-1-2"),
        ("quay.io/org/7b", "model-7b"),
        ("oci:/images/SmolLM2-FP8", "smollm2-fp8"),
        ("quay.io/org/" + "a" * 70, "a" * 50),
    ],
)
def test_names(text: str, name: str) -> None:
    """A DNS label that KServe may still add to."""
    assert name_of(Reference.parse(text)) == name


@pytest.mark.parametrize("name", ["7b", "A", "a_b", "a" * 51, "-a", "a-"])
def test_names_that_kubernetes_refuses(name: str) -> None:
    """Refused here, with what is allowed."""
    with pytest.raises(BadInput, match="not a name for a deployment"):
        build(
            of_folder(GOLDEN / "demo"),
            Reference.parse(f"{DEMO}@sha256:{'1' * 64}"),
            DeploymentRequest(gpu="cpu", name=name),
        )


def test_ilab_is_not_offered_what_it_refuses() -> None:
    """A port, a folder, a file without a title or in a sub-folder."""
    for reference in ("registry.example.com:5000/models/x:1", "oci:./image"):
        with pytest.raises(BadInput):
            rhel_ai.check_repository(Reference.parse(reference))
    rhel_ai.check_repository(Reference.parse("registry.example.com/models/x:1"))
    with pytest.raises(BadInput, match="sub-folders"):
        rhel_ai.check_titles(["config.json", "onnx/config.json"])
    with pytest.raises(BadInput, match="no title"):
        rhel_ai.check_titles(["config.json", ""])


def test_compose_is_what_it_says() -> None:
    """GPUs are reserved, the pid namespace is the model's, nothing listens beyond this machine by itself."""
    document = yaml.safe_load(compose.render(large_deployment()).files[0].text)
    vllm = document["services"]["vllm"]
    assert vllm["pid"] == "service:model"
    assert vllm["deploy"]["resources"]["reservations"]["devices"][0]["count"] == 8
    assert vllm["ports"] == ["127.0.0.1:8000:8000"]
