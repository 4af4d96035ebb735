"""A policy as what other programs enforce: podman and skopeo, policy-controller, Kyverno, Conforma.

None of them knows all the rules of a policy. Each gets those that it can enforce, and the notes name the others.
"""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any, Final

from containers.errors import BadInput
from containers.in_toto import PROVENANCE, TEST_RESULT
from containers.trust.statement import SIGNATURE, name_of
from containers.verdict import TEST_RESULTS
from flows.targets import identities
from flows.targets.description import Rendered, RenderedFile
from flows.targets.identities import identities_for
from flows.targets.text import yaml

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from containers.trust.policy import Identity, Policy, PolicyKey

_NAME: Final = "carwright"
_CONFORMA: Final = "oci::quay.io/enterprise-contract/ec-release-policy:latest"  # Conforma's own rules
_CANNOT: Final = {
    "ilab": "ilab copies models with --remove-signatures and asks no policy: verify the model before it is fetched there "
    "(`carwright verify REFERENCE --policy FILE`), or its files afterwards (`carwright verify FOLDER`)",
    "kserve": "KServe checks no signatures itself: let the cluster admit only what is signed (`carwright render policy "
    "policy-controller`, or `kyverno`), and deploy with `carwright deploy kserve REFERENCE --policy FILE`",
}


def render(target: str, policy: Policy) -> Rendered:
    """The policy for a target; raises BadInput for one that enforces nothing, with what does it there."""
    if target in _CANNOT:
        raise BadInput(f"{target} enforces no policy", remedy=_CANNOT[target])
    if target not in _TARGETS:
        raise BadInput(
            f"there is no policy for {target!r}", remedy=f"the targets are {', '.join((*_TARGETS, *_CANNOT))}"
        )
    rendered = _TARGETS[target](policy)
    unsaid = tuple(_unsaid(target, policy))
    note = (
        f"{target} does not enforce: {', '.join(unsaid)}. `carwright deploy` and `carwright verify` do, with `--policy`",
    )
    return rendered.model_copy(update={"notes": (*rendered.notes, *(note if unsaid else ()))})


def _unsaid(target: str, policy: Policy) -> Iterator[str]:
    """The rules that a target does not know."""
    statements = {*policy.require.statements} - {SIGNATURE}
    if target == "podman" or (target == "kyverno" and policy.keys):
        yield from (f"the {name_of(one)}" for one in sorted(statements))
    if target in {"podman", "kyverno", "conforma"}:
        yield from (name for name in ("base", "recipe", "gate") if getattr(policy, name))
    else:
        yield from ("base.revisions",) if policy.base and policy.base.revisions else ()
        yield from ("gate.suites",) if policy.gate and policy.gate.suites else ()
    if policy.require.signers > 1 and target in {"podman", "conforma"}:
        yield f"signers: {policy.require.signers}"
    yield from (name for name in ("max_age_days", "deny", "base_images") if getattr(policy, name))
    dates = [(one.since, one.until) for one in policy.keys] + [(one.since, one.until) for one in policy.identities]
    if any(any(one) for one in dates):
        yield "since and until of keys and identities"
    if policy.repositories and target == "kyverno":
        yield "repositories: what is pulled from elsewhere is not looked at"
    if policy.repositories and target == "conforma":
        yield "repositories"
    if any(one.repository for one in policy.identities):
        yield "repository of identities"
    if target == "podman" and policy.keys and policy.identities:
        yield "identities beside keys: what they alone have signed is refused"


def keys_for(policy: Policy, statement: str) -> tuple[PolicyKey, ...]:
    """The keys that may sign a statement, less those that are revoked."""
    return tuple(
        one
        for one in policy.keys
        if one.public.fingerprint not in policy.revoked and (not one.statements or statement in one.statements)
    )


