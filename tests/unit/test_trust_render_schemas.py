"""What is rendered for programs that are not run here, held against what their own source reads and demands.

The schemas are written by hand after that source, which each names; they refuse every field that the program does not know.
"""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from jsonschema import Draft202012Validator

from containers.errors import BadInput
from containers.trust import certified
from containers.trust.policy import Policy
from flows.targets import policies

KEYS: Final = Path(__file__).parents[1] / "golden" / "trust"
KEY: Final = "keys: [{name: release, file: carwright.pub}]\n"
BUILD: Final = """\
identities:
  - {name: ci, issuer: "https://token.example", subject: "https://github.com/org/re.po/*@refs/heads/main"}
trusted_root: public
"""
PERSON: Final = """\
identities: [{name: me, issuer: "https://accounts.example", subject: me@example.com}]
trusted_root: public
"""
REST: Final = """\
require: {statements: [signature, provenance]}
repositories: ["quay.io/org/*"]
base: {sources: ["hf://org/*"]}
recipe: {schemes: [FP8_DYNAMIC]}
gate: {decisions: [pass]}
"""
TEXT: Final = {"type": "string", "minLength": 1}
BASE64: Final = {"type": "string", "pattern": "^[A-Za-z0-9+/]+=*$"}
PEM_KEY: Final = {"type": "string", "pattern": "^-----BEGIN PUBLIC KEY-----\n"}


def closed(required: dict[str, Any], **optional: Any) -> dict[str, Any]:
    """An object with these fields and no others."""
    return {
        "type": "object",
        "properties": {**required, **optional},
        "required": list(required),
        "additionalProperties": False,
    }


def some(items: Any) -> dict[str, Any]:
    return {"type": "array", "minItems": 1, "items": items}


def resource(version: str, kind: str, spec: Any) -> dict[str, Any]:
    name = closed({"name": {"type": "string", "pattern": "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"}})
    return closed({"apiVersion": {"const": version}, "kind": {"const": kind}, "metadata": name, "spec": spec})


