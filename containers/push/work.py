"""Effects, reconciled: `push` sends what is missing, `push-layers` some of it ahead, `promote` gives tags that are not there yet."""

from __future__ import annotations

import time
from importlib.metadata import version
from typing import TYPE_CHECKING, Final, NamedTuple

from pydantic import ValidationError

from containers import in_toto
from containers.contract import Step, StepResult
from containers.errors import BadInput, GateInconclusive, GateRefused
from containers.labels import LABEL
from containers.oci import referrers
from containers.oci.access import open_push_cache, open_repository, pinned
from containers.oci.candidates import mark_pushed
from containers.oci.modelcar import Push
from containers.oci.plan import make_plan
from containers.oci.prepare import open_bases, registry_layer_bytes
from containers.oci.raw import ARTIFACT, holds_files_of
from containers.oci.reference import Reference, check_tag
from containers.oci.repository import ImmutableTag, found, image
from containers.oci.source import StoredCheckpoint
from containers.parameters import PromotedImage, PushedImage, PushOptions, PushParameters
from containers.push.layers import push_layers
from containers.push.signing import sign_promoted
from containers.store import Store
from containers.verdict import BOM_FILE, CARD_FILE, PROVENANCE_FILE, VERDICT_FILE, Verdict, grounds_for_promotion

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from containers.contract import StepRequest
    from containers.digest import Digest
    from containers.oci.repository import Repository, StoredManifest
    from containers.step import Context

# Documents that are no statements: what a promotion calls them, and the types of their referrers.
_DOCUMENTS: Final = {
    CARD_FILE: ("card", referrers.CARD),
    BOM_FILE: ("bom-file", referrers.BOM),
    PROVENANCE_FILE: ("provenance", referrers.PROVENANCE),  # from a flow before 0.3
}


class _Attached(NamedTuple):
    """One referrer: what a promotion calls it, its type, files and annotations, and of a statement its predicate."""

    name: str
    kind: str
    files: Sequence[referrers.Attachment]
    annotations: Mapping[str, str] = {}
    predicate_type: str = ""


def work(request: StepRequest, context: Context) -> StepResult:
    """Push a checkpoint as a modelcar, or layers of it ahead, or promote one that was measured."""
    parameters = PushParameters.read(request.parameters)
    options = PushOptions.read(request.options)
    store = Store.open(request.store, context.settings.store)
    if parameters.action == "push":
        return _push(request, parameters, options, store, context)
    if parameters.action == "push-layers":
        if not options.arriving:
            raise BadInput("push-layers needs the option 'arriving'")
        return push_layers(parameters.target, options.arriving, store, context)
    return _promote(request, parameters, options, store, context)


def _push(
    request: StepRequest, parameters: PushParameters, options: PushOptions, store: Store, context: Context
) -> StepResult:
    target = Reference.parse(parameters.target).target
    if "checkpoint" not in request.inputs:
        raise BadInput("push needs the input 'checkpoint'")
    source = StoredCheckpoint(store, store.load(request.inputs["checkpoint"]))
    cache = open_push_cache(context.settings)
    started = time.monotonic()
    with (
        open_repository(target, context.settings, cache=cache, write=True) as repository,
        open_bases(parameters.base, parameters.platforms, context.settings) as bases,
    ):
        plan = make_plan(
            source,
            bases,
            cache,
            annotations=parameters.annotations,
            layer_limit=options.layer_limit,
            also_raw="raw" in parameters.also,
            layer_bytes=registry_layer_bytes(target, context.settings),
        )
        context.report.log(plan.summary(str(target)))
        for note in plan.notes:
            context.report.log(note, "warning")
        with context.report.progress("push", plan.size + plan.raw_size) as progress:
            push = Push(
                plan,
                repository,
                cache,
                parallel=context.settings.registry.parallel,
                on_bytes=progress.advance,
            )
            pushed = push.run()
            if not pushed.already_there and target.registry:
                mark_pushed(repository, pushed.digest)
            progress.total = progress.done
    skipped = len(pushed.skipped)
    context.report.log(
        f"{target.at(pushed.digest)}: already in the registry, nothing sent"
        if pushed.already_there
        else f"{target.at(pushed.digest)}: {pushed.pushed_bytes} bytes sent, {skipped} layer(s) were already there"
    )
    values = PushedImage(
        reference=str(target.at(pushed.digest)),
        digest=pushed.digest,
        candidate_tag=pushed.candidate_tag,
        layers=pushed.layers,
        size=pushed.size,
        pushed_bytes=pushed.pushed_bytes,
        already_there=pushed.already_there,
        raw=pushed.raw,
        base={plan.bases[0].name: tuple(dict.fromkeys(layer.digest for one in plan.bases for layer in one.layers))},
    )
    return StepResult(
        step=Step.PUSH,
        values=values.dump(),
        metrics={"pushed_bytes": pushed.pushed_bytes, "skipped_layers": skipped, "layers": pushed.layers},
        timings={"push": round(time.monotonic() - started, 3)},
        versions={"httpx": version("httpx")},
    )