def _podman(policy: Policy) -> Rendered:
    """containers-policy.json(5) and containers-registries.d(5)."""
    keys = [_encoded(one.pem) for one in keys_for(policy, SIGNATURE)]
    demand: dict[str, Any] = {
        "type": "sigstoreSigned",
        **({"keyData": keys[0]} if len(keys) == 1 else {"keyDatas": keys} if keys else _fulcio(policy)),
        "signedIdentity": {"type": "matchRepository"},
    }
    scopes = [_scope(one) for one in policy.repositories]
    notes = ["policy.json goes to /etc/containers, carwright.yaml to /etc/containers/registries.d"]
    if not keys:
        notes.append(
            "podman reads cosign's older signature alone, which Carwright writes with keys: sign for this identity with cosign 2"
        )
    if len(keys) > 1:
        notes.append("keyDatas, any of several keys, is newer than podman 4: give older ones a policy with one key")
    if scopes:
        notes.append("other images are taken unsigned, as before: the engine's own comes from elsewhere")
    else:
        notes.append("the policy names no repositories: every image that is pulled must be signed, the engine's too")
    rules: dict[str, Any] = {
        "default": [{"type": "insecureAcceptAnything"}],
        "transports": {"docker": {scope: [demand] for scope in scopes or [""]}},
    }
    attachments = {"use-sigstore-attachments": True}
    sources = {"docker": dict.fromkeys(scopes, attachments)} if scopes else {"default-docker": attachments}
    return Rendered(
        files=(
            RenderedFile(name="policy.json", text=json.dumps(rules, indent=2) + "\n"),
            RenderedFile(name=f"{_NAME}.yaml", text=yaml(sources)),
        ),
        notes=tuple(notes),
    )


def _fulcio(policy: Policy) -> dict[str, Any]:
    """The one identity that podman can ask for: an e-mail address as it is."""
    found = identities_for(policy, SIGNATURE)
    if not found:
        raise BadInput("no key of the policy may sign an image", remedy="add one, or take `statements` from a key")
    if len(found) != 1 or "@" not in found[0].subject or "*" in found[0].subject or "://" in found[0].subject:
        raise BadInput(
            f"podman knows identities by one e-mail address alone, and the policy names {_listed(found)}",
            remedy="sign with a key as well and name it in the policy: podman then asks for that",
        )
    logs = [_encoded(one) for one in identities.log_keys(policy)]
    return {
        "fulcio": {
            "caData": _encoded(identities.authorities(policy)),
            "oidcIssuer": found[0].issuer,
            "subjectEmail": found[0].subject,
        },
        **({"rekorPublicKeyData": logs[0]} if len(logs) == 1 else {"rekorPublicKeyDatas": logs}),
    }


def _listed(found: tuple[Identity, ...]) -> str:
    return ", ".join(one.subject for one in found)


def _encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _scope(pattern: str) -> str:
    """A pattern of repositories as a scope: a repository, a namespace, or a registry."""
    scope = pattern.removesuffix("/**").removesuffix("/*")
    if "*" in scope or "?" in scope or "[" in scope or scope.startswith("oci:"):
        raise BadInput(
            f"podman has no scope for repositories: {pattern}",
            remedy="name a registry, a namespace (`.../*`) or a repository",
        )
    return scope


def _globs(policy: Policy) -> list[str]:
    return [one[:-1] + "**" if one.endswith("/*") else one for one in policy.repositories] or ["**"]