# Exactly one of issuer and issuerRegExp, and of subject and subjectRegExp: `Identity.Validate` of policy-controller.
IDENTITY: Final = {
    "type": "object",
    "properties": dict.fromkeys(("issuer", "issuerRegExp", "subject", "subjectRegExp"), TEXT),
    "additionalProperties": False,
    "allOf": [
        {"oneOf": [{"required": ["issuer"]}, {"required": ["issuerRegExp"]}]},
        {"oneOf": [{"required": ["subject"]}, {"required": ["subjectRegExp"]}]},
    ],
}
# sigstore/policy-controller: pkg/apis/policy/v1beta1/clusterimagepolicy_types.go and _validation.go. A predicate is a URI or one
# of a few words; a keyless authority has one of url and ca-cert, whatever its trustRootRef is.
ATTESTATION: Final = closed(
    {"name": TEXT, "predicateType": {"type": "string", "pattern": "^https://"}},
    policy=closed({"type": {"enum": ["cue", "rego"]}, "data": TEXT}),
)
AUTHORITY: Final = {
    **closed(
        {"name": TEXT, "signatureFormat": {"const": "bundle"}, "attestations": some(ATTESTATION)},
        key=closed({"data": PEM_KEY}, hashAlgorithm={"enum": ["sha256", "sha384", "sha512"]}),
        keyless=closed(
            {"url": {"type": "string", "pattern": "^https://"}, "identities": some(IDENTITY)}, trustRootRef=TEXT
        ),
        ctlog=closed({}, trustRootRef=TEXT, url=TEXT),
    ),
    "oneOf": [{"required": ["key"]}, {"required": ["keyless"]}],
}
CLUSTER_IMAGE_POLICY: Final = resource(
    "policy.sigstore.dev/v1beta1",
    "ClusterImagePolicy",
    closed({"images": some(closed({"glob": TEXT})), "authorities": some(AUTHORITY)}),
)
# The same: pkg/apis/policy/v1alpha1/trustroot_types.go. []byte is base64, of PEM.
LOG: Final = closed({"baseURL": TEXT, "hashAlgorithm": {"const": "sha-256"}, "publicKey": BASE64})
CERTIFIER: Final = closed(
    {"subject": closed({"organization": TEXT, "commonName": TEXT}), "uri": TEXT, "certChain": BASE64}
)
TRUST_ROOT: Final = resource(
    "policy.sigstore.dev/v1alpha1",
    "TrustRoot",
    closed(
        {
            "sigstoreKeys": closed(
                {"certificateAuthorities": some(CERTIFIER), "tLogs": some(LOG), "ctLogs": some(LOG)},
                timestampAuthorities={"type": "array", "items": CERTIFIER},
            )
        }
    ),
)
# kyverno/kyverno: api/kyverno/v1/image_verification_types.go and its Validate: an entry is one of keys and keyless; keyless has
# a Rekor with a URL, or roots; count is no more than there are entries (held in the test).
ENTRY: Final = {
    **closed(
        {},
        keys=closed(
            {"publicKeys": PEM_KEY},
            signatureAlgorithm={"enum": ["sha256", "sha512"]},
            rekor=closed({"ignoreTlog": {"type": "boolean"}}, url=TEXT),
            ctlog=closed({"ignoreSCT": {"type": "boolean"}}),
        ),
        keyless={
            **IDENTITY,
            "properties": {**IDENTITY["properties"], "rekor": closed({"url": TEXT}), "roots": TEXT},
            "anyOf": [{"required": ["rekor"]}, {"required": ["roots"]}],
        },
    ),
    "minProperties": 1,
    "maxProperties": 1,
}
ATTESTORS: Final = some(closed({"entries": some(ENTRY)}, count={"type": "integer", "minimum": 1}))
VERIFY_IMAGES: Final = {
    **closed(
        {
            "type": {"enum": ["Cosign", "SigstoreBundle"]},
            "imageReferences": some(TEXT),
            "failureAction": {"const": "Enforce"},
            "mutateDigest": {"type": "boolean"},
            "verifyDigest": {"const": True},
            "required": {"const": True},
        },
        attestors=ATTESTORS,
        attestations=some(closed({"type": TEXT, "attestors": ATTESTORS})),
    ),
    "anyOf": [{"required": ["attestors"]}, {"required": ["attestations"]}],
}
CLUSTER_POLICY: Final = resource(
    "kyverno.io/v1",
    "ClusterPolicy",
    closed(
        {
            "rules": some(
                closed(
                    {
                        "name": {"type": "string", "maxLength": 63},
                        "match": closed({"any": some(closed({"resources": closed({"kinds": some(TEXT)})}))}),
                        "verifyImages": some(VERIFY_IMAGES),
                    }
                )
            )
        },
        webhookTimeoutSeconds={"type": "integer", "minimum": 1, "maximum": 30},
        failurePolicy={"enum": ["Ignore", "Fail"]},
        background={"type": "boolean"},
    ),
)
# conforma/crds: api/v1alpha1/enterprisecontractpolicy_types.go.
CONFORMA: Final = resource(
    "appstudio.redhat.com/v1alpha1",
    "EnterpriseContractPolicy",
    closed(
        {
            "sources": some(
                closed(
                    {"policy": some(TEXT)},
                    name=TEXT,
                    data=some(TEXT),
                    ruleData={"type": "object"},
                    config=closed({}, include=some(TEXT), exclude=some(TEXT)),
                )
            )
        },
        name=TEXT,
        description=TEXT,
        rekorUrl={"type": "string", "pattern": "^https://"},
        publicKey=PEM_KEY,
        identity=IDENTITY,
    ),
)
# containers/image: docs/containers-policy.json.5.md, and signature/policy_config_sigstore.go: one of the keys and fulcio; fulcio has
# one of its CAs, an issuer and an address, and then a key of Rekor must be there.
DEMAND: Final = {
    **closed(
        {"type": {"const": "sigstoreSigned"}},
        keyData=BASE64,
        keyDatas=some(BASE64),
        fulcio=closed(
            {"caData": BASE64, "oidcIssuer": TEXT, "subjectEmail": {"type": "string", "pattern": "^[^@/]+@[^@/]+$"}}
        ),
        rekorPublicKeyData=BASE64,
        rekorPublicKeyDatas=some(BASE64),
        signedIdentity=closed({"type": {"enum": ["matchRepository", "matchRepoDigestOrExact", "matchExact"]}}),
    ),
    "oneOf": [{"required": [name]} for name in ("keyData", "keyDatas", "fulcio")],
    "if": {"required": ["fulcio"]},
    "then": {"oneOf": [{"required": ["rekorPublicKeyData"]}, {"required": ["rekorPublicKeyDatas"]}]},
}
PODMAN: Final = closed(
    {
        "default": some(closed({"type": {"enum": ["insecureAcceptAnything", "reject"]}})),
        "transports": closed({"docker": {"type": "object", "additionalProperties": some(DEMAND)}}),
    }
)
SCHEMAS: Final = {
    "policy-controller": {"ClusterImagePolicy": CLUSTER_IMAGE_POLICY, "TrustRoot": TRUST_ROOT},
    "kyverno": {"ClusterPolicy": CLUSTER_POLICY},
    "conforma": {"EnterpriseContractPolicy": CONFORMA},
}


def rendered(target: str, who: str, rest: str = REST) -> tuple[list[dict[str, Any]], str]:
    """The documents of the first file, and the notes."""
    made = policies.render(target, Policy.parse(who + rest, "p", KEYS))
    return list(yaml.safe_load_all(made.files[0].text)), "\n".join(made.notes)


def fits(value: Any, schema: Any) -> None:
    found = [f"{one.json_path}: {one.message}" for one in Draft202012Validator(schema).iter_errors(value)]
    assert not found, found


@pytest.mark.parametrize("who", [KEY, BUILD, PERSON])
@pytest.mark.parametrize("target", SCHEMAS)
def test_it_has_the_fields_that_the_program_reads(target: str, who: str) -> None:
    documents, _ = rendered(target, who)
    for one in documents:
        fits(one, SCHEMAS[target][one["kind"]])