def _promote(
    request: StepRequest, parameters: PushParameters, options: PushOptions, store: Store, context: Context
) -> StepResult:
    reference, digest = pinned(parameters.reference)
    if not parameters.tags:
        raise BadInput("promote needs at least one tag")
    for name in parameters.tags:
        check_tag(name)
    files = _files(request, "verdict", store)
    warning = _gate(files, digest, options)
    if warning:
        context.report.log(warning, "warning")
    documents = _files(request, "card", store)
    kinds = {
        one.title: in_toto.read(one.content, one.title, digest).predicate_type
        for one in documents
        if one.title in in_toto.NAMES
    }
    with open_repository(reference, context.settings, write=True) as repository:
        stored = found(repository, str(digest))
        attached = {}
        for new in (*_evaluation(files, _recorded(options, warning)), *_documents(documents, kinds)):
            try:
                attached[new.name] = referrers.renew(
                    repository, digest, new.kind, new.files, new.annotations, predicate_type=new.predicate_type
                )
            except ImmutableTag as error:  # of this registry; the tested digest is promoted all the same
                context.report.log(f"{new.name}: {error.message}; {error.remedy}", "warning")
        attached |= sign_promoted(repository, digest, documents, context)
        there = all(was_there for _, was_there in attached.values())
        for name, (one, was_there) in attached.items():
            context.report.log(f"{name} {one} {'was' if was_there else 'is now'} attached to {digest}")
        changed = []
        for name in parameters.tags:
            before = repository.get(name)
            if before is None or before.digest != digest:
                repository.put(stored.content, stored.media_type, name)
                changed.append(name)
        changed += tag_raw(repository, stored, parameters.tags, lambda text: context.report.log(text, "warning"))
    tagged = ", ".join(str(reference.tagged(name)) for name in parameters.tags)
    context.report.log(f"{tagged} {'is' if changed else 'was already'} {digest}")
    values = PromotedImage(
        reference=str(reference),
        tags=parameters.tags,
        already_there=there and not changed,
        attached={name: one for name, (one, _) in attached.items()},
    )
    return StepResult(step=Step.PUSH, values=values.dump(), versions={"httpx": version("httpx")})


def tag_raw(
    repository: Repository, car: StoredManifest, tags: tuple[str, ...], warn: Callable[[str], None]
) -> list[str]:
    """The raw artifact of a promoted modelcar, where there is one, gets the same tags with `-raw` behind them.

    Whoever may push can attach one with other files, so only the one that holds the modelcar's own files is taken.
    """
    listed = referrers.manifests(repository, car.digest, ARTIFACT)
    fitting = []
    if listed:
        _, held = image(repository, str(car.digest))  # of an index, any: all hold the same model
        fitting = [one for one, manifest in listed if holds_files_of(manifest, held)]
    if len(fitting) != len(listed):
        warn(
            f"{len(listed) - len(fitting)} raw artifact(s) attached to {car.digest} hold other files than it: not tagged"
        )
    if len(fitting) > 1:
        warn(f"{len(fitting)} raw artifacts are attached to {car.digest}; none was tagged")
        return []
    changed: list[str] = []
    for one in fitting:
        stored = found(repository, str(one.digest))
        for name in (f"{tag}-raw" for tag in tags):
            before = repository.get(name)
            if before is None or before.digest != stored.digest:
                repository.put(stored.content, stored.media_type, name)
                changed.append(name)
    return changed