def _policy_controller(policy: Policy) -> Rendered:
    """Sigstore's policy-controller from 0.13 on, which reads bundles (ClusterImagePolicy, policy.sigstore.dev/v1beta1)."""
    wanted = policy.demanded
    shared = [one for one in policy.keys if all(one in keys_for(policy, each) for each in wanted)]
    people = identities_for(policy, *wanted)
    if not shared and not people:
        raise BadInput(
            "no key or identity of the policy may sign all that it requires",
            remedy="policy-controller asks each of them for all",
        )
    told = {"signatureFormat": "bundle", "attestations": [_attestation(each, policy) for each in wanted]}
    authorities: list[dict[str, Any]] = [
        # An empty ctlog: what is signed with a key is in no transparency log.
        {"name": f"key-{number}", "key": {"data": one.pem, "hashAlgorithm": "sha256"}, "ctlog": {}, **told}
        for number, one in enumerate(shared, 1)
    ]
    authorities += [
        {
            "name": f"identity-{number}",
            "keyless": {
                "url": identities.authority_address(policy),
                "trustRootRef": _NAME,
                "identities": [identities.matcher(one)],
            },
            "ctlog": {"trustRootRef": _NAME},
            **told,
        }
        for number, one in enumerate(people, 1)
    ]
    images = [{"glob": one} for one in _globs(policy)]
    # Of the authorities of one resource one must pass; of several resources, each.
    parts = [authorities] if policy.require.signers == 1 else [[one] for one in authorities]
    documents = [identities.trust_root(policy, _NAME)] if people else []
    documents += [
        {
            "apiVersion": "policy.sigstore.dev/v1beta1",
            "kind": "ClusterImagePolicy",
            "metadata": {"name": _NAME if len(parts) == 1 else f"{_NAME}-{number}"},
            "spec": {"images": images, "authorities": part},
        }
        for number, part in enumerate(parts, 1)
    ]
    notes = ["only namespaces with the label policy.sigstore.dev/include=true are looked at"]
    if people and (unread := identities.unread_logs(policy)):
        notes.append(f"policy-controller reads logs with ECDSA keys alone; left out: {', '.join(unread)}")
    if policy.require.signers > 1:
        notes.append("each of these must have signed: policy-controller knows no number of signers")
    return Rendered(files=(RenderedFile(name="policy-controller.yaml", text=yaml(*documents)),), notes=tuple(notes))


def _attestation(predicate_type: str, policy: Policy) -> dict[str, Any]:
    found: dict[str, Any] = {"name": name_of(predicate_type).rpartition("/")[2], "predicateType": predicate_type}
    rules = []
    if predicate_type == TEST_RESULT and policy.gate:
        rules.append(f"predicate: result: {_any([TEST_RESULTS[one] for one in policy.gate.decisions])}")
    if predicate_type == PROVENANCE and policy.recipe and policy.recipe.schemes:
        rules.append(f"predicate: buildDefinition: externalParameters: scheme: {_any(policy.recipe.schemes)}")
    if predicate_type == PROVENANCE and policy.base and policy.base.sources:
        patterns = " | ".join(f"=~{json.dumps(_expression(one))}" for one in policy.base.sources)
        rules.append(f"predicate: buildDefinition: externalParameters: model: {patterns}")
    if rules:
        found["policy"] = {"type": "cue", "data": "\n".join(rules) + "\n"}
    return found


def _any(values: Any) -> str:
    return " | ".join(json.dumps(one) for one in values)


def _expression(pattern: str) -> str:
    """A pattern with `*` as a regular expression of Go's."""
    special = {"*": ".*", "?": "."}
    return (
        "^"
        + "".join(special.get(one) or (one if one.isalnum() or one in "/-_:@" else f"[{one}]") for one in pattern)
        + "(@.*)?$"
    )


