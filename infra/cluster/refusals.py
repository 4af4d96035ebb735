"""What a cluster refuses, told by its cause: who can mend it, and whether waiting helps.

The words are those of Kubernetes' own sources, the same in an answer of the API server and in the event with which a
controller says why it could not make a pod: the admission plug-ins ResourceQuota ("exceeded quota: ..."), LimitRanger,
PodSecurity, ServiceAccount and NamespaceLifecycle, webhooks and policies (k8s.io/apiserver, admission/plugin), and the
authorizer ("User ... cannot VERB resource ..."); of OpenShift, its security context constraints.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from containers.errors import BadInput, NotReady, Temporary

if TYPE_CHECKING:
    from collections.abc import Iterable

_SIZES: Final = "CARWRIGHT_RESOURCES__<STEP>__CPUS, __MEMORY_GIB and __GPUS (of a deployment: --gpu, --max-model-len)"


class Absent(BadInput):
    """There is no object of that name."""


class NotAllowed(BadInput):
    """The account lacks a right."""


class Exists(BadInput):
    """There is an object of that name already."""


class Conflict(BadInput):
    """Server-side apply: another field manager has set `fields` (".spec.replicas": its name) to other values."""

    def __init__(self, message: str, fields: dict[str, str]) -> None:
        super().__init__(
            message,
            remedy="let that manager give them up or set what is wanted; or take them over with --force-conflicts",
        )
        self.fields = fields


class Away(Temporary):
    """The API server does not answer, or not now; `pause` is how many seconds it asks to be left alone."""

    pause = 0.0


class StillThere(NotReady):
    """What was deleted is not gone yet."""


@dataclass(frozen=True)
class _Cause:
    """`words` and `remedy` may name the groups of `pattern`."""

    pattern: re.Pattern[str]
    words: str
    remedy: str
    error: type[BadInput | Temporary] = BadInput


_CAUSES: Final = (
    _Cause(
        re.compile(r"exceeded quota: (?P<name>[^,\s]+)"),
        "the quota {name} of the namespace is used up",
        f"free what else runs there, raise it (kubectl describe quota {{name}}), or ask for less: {_SIZES}",
        Temporary,
    ),
    _Cause(
        re.compile(r"failed quota: (?P<name>[^:\s]+): must specify"),
        "the quota {name} of the namespace wants limits that are not set",
        "give the namespace a LimitRange with a default for what the message names",
    ),
    _Cause(
        re.compile(r"(?:maximum|minimum) \S+ usage per|max limit to request ratio per"),
        "a LimitRange of the namespace refuses the size",
        f"change the size: {_SIZES}; or the LimitRange (kubectl describe limitrange)",
    ),
    _Cause(
        re.compile(r'admission webhook "(?P<name>[^"]+)" denied the request'),
        "the admission webhook {name} refuses it",
        "change what its words name, or ask who runs it",
    ),
    _Cause(
        re.compile(r"ValidatingAdmissionPolicy '(?P<name>[^']+)'"),
        "the admission policy {name} refuses it",
        "change what its words name, or ask who runs it",
    ),
    _Cause(
        re.compile(r'violates PodSecurity "(?P<name>[^"]+)"'),
        "the namespace's Pod Security level {name} refuses it",
        "use a namespace whose label pod-security.kubernetes.io/enforce allows it. Carwright's pods fit `restricted`; "
        "only with CARWRIGHT_EVALUATE__SANDBOX=bubblewrap one needs `privileged`",
    ),
    _Cause(
        re.compile(r"unable to validate against any security context constraint"),
        "no security context constraint of OpenShift allows it",
        "let the pod's service account use one that does: oc adm policy add-scc-to-user",
    ),
    _Cause(
        re.compile(r"error looking up service account (?P<name>[^\s:]+)"),
        "the service account {name} is not there",
        "create it (infra/kubernetes/rbac.yaml), or name another in CARWRIGHT_KUBERNETES__SERVICE_ACCOUNT",
    ),
    _Cause(
        re.compile(r"because it is being terminated"),
        "the namespace is being deleted",
        "use another namespace, or create it again when it is gone",
    ),
    _Cause(
        re.compile(r'failed calling webhook "(?P<name>[^"]+)"'),
        "the admission webhook {name} does not answer",
        "look at its pods; try again later",
        Temporary,
    ),
    _Cause(
        re.compile(r"User .* cannot \S+ resource"),
        "this account may not",
        "grant the permission: infra/kubernetes/rbac.yaml lists all that are needed",
        NotAllowed,
    ),
)


def refusal(doing: str, message: str, code: int = 403) -> BadInput | Temporary:
    """The error for what was refused: `doing` says what ("create Job x"), `message` is the cluster's, `code` as in HTTP."""
    for cause in _CAUSES:
        if found := cause.pattern.search(message):
            words = cause.words.format_map(found.groupdict())
            return cause.error(f"cannot {doing}: {words}: {message}", remedy=cause.remedy.format_map(found.groupdict()))
    text = f"cannot {doing}: {message}"
    if code in (408, 429) or code >= 500:
        return Away(text, remedy="try again later")
    if code == 401:
        return BadInput(text, remedy="log in to the cluster again")
    if code == 403:
        return BadInput(
            text, remedy="change what the message names, or ask who runs the cluster; it is no missing right"
        )
    return BadInput(text, remedy="correct the fields that the message names")


def conflict(doing: str, message: str, causes: Iterable[tuple[str, str]]) -> Conflict:
    """`causes` are field and message of each (`conflict with "kubectl" using v1`; server-side apply, "Conflicts")."""
    fields = {field: (re.findall(r'"([^"]+)"', said) or ["another"])[0] for field, said in causes}
    told = "; ".join(f"{field} is {manager}'s" for field, manager in fields.items()) or message
    return Conflict(f"cannot {doing}: fields of other managers: {told}", fields)