def _recorded(options: PushOptions, warning: str) -> dict[str, str]:
    """What the evaluation's annotations say of a promotion that a plain pass did not decide."""
    recorded = {f"{LABEL}override": options.override} if options.override else {}
    return recorded | ({f"{LABEL}gate.profile": options.gate_profile} if warning else {})


def _evaluation(files: tuple[referrers.Attachment, ...], annotations: dict[str, str]) -> Iterator[_Attached]:
    """The evaluation; without one, what is recorded still needs a place."""
    if files or annotations:
        yield _Attached("evaluation", referrers.EVALUATION, files, annotations)


def _documents(files: tuple[referrers.Attachment, ...], kinds: dict[str, str]) -> Iterator[_Attached]:
    """The card, the bill of materials and each statement, a referrer of its own; the newest is the one that counts.

    `kinds` are the predicates of the statements among the files, by name.
    """
    for one in files:
        if one.title in kinds:
            yield _Attached(in_toto.NAMES[one.title], in_toto.MEDIA_TYPE, [one], predicate_type=kinds[one.title])
        elif one.title in _DOCUMENTS:
            yield _Attached(*_DOCUMENTS[one.title], [one])


def _files(request: StepRequest, name: str, store: Store) -> tuple[referrers.Attachment, ...]:
    """The files of an input artifact; none without it."""
    ref = request.inputs.get(name)
    if ref is None:
        return ()
    return tuple(
        referrers.Attachment(entry.path, _media_type(entry.path), store.read_bytes(entry.sha256))
        for entry in store.load(ref).files
    )


def _gate(files: tuple[referrers.Attachment, ...], digest: Digest, options: PushOptions) -> str:
    """What the promotion should warn of, "" for nothing. Raises GateRefused or GateInconclusive unless the verdict passes
    exactly this digest, or the options promote it anyway.
    """
    verdict = _verdict(files, options)
    decision = verdict.decision if verdict is not None and verdict.subject == str(digest) else None
    grounds = grounds_for_promotion(decision, override=options.override, profile=options.gate_profile)
    if grounds in {"pass", "override"}:
        return ""
    if verdict is None:
        raise GateRefused(f"{digest} was not measured", remedy="evaluate it first, or give --override-gate REASON")
    if decision is None:
        raise GateRefused(
            f"the verdict is for {verdict.subject or 'nothing in particular'}, not for {digest}",
            remedy="evaluate the image that is to be promoted",
        )
    reasons = "; ".join(verdict.reasons) or "no reason given"
    remedy = "nothing was promoted; --override-gate REASON promotes it anyway and records the reason"
    if decision == "refuse":
        raise GateRefused(f"the gate refused {digest}: {reasons}", remedy=remedy)
    undecided = f"the gate could not decide about {digest}: {reasons}"
    if grounds is None:
        raise GateInconclusive(undecided, remedy=f"{remedy}; --gate-profile smoke warns and promotes")
    return f"{undecided} (promoted anyway: the gate's profile is smoke)"


def _verdict(files: tuple[referrers.Attachment, ...], options: PushOptions) -> Verdict | None:
    """None without one. Raises BadInput for one that cannot be read, unless the options promote whatever it says."""
    content = next((one.content for one in files if one.title == VERDICT_FILE), None)
    if content is None:
        return None
    try:
        return Verdict.model_validate_json(content)
    except ValidationError as error:
        if options.override:
            return None
        raise BadInput(
            f"the {VERDICT_FILE} of the measurement is not a verdict that this version reads: {error.errors()[0]['msg']}",
            remedy="evaluate the image again with this version",
        ) from error


def _media_type(path: str) -> str:
    if path in {PROVENANCE_FILE, *in_toto.NAMES}:
        return in_toto.MEDIA_TYPE
    if path == BOM_FILE:
        return referrers.BOM
    kinds = {
        ".html": "text/html",
        ".json": "application/json",
        ".jsonl": "application/jsonl",
        ".md": "text/markdown",
        ".svg": "image/svg+xml",
    }
    return next((kind for end, kind in kinds.items() if path.endswith(end)), "application/octet-stream")
