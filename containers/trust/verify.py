"""Whether a policy lets an image be served: the one place that decides, for every command, step and deployment."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

from containers import sources
from containers.errors import BadInput, NotTrusted
from containers.foreign_values import shown
from containers.in_toto import PROVENANCE, TEST_RESULT
from containers.oci.access import open_repository, read_manifest
from containers.oci.repository import found, images
from containers.oci.types import Index
from containers.oci.validate import listed_files
from containers.trust.evidence import Evidence, collect
from containers.trust.model_signing import compare, listed_in, signable
from containers.trust.policy import matches
from containers.trust.statement import MODEL, SIGNATURE, name_of
from containers.verdict import TEST_RESULTS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from containers.digest import Digest
    from containers.oci.repository import Repository
    from containers.settings import StepSettings
    from containers.trust.evidence import Said
    from containers.trust.policy import BaseModels, Policy

SIGNED_AT: Final = "signedAt"  # in the predicate of an image's signature
_SKEW: Final = timedelta(hours=24)  # by which two clocks may differ: time zones that somebody got wrong, no more
_FAULTS: Final = 5  # that are told
_DECISIONS: Final[Mapping[str, str]] = {result: decision for decision, result in TEST_RESULTS.items()}


@dataclass(frozen=True)
class Trusted:
    """An image that passed: who signed what, and the digests of the model's files as its manifest lists them."""

    digest: Digest
    signed: dict[str, tuple[str, ...]]
    files: dict[str, Digest]
    notes: tuple[str, ...] = ()


def check(reference: str, policy: Policy, settings: StepSettings, now: datetime | None = None) -> Trusted:
    """Raises NotTrusted, naming the rule and what was found, unless the policy lets the image be served."""
    with open_repository(reference, settings) as repository:
        return check_image(repository, read_manifest(repository).digest, policy, now)


def check_image(repository: Repository, digest: Digest, policy: Policy, now: datetime | None = None) -> Trusted:
    """The same, of a manifest in an open repository."""
    moment = now or datetime.now(UTC)
    what = f"{repository.reference.target}@{digest}"
    place = repository.reference.name if repository.reference.registry else str(repository.reference.target)
    _check_denied(repository, digest, policy, what, "serve another version of the model")
    if not matches(place, policy.repositories):
        raise NotTrusted(
            f"{place} is none of the policy's repositories: {', '.join(policy.repositories)}",
            remedy="take the image from one of them",
        )
    files = files_of(repository, digest)
    evidence = _about(files, collect(repository, digest, policy, moment.date()))
    signed = dict(_signed(evidence, policy, what))
    for one in evidence.of(PROVENANCE) if policy.base or policy.recipe else ():
        _check_provenance(one, policy, what)
    for one in evidence.of(TEST_RESULT) if policy.gate else ():
        _check_verdict(one, policy, what)
    _check_age(evidence, policy, what, moment)
    return Trusted(digest, signed, files, evidence.faults)


def _about(files: dict[str, Digest], evidence: Evidence) -> Evidence:
    """Without signatures of models that are over other files than the image's."""
    said, faults = [], list(evidence.faults)
    for one in evidence.said:
        if one.predicate_type == MODEL and one.statement is not None:
            try:
                compare(signable(files), listed_in(one.statement, one.where), one.where)
            except (BadInput, NotTrusted) as error:
                faults.append(error.message)
                continue
        said.append(one)
    return Evidence(tuple(said), tuple(faults))


