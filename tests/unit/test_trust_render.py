"""A policy as other programs enforce it, and what each leaves out."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from containers.errors import BadInput
from containers.trust.policy import Policy
from flows.targets import policies

KEYS = Path(__file__).parents[1] / "golden" / "trust"
PEM = (KEYS / "carwright.pub").read_text()
TEXT = """\
keys: [{name: release, file: carwright.pub}]
require: {statements: [signature, provenance]}
repositories: ["quay.io/org/*"]
base: {sources: ["hf://org/*"], revisions: [main]}
recipe: {schemes: [FP8_DYNAMIC]}
gate: {decisions: [pass]}
max_age_days: 30
"""


def _rendered(target: str, text: str = TEXT) -> tuple[dict[str, Any], str]:
    """The parsed files by name, and the notes."""
    rendered = policies.render(target, Policy.parse(text, "p", KEYS))
    files = {
        one.name: json.loads(one.text) if one.name.endswith("json") else yaml.safe_load(one.text)
        for one in rendered.files
    }
    return files, "\n".join(rendered.notes)


def test_podman() -> None:
    files, notes = _rendered("podman")
    assert files == {
        "policy.json": {
            "default": [{"type": "insecureAcceptAnything"}],
            "transports": {
                "docker": {
                    "quay.io/org": [
                        {
                            "type": "sigstoreSigned",
                            "keyData": base64.b64encode(PEM.encode()).decode(),
                            "signedIdentity": {"type": "matchRepository"},
                        }
                    ]
                }
            },
        },
        "carwright.yaml": {"docker": {"quay.io/org": {"use-sigstore-attachments": True}}},
    }
    assert "podman does not enforce: the provenance, base, recipe, gate, max_age_days" in notes


def test_podman_with_two_keys_and_every_image() -> None:
    two = "keys: [{name: a, file: carwright.pub}, {name: b, file: cosign.pub}]\n"
    files, notes = _rendered("podman", two)
    (demand,) = files["policy.json"]["transports"]["docker"][""]
    assert len(demand["keyDatas"]) == 2
    assert files["carwright.yaml"] == {"default-docker": {"use-sigstore-attachments": True}}
    assert "newer than podman 4" in notes
    with pytest.raises(BadInput, match="no scope for repositories"):
        _rendered("podman", f"{two}repositories: ['quay.io/*/models']\n")


def test_policy_controller() -> None:
    files, notes = _rendered("policy-controller")
    spec = files["policy-controller.yaml"]["spec"]
    assert spec["images"] == [{"glob": "quay.io/org/**"}]
    (authority,) = spec["authorities"]
    assert authority["key"] == {"data": PEM, "hashAlgorithm": "sha256"}
    assert authority["signatureFormat"] == "bundle"
    assert {one["predicateType"]: one.get("policy", {}).get("data", "") for one in authority["attestations"]} == {
        "https://sigstore.dev/cosign/sign/v1": "",
        "https://slsa.dev/provenance/v1": 'predicate: buildDefinition: externalParameters: scheme: "FP8_DYNAMIC"\n'
        'predicate: buildDefinition: externalParameters: model: =~"^hf://org/.*(@.*)?$"\n',
        "https://in-toto.io/attestation/test-result/v0.1": 'predicate: result: "PASSED"\n',
    }
    assert "does not enforce: base.revisions, max_age_days" in notes


def test_kyverno_and_conforma() -> None:
    files, _ = _rendered("kyverno")
    (rule,) = files["kyverno.yaml"]["spec"]["rules"]
    (verified,) = rule["verifyImages"]
    assert verified["imageReferences"] == ["quay.io/org/*"]
    assert verified["attestors"][0]["entries"][0]["keys"]["publicKeys"] == PEM
    files, _ = _rendered("conforma")
    assert files["conforma.yaml"]["spec"]["publicKey"] == PEM
    assert files["conforma.yaml"]["spec"]["sources"][0]["ruleData"] == {
        "allowed_predicate_types": ["https://slsa.dev/provenance/v1", "https://in-toto.io/attestation/test-result/v0.1"]
    }


def test_a_revoked_key_is_in_none() -> None:
    mark = Policy.parse(TEXT, "p", KEYS).keys[0].public.fingerprint
    for target in ("podman", "policy-controller", "conforma"):
        with pytest.raises(BadInput, match="key"):
            _rendered(target, f"{TEXT}revoked: ['{mark}']\n")


@pytest.mark.parametrize(
    ("target", "told"),
    [("ilab", "--remove-signatures"), ("kserve", "admit only what is signed"), ("x", "the targets are podman")],
)
def test_what_enforces_nothing_is_said(target: str, told: str) -> None:
    with pytest.raises(BadInput) as caught:
        _rendered(target)
    assert told in caught.value.remedy
