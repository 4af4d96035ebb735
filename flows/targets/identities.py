"""The identities of a policy, and what vouches for them, in the words of other programs."""

from __future__ import annotations

import base64
import json
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from containers.trust.policy import Identity, Policy


def identities_for(policy: Policy, *statements: str) -> tuple[Identity, ...]:
    """The identities that may sign all of these statements."""
    return tuple(
        one for one in policy.identities if not one.statements or all(each in one.statements for each in statements)
    )


def matcher(identity: Identity) -> dict[str, str]:
    """Issuer and subject as policy-controller, Kyverno and Conforma all have them; a pattern is a regular expression of Go's.

    It is anchored, since they look for it anywhere in a subject. That of an e-mail address fits no address of a workflow.
    """
    subject = identity.subject
    if "*" not in subject:
        return {"issuer": identity.issuer, "subject": subject}
    return {"issuer": identity.issuer, "subjectRegExp": f"^{identity.expression(_escaped)}$"}


def _escaped(text: str) -> str:
    """Literal text in a regular expression of Go's (RE2), which knows fewer escapes than Python's."""
    return re.sub(r"([\\.+*?()|\[\]{}^$])", r"\\\1", text)


def trust_root(policy: Policy, name: str) -> dict[str, Any]:
    """The trusted root as policy-controller's TrustRoot (policy.sigstore.dev/v1alpha1).

    It takes ECDSA keys of transparency logs alone, and refuses all of a root with another one (webhook/validator.go).
    """
    root = json.loads(policy.trusted_root)
    return {
        "apiVersion": "policy.sigstore.dev/v1alpha1",
        "kind": "TrustRoot",
        "metadata": {"name": name},
        "spec": {
            "sigstoreKeys": {
                "certificateAuthorities": [_authority(one) for one in root["certificateAuthorities"]],
                "tLogs": [_log(one) for one in root["tlogs"] if _is_ecdsa(one)],
                "ctLogs": [_log(one) for one in root["ctlogs"]],
                "timestampAuthorities": [_authority(one) for one in root.get("timestampAuthorities", ())],
            }
        },
    }


def authority_address(policy: Policy) -> str:
    """Where the newest authority of the root is; only its name to policy-controller, which takes the root itself."""
    return str(json.loads(policy.trusted_root)["certificateAuthorities"][-1].get("uri", ""))


def authorities(policy: Policy) -> str:
    """Every certificate of the root's authorities, as PEM."""
    root = json.loads(policy.trusted_root)
    return "".join(_chain(one) for one in root["certificateAuthorities"])


def log_keys(policy: Policy) -> list[str]:
    """The transparency logs' ECDSA keys as PEM, each once: podman, too, refuses others (signature/policy_eval_sigstore.go)."""
    return list(dict.fromkeys(_key(one) for one in json.loads(policy.trusted_root)["tlogs"] if _is_ecdsa(one)))


def log_address(policy: Policy) -> str:
    """Where the newest transparency log of Rekor's first interface is, which these programs know: those have ECDSA keys."""
    logs = json.loads(policy.trusted_root)["tlogs"]
    chosen = [one for one in logs if _is_ecdsa(one)] or logs
    return str(chosen[-1].get("baseUrl", ""))


def _authority(value: Mapping[str, Any]) -> dict[str, Any]:
    subject = value.get("subject", {})
    return {
        "subject": {
            "organization": str(subject.get("organization", "")),
            "commonName": str(subject.get("commonName", "")),
        },
        "uri": str(value.get("uri", "")),
        "certChain": _encoded(_chain(value)),
    }


def _log(value: Mapping[str, Any]) -> dict[str, Any]:
    return {"baseURL": str(value.get("baseUrl", "")), "hashAlgorithm": "sha-256", "publicKey": _encoded(_key(value))}


def unread_logs(policy: Policy) -> tuple[str, ...]:
    """The transparency logs that a TrustRoot leaves out."""
    return tuple(str(one.get("baseUrl")) for one in json.loads(policy.trusted_root)["tlogs"] if not _is_ecdsa(one))


def _is_ecdsa(log: Mapping[str, Any]) -> bool:
    return "ECDSA" in str(log["publicKey"].get("keyDetails"))


def _chain(value: Mapping[str, Any]) -> str:
    return "".join(_pem("CERTIFICATE", one["rawBytes"]) for one in value["certChain"]["certificates"])


def _key(value: Mapping[str, Any]) -> str:
    return _pem("PUBLIC KEY", value["publicKey"]["rawBytes"])


def _pem(kind: str, encoded: str) -> str:
    lines: Iterable[str] = (encoded[at : at + 64] for at in range(0, len(encoded), 64))
    return f"-----BEGIN {kind}-----\n{chr(10).join(lines)}\n-----END {kind}-----\n"


def _encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