def check_base(repository: Repository, digest: Digest, policy: Policy, now: datetime | None = None) -> None:
    """Raises NotTrusted for a denied base image, and, if the policy has rules for base images, for one that they do not allow."""
    what = f"the base image {repository.reference.target}@{digest}"
    _check_denied(repository, digest, policy, what, "build on another one")
    if policy.base_images is None:
        return
    moment = now or datetime.now(UTC)
    place = repository.reference.name if repository.reference.registry else str(repository.reference.target)
    rules = [one for one in policy.base_images if matches(place, (one.repository,))]
    if not rules:
        raise NotTrusted(
            f"{what} is under none of the policy's base_images: {', '.join(one.repository for one in policy.base_images)}",
            remedy="build on one of them, or change the policy",
        )
    evidence = collect(repository, digest, policy, moment.date())
    allowed = {key for one in rules for key in one.keys}
    if not any(one.key in allowed for one in evidence.of(SIGNATURE)):
        faults = "; ".join(evidence.faults[:_FAULTS]) or "nothing signed is attached to it"
        raise NotTrusted(
            f"{what} is signed by none of {', '.join(sorted(allowed))} ({faults})",
            remedy="wait for one that is signed, or name one with `base`",
        )


def _check_denied(repository: Repository, digest: Digest, policy: Policy, what: str, remedy: str) -> None:
    """Raises NotTrusted for an image on the deny list, and for an index with one in it."""
    looked = {digest}
    if policy.deny and digest not in policy.deny:
        # By what the index says: an image in it that is for another platform need not be there.
        parsed = found(repository, str(digest)).parse()
        looked |= {one.digest for one in parsed.manifests} if isinstance(parsed, Index) else set()
    for one in sorted(looked & {*policy.deny}):
        inside = "" if one == digest else f", as the image {one} in it"
        raise NotTrusted(f"{what} is on the policy's deny list{inside}", remedy=remedy)


def files_of(repository: Repository, digest: Digest) -> dict[str, Digest]:
    """The model's files as the image's manifest, which its digest proves, lists them; empty where it lists none."""
    return {
        file.path: file.sha256
        for _, manifest in images(repository, str(digest))
        for layer in manifest.layers
        for file in listed_files(layer)
    }