def _kyverno(policy: Policy) -> Rendered:
    """Kyverno's ClusterPolicy (kyverno.io/v1): with keys over cosign's older signatures, with identities over bundles."""
    keys, people = keys_for(policy, SIGNATURE), identities_for(policy, *policy.demanded)
    if keys and policy.identities:
        raise BadInput(
            "Kyverno reads keys in one format and identities in another, and cannot ask for one or the other",
            remedy="give a policy with keys alone, or with identities alone",
        )
    if not keys and not people:
        raise BadInput("nobody in the policy may sign what it requires", remedy="add a key, or an identity")
    entries = [_key_entry(one) for one in keys] or [_keyless_entry(one, policy) for one in people]
    attestors = [{"count": min(policy.require.signers, len(entries)), "entries": entries}]
    references = [one if one.endswith("*") else f"{one}*" for one in policy.repositories] or ["*"]
    shared = {
        "imageReferences": references,
        "failureAction": "Enforce",
        "mutateDigest": False,
        "verifyDigest": True,
        "required": True,
    }
    rule: dict[str, Any] = {"type": "Cosign", **shared, "attestors": attestors}
    notes = []
    if not keys:
        rule = {
            "type": "SigstoreBundle",
            **shared,
            "attestations": [{"type": one, "attestors": attestors} for one in policy.demanded],
        }
        notes = [
            "Kyverno finds bundles through the registry's referrers API, and not under the fallback tag",
            "Kyverno takes its trusted root from TUF (--tufMirror, --tufRoot of its controllers), not from this file",
        ]
    document = {
        "apiVersion": "kyverno.io/v1",
        "kind": "ClusterPolicy",
        "metadata": {"name": _NAME},
        "spec": {
            "webhookTimeoutSeconds": 30,
            "failurePolicy": "Fail",
            "background": False,
            "rules": [
                {
                    "name": "signed",
                    "match": {"any": [{"resources": {"kinds": ["Pod"]}}]},
                    "verifyImages": [rule],
                }
            ],
        },
    }
    return Rendered(files=(RenderedFile(name="kyverno.yaml", text=yaml(document)),), notes=tuple(notes))


def _key_entry(key: PolicyKey) -> dict[str, Any]:
    return {
        "keys": {
            "publicKeys": key.pem,
            "signatureAlgorithm": "sha256",
            "rekor": {"ignoreTlog": True},
            "ctlog": {"ignoreSCT": True},
        }
    }


def _keyless_entry(identity: Identity, policy: Policy) -> dict[str, Any]:
    return {"keyless": {**identities.matcher(identity), "rekor": {"url": identities.log_address(policy)}}}


def _conforma(policy: Policy) -> Rendered:
    """Conforma's policy (EnterpriseContractPolicy, appstudio.redhat.com/v1alpha1), for `ec validate image`."""
    keys, people = keys_for(policy, PROVENANCE), identities_for(policy, PROVENANCE)
    if len(keys) + len(people) != 1:
        raise BadInput(
            f"Conforma takes one key or one identity, and {len(keys) + len(people)} of the policy may sign",
            remedy="give a policy with the one",
        )
    who: dict[str, Any] = {"publicKey": keys[0].pem} if keys else {"identity": identities.matcher(people[0])}
    document = {
        "apiVersion": "appstudio.redhat.com/v1alpha1",
        "kind": "EnterpriseContractPolicy",
        "metadata": {"name": _NAME},
        "spec": {
            **who,
            **({} if keys else {"rekorUrl": identities.log_address(policy)}),
            "sources": [
                {
                    "name": _NAME,
                    "policy": [_CONFORMA],
                    "ruleData": {"allowed_predicate_types": [one for one in policy.demanded if one != SIGNATURE]},
                    "config": {"include": ["slsa_provenance_available"]},
                }
            ],
        },
    }
    notes = [
        f"run it with `ec validate image --policy conforma.yaml {'--ignore-rekor ' if keys else ''}--image REFERENCE`",
        f"{_CONFORMA} is named by tag and can move: pin it by digest",
    ]
    if not keys:
        notes.append("Conforma takes its trusted root from TUF (`ec sigstore initialize`), not from this file")
    return Rendered(files=(RenderedFile(name="conforma.yaml", text=yaml(document)),), notes=tuple(notes))


_TARGETS: Final[Mapping[str, Callable[[Policy], Rendered]]] = {
    "podman": _podman,
    "policy-controller": _policy_controller,
    "kyverno": _kyverno,
    "conforma": _conforma,
}
