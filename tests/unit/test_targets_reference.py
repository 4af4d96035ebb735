"""The rendered 70B deployment against the reference model card, whose values are typed in here by hand.

What the card says and we do otherwise is listed with its reason; whatever else differs is a mistake. The files under
tests/golden/targets are what is rendered (test_targets_render.py).
"""

from __future__ import annotations

import itertools
import re
import shlex
from typing import Any

import pytest
import yaml

from tests.support.deployments import GOLDEN

NAME = "llama-3-3-70b-instruct-fp8-dynamic"
FOLDER = GOLDEN / "llama-3.3-70b"
DIGEST = "sha256:" + "7" * 64

# The card's ServingRuntime and InferenceService, field by field.
CARD = {
    "ServingRuntime": {
        "apiVersion": "serving.kserve.io/v1alpha1",
        "metadata.annotations.openshift.io/display-name": "vLLM NVIDIA GPU ServingRuntime for KServe",
        "metadata.annotations.opendatahub.io/recommended-accelerators": '["nvidia.com/gpu"]',
        "metadata.labels.opendatahub.io/dashboard": "true",
        "spec.annotations.prometheus.io/port": "8080",
        "spec.annotations.prometheus.io/path": "/metrics",
        "spec.multiModel": False,
        "spec.supportedModelFormats.0.name": "vLLM",
        "spec.supportedModelFormats.0.autoSelect": True,
        "spec.containers.0.name": "kserve-container",
        "spec.containers.0.image": "quay.io/modh/vllm:rhoai-2.20-cuda",
        "spec.containers.0.command": ["python", "-m", "vllm.entrypoints.openai.api_server"],
        "spec.containers.0.args": ["--port=8080", "--model=/mnt/models", "--served-model-name={{.Name}}"],
        "spec.containers.0.ports.0.containerPort": 8080,
        "spec.containers.0.ports.0.protocol": "TCP",
    },
    "InferenceService": {
        "apiVersion": "serving.kserve.io/v1beta1",
        "metadata.name": NAME,
        "metadata.annotations.openshift.io/display-name": NAME,
        "metadata.annotations.serving.kserve.io/deploymentMode": "RawDeployment",
        "metadata.labels.opendatahub.io/dashboard": "true",
        "spec.predictor.minReplicas": 1,
        "spec.predictor.maxReplicas": 1,
        "spec.predictor.model.modelFormat.name": "vLLM",
    },
}
OTHERWISE = {
    # `python` is not in every image of vLLM; `python3` is.
    "spec.containers.0.command": ["python3", "-m", "vllm.entrypoints.openai.api_server"],
    # The card's image is of 2025; this one is of the current OpenShift AI, and a setting.
    "spec.containers.0.image": "registry.redhat.io/rhoai/odh-vllm-cuda-rhel9:v2.25.9",
    # The service names its runtime: no other model on the cluster may be given this one.
    "spec.supportedModelFormats.0.autoSelect": False,
}


@pytest.fixture(scope="module")
def objects() -> dict[str, Any]:
    text = (FOLDER / f"{NAME}.kserve.yaml").read_text()
    return {document["kind"]: document for document in yaml.safe_load_all(text)}


def at(document: Any, path: str) -> Any:
    """The value at a dotted path; the keys of annotations and labels hold dots of their own."""
    while path:
        if isinstance(document, list):
            head, _, path = path.partition(".")
            document = document[int(head)]
            continue
        (key,) = [key for key in document if path == key or path.startswith(f"{key}.")]
        document, path = document[key], path[len(key) + 1 :]
    return document


@pytest.mark.parametrize(("kind", "path"), [(kind, path) for kind, paths in CARD.items() for path in paths])
def test_kserve_as_the_card_says(objects: dict[str, Any], kind: str, path: str) -> None:
    assert at(objects[kind], path) == OTHERWISE.get(path, CARD[kind][path])


def test_kserve_serves_the_digest_on_eight_gpus(objects: dict[str, Any]) -> None:
    """The card names a tag, and leaves GPUs and length to the reader; its podman command has 8 GPUs and 32,768 tokens."""
    predictor = objects["InferenceService"]["spec"]["predictor"]
    assert predictor["model"]["storageUri"] == f"oci://registry.example.com/models/modelcar-{NAME}@{DIGEST}"
    assert predictor["model"]["args"][:2] == ["--max-model-len=32768", "--tensor-parallel-size=8"]
    assert predictor["model"]["resources"]["limits"]["nvidia.com/gpu"] == "8"
    assert predictor["model"]["resources"]["requests"]["nvidia.com/gpu"] == "8"
    assert predictor["model"]["runtime"] == objects["ServingRuntime"]["metadata"]["name"]


def test_podman_as_the_card_says() -> None:
    """The card: `podman run --rm -it --device nvidia.com/gpu=all -p 8000:8000 ... rh-vllm-cuda vllm serve ...`."""
    text = (FOLDER / f"{NAME}.podman.sh").read_text()
    command = shlex.split(text[text.index("podman run") :].replace("\\\n", " "))
    options = dict(itertools.pairwise(command))
    assert [at for flag, at in itertools.pairwise(command) if flag == "--device"] == [
        f"nvidia.com/gpu={number}" for number in range(8)
    ]
    assert options["--publish"] == "127.0.0.1:8000:8000"  # the card publishes to everybody
    assert options["--mount"] == (
        f"type=image,source=registry.example.com/models/modelcar-{NAME}@{DIGEST},destination=/modelcar"
    )
    assert "HF_HUB_OFFLINE=1" in command  # the model is in the image; the card downloads it
    image = command.index(next(word for word in command if "/rhaiis/vllm-cuda-rhel9:" in word))
    served = command[image + 1 :]
    assert served[0] == "--model=/modelcar/models"
    assert {"--tensor-parallel-size=8", "--max-model-len=32768", "--port=8000"} <= set(served)


def test_ilab_takes_the_tag_as_a_release() -> None:
    """The card puts it behind a colon, which `ilab model download` refuses."""
    text = (FOLDER / f"{NAME}.rhel-ai.sh").read_text()
    download = shlex.split(re.search(r"ilab model download(?:.*\\\n)*.*", text)[0].replace("\\\n", ""))
    assert download[3:] == ["--repository", f"docker://registry.example.com/models/{NAME}", "--release", "1.5"]
    assert f"--model-path ~/.cache/instructlab/models/{NAME}" in text