def _signed(evidence: Evidence, policy: Policy, what: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Each required statement with who signed it: a key by its name, an identity also by what its certificate says."""
    for predicate_type in policy.demanded:
        signers = {one.key: one.by for one in evidence.of(predicate_type)}
        keys = tuple(sorted(signers))
        if len(keys) < policy.require.signers:
            name, wanted = name_of(predicate_type), policy.require.signers
            found = (
                f"by {', '.join(keys)} alone, and {wanted} signers are wanted"
                if keys
                else "by nobody whom the policy trusts"
            )
            faults = "; ".join(evidence.faults[:_FAULTS]) or "nothing signed is attached to it"
            raise NotTrusted(
                f"{what} has no {name} signed as the policy demands: {found} ({faults})"
                if not keys
                else f"{what} has its {name} signed {found}",
                remedy="promotion signs what it ships; sign an older image with `carwright sign`",
            )
        yield name_of(predicate_type), tuple(signers[key] for key in keys)


def _check_provenance(one: Said, policy: Policy, what: str) -> None:
    definition = _mapping(one.predicate.get("buildDefinition"))
    asked = _mapping(definition.get("externalParameters"))
    materials = _listing(definition.get("resolvedDependencies"))
    named = [one for one in materials if one.get("name") == "base model" and one.get("uri")]
    others = [one for one in materials if "name" not in one and one.get("uri")]
    if policy.base is not None:
        # What was resolved counts, and what was asked for where a statement does not say it.
        for base in named or others[:1] or [{}]:
            _check_base_model(base, asked, policy.base, what)
    scheme = str(asked.get("scheme", ""))
    if policy.recipe is not None and not matches(scheme, policy.recipe.schemes):
        _refuse(what, f"its recipe is {shown(scheme)}", "recipe.schemes", policy.recipe.schemes)


def _check_base_model(base: Mapping[str, Any], asked: Mapping[str, Any], rule: BaseModels, what: str) -> None:
    uri, revision = str(base.get("uri") or asked.get("model", "")), str(asked.get("revision", ""))
    source = _place(uri)
    revision = revision or ("main" if source.startswith("hf://") else "")  # the hub's own default
    commits = [str(commit) for commit in (_mapping(base.get("digest")).get("gitCommit"),) if commit]
    if not source or not matches(source, rule.sources):
        _refuse(what, f"its base model is {shown(source or uri)}", "base.sources", rule.sources)
    if not any(matches(text, rule.revisions) for text in (revision, *commits)):
        _refuse(what, f"its base's revision is {shown(revision or '?')}", "base.revisions", rule.revisions)


def _place(uri: str) -> str:
    """A source without what pins it; empty for one that leads out of where it seems to be."""
    try:
        parsed = sources.parse(uri)
    except BadInput:  # another builder's
        place = re.split("[@#]", uri, maxsplit=1)[0]
    else:
        place = f"hf://{parsed.repo}" if isinstance(parsed, sources.HubSource) else str(replace(parsed, listing=None))
    return "" if ".." in unquote(uri).split("/") else place


def _check_verdict(one: Said, policy: Policy, what: str) -> None:
    assert policy.gate is not None
    told = one.predicate
    result = str(told.get("result", ""))
    decisions = {_DECISIONS.get(result, result), str(told.get("decision") or _DECISIONS.get(result, result))}
    if not decisions <= {*policy.gate.decisions} and not (policy.gate.override and told.get("override")):
        decided = shown(" and ".join(sorted(decisions)))
        _refuse(what, f"the gate's decision is {decided}", "gate.decisions", policy.gate.decisions)
    if told.get("override") and not policy.gate.override:
        _refuse(what, "a person promoted it against the gate", "gate.override", ("false",))
    suite = str(_mapping(told.get("suite")).get("name") or told.get("suite") or "")
    configured = [one for one in _listing(told.get("configuration")) if one.get("name") == f"suite {suite}"]
    digests = [f"sha256:{_mapping(one.get('digest')).get('sha256')}" for one in configured]
    if not any(matches(text, policy.gate.suites) for text in (suite, *digests)):
        found = " ".join((suite, *digests))
        _refuse(what, f"it was measured by the suite {shown(found)}", "gate.suites", policy.gate.suites)


def _check_age(evidence: Evidence, policy: Policy, what: str, now: datetime) -> None:
    """The newest date of each signer counts: the transparency log's where there is one. A date in the future is no date.

    As many as must have signed must have signed lately: one of several alone does not make an old image new.
    """
    if policy.max_age_days is None:
        return
    told = [(one.key, one.logged or _moment(one.predicate.get(SIGNED_AT))) for one in evidence.of(SIGNATURE)]
    newest_of: dict[str, datetime] = {}
    for signer, date in told:
        if date is not None:
            newest_of[signer] = max(date, newest_of.get(signer, date))
    dates = sorted(newest_of.values(), reverse=True)
    if len(dates) < policy.require.signers:
        raise NotTrusted(
            f"{what}: {'no signature of it says' if not dates else 'too few signatures of it say'} when it was made, and the policy has max_age_days",
            remedy="sign it with `carwright sign`, whose signatures have a date",
        )
    if dates[0] > now + _SKEW:
        raise NotTrusted(
            f"{what} was signed on {dates[0].date()}, and today is {now.date()}: one of two clocks is wrong",
            remedy="set the clock of this machine, or of the one that signed and sign again",
        )
    newest = dates[policy.require.signers - 1]
    if now - newest > timedelta(days=policy.max_age_days):
        raise NotTrusted(
            f"{what} was signed on {newest.date()}, more than the policy's {policy.max_age_days} days ago",
            remedy="ship it again, or look at it again and renew its signature: `carwright sign REFERENCE --renew`",
        )


def _moment(value: Any) -> datetime | None:
    try:
        found = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def _refuse(what: str, found: str, rule: str, allowed: tuple[str, ...]) -> None:
    raise NotTrusted(
        f"{what}: {found}, and the policy's {rule} allows {', '.join(allowed)}",
        remedy="serve a model that the policy allows, or change the policy",
    )


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _listing(value: Any) -> list[Mapping[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