@pytest.mark.parametrize("who", [KEY, PERSON])
def test_podman(who: str) -> None:
    (document,), _ = rendered("podman", who)
    fits(document, PODMAN)


def test_a_schema_refuses_what_a_program_would() -> None:
    """Else the tests above would say nothing."""
    (document,), _ = rendered("conforma", BUILD)
    document["spec"]["identity"]["subject"] = "both"
    with pytest.raises(AssertionError, match="subject"):
        fits(document, CONFORMA)
    _, document = rendered("policy-controller", BUILD)[0]
    del document["spec"]["authorities"][0]["keyless"]["url"]
    with pytest.raises(AssertionError, match="url"):
        fits(document, CLUSTER_IMAGE_POLICY)


def test_policy_controller_gets_the_root_and_anchored_identities() -> None:
    (root, policy), notes = rendered("policy-controller", KEY + BUILD)
    key, build = policy["spec"]["authorities"]
    assert "key" in key
    assert key["ctlog"] == {}  # no transparency log is asked about signatures of keys
    assert build["keyless"]["trustRootRef"] == root["metadata"]["name"] == build["ctlog"]["trustRootRef"]
    (identity,) = build["keyless"]["identities"]
    pattern = identity["subjectRegExp"]
    assert re.search(pattern, "https://github.com/org/re.po/.github/workflows/a.yaml@refs/heads/main")
    for other in ("https://github.com/org/rexpo/a@refs/heads/main", "x https://github.com/org/re.po/a@refs/heads/main",
                  "https://github.com/org/re.po/a@refs/heads/main2"):  # fmt: skip
        assert not re.search(pattern, other)
    keys = root["spec"]["sigstoreKeys"]
    for one in keys["certificateAuthorities"]:
        assert x509.load_pem_x509_certificates(base64.b64decode(one["certChain"]))
    for one in (*keys["tLogs"], *keys["ctLogs"]):
        key = serialization.load_pem_public_key(base64.b64decode(one["publicKey"]))
        assert isinstance(key, ec.EllipticCurvePublicKey)  # pkg/webhook/validator.go refuses a root with any other
    assert ("reads logs with ECDSA keys alone" in notes) is (len(keys["tLogs"]) < len(_public_logs()))
    assert "policy-controller does not enforce" not in notes or "the provenance" not in notes


def _public_logs() -> list[Any]:
    return json.loads(certified.public_root())["tlogs"]


def test_kyverno_reads_bundles_of_identities() -> None:
    (document,), notes = rendered("kyverno", BUILD)
    (rule,) = document["spec"]["rules"][0]["verifyImages"]
    assert rule["type"] == "SigstoreBundle"
    assert [one["type"] for one in rule["attestations"]][1] == "https://slsa.dev/provenance/v1"
    for one in rule["attestations"]:
        (set_,) = one["attestors"]
        assert set_["count"] <= len(set_["entries"])
        assert set_["entries"][0]["keyless"]["rekor"] == {"url": "https://rekor.sigstore.dev"}
    assert "takes its trusted root from TUF" in notes
    assert "does not enforce: base, recipe, gate" in notes


@pytest.mark.parametrize(
    ("target", "who", "told"),
    [
        ("kyverno", KEY + BUILD, "cannot ask for one or the other"),
        ("conforma", KEY + BUILD, "one key or one identity, and 2"),
        ("podman", BUILD, "one e-mail address alone, and the policy names https://github.com/org"),
        ("podman", PERSON.replace("me@", "'*@").replace(".com}", ".com'}"), "one e-mail address alone"),
        ("kyverno", BUILD.replace('main"}', 'main", statements: [verdict]}'), "may sign what it requires"),
        (
            "policy-controller",
            BUILD.replace('main"}', 'main", statements: [verdict]}'),
            "may sign all that it requires",
        ),
    ],
)
def test_what_a_program_cannot_say_is_refused(target: str, who: str, told: str) -> None:
    with pytest.raises(BadInput) as caught:
        rendered(target, who)
    assert told in caught.value.message


def test_what_a_program_leaves_out_is_said() -> None:
    dated = BUILD.replace('main"}', 'main", until: 2027-01-01}')
    assert "since and until of keys and identities" in rendered("policy-controller", dated)[1]
    built = BUILD.replace('main"}', 'main", repository: "https://github.com/org/repo"}')
    for target in ("policy-controller", "kyverno", "conforma"):
        assert "repository of identities" in rendered(target, built)[1]
    assert "gate.suites" in rendered("policy-controller", KEY, "gate: {suites: [openllm-v1]}\n")[1]
    for target in ("kyverno", "conforma"):
        assert ", repositories" in rendered(target, KEY)[1]
    assert "identities beside keys" in rendered("podman", KEY + BUILD)[1]
    assert "cosign's older signature alone" in rendered("podman", PERSON)[1]
    demand = json.dumps(rendered("podman", KEY + BUILD)[0])
    assert "fulcio" not in demand
