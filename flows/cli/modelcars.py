"""`carwright push`, `lint` and `verify`, and the registry part of `clean`."""

from __future__ import annotations

import json
import re
import time
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from containers.contract import Kind
from containers.errors import BadInput
from containers.events import amount
from containers.oci.access import open_push_cache, open_repository, resolve
from containers.oci.candidates import find_candidates, mark_pushed, remove
from containers.oci.lint import lint as lint_reference
from containers.oci.modelcar import Push
from containers.oci.plan import make_plan
from containers.oci.prepare import open_bases, registry_layer_bytes
from containers.oci.reference import Reference
from containers.oci.source import CheckpointFolder, StoredCheckpoint
from containers.oci.verify import verify as verify_reference
from containers.parameters import DEFAULT_BASE
from containers.registry_limits import MODEL_LAYERS
from containers.trust.verify import check as check_trust
from flows.cli import terminal
from flows.cli.housekeeping import age
from flows.cli.options import Json  # noqa: TC001 -- typer reads the annotation
from flows.cli.trust import PolicyFile, policy_of, show_trusted, verify_folder
from infra.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import timedelta

    from containers.oci.candidates import Candidate
    from containers.oci.modelcar import Pushed
    from containers.oci.plan import PushPlan
    from containers.oci.push_cache import PushCache
    from containers.oci.source import Source

app = typer.Typer()

_FINGERPRINT = re.compile(r"[0-9a-f]{8,64}")


@app.command()
def push(  # noqa: PLR0917 -- typer makes options of them
    source: Annotated[str, typer.Argument(help="A checkpoint folder, or the fingerprint of a stored checkpoint.")],
    reference: Annotated[str, typer.Argument(help="registry/repository[:tag] or oci:DIR[:tag].")],
    base: Annotated[
        str, typer.Option(help="Base layer: minimal, busybox, none, or an image reference.")
    ] = DEFAULT_BASE,
    platform: Annotated[
        list[str] | None,
        typer.Option(help="Platform of the base; more than one makes an index.", show_default="linux/amd64"),
    ] = None,
    also: Annotated[
        list[str] | None, typer.Option(help="raw: also push the raw-file artifact for ilab and ModelPack.")
    ] = None,
    annotation: Annotated[list[str] | None, typer.Option(help="KEY=VALUE on the manifest; may be repeated.")] = None,
    layer_limit: Annotated[
        int, typer.Option(help="Maximum number of model layers; above it, files share layers.")
    ] = MODEL_LAYERS,
    plan_only: Annotated[bool, typer.Option("--plan", help="Print the plan and stop.")] = False,
    json_: Json = False,
) -> None:
    """Pack a checkpoint as a modelcar and push it. Layers that the registry has are not sent again."""
    settings = Settings()
    target = Reference.parse(reference)
    if target.digest is not None:
        raise BadInput(f"{reference}: a push computes the digest", remedy="give a tag, or only the name")
    if set(also or ()) - {"raw"}:
        raise BadInput(f"--also {', '.join(also or ())}: only raw is known")
    cache = open_push_cache(settings)
    started = time.monotonic()
    with (
        _source(source, settings, cache) as files,
        open_bases(base, tuple(platform or ("linux/amd64",)), settings) as bases,
    ):
        plan = make_plan(
            files,
            bases,
            cache,
            annotations=_annotations(annotation or []),
            layer_limit=layer_limit,
            layer_bytes=registry_layer_bytes(target, settings),
            also_raw="raw" in (also or ()),
        )
        _show_plan(plan, target, error=not plan_only or json_)
        if plan_only:
            if json_:
                print(json.dumps(_plan_json(plan), indent=2))
            return
        with (
            open_repository(target, settings, cache=cache, write=True) as repository,
            terminal.measured("push", plan.size + plan.raw_size) as advance,
        ):
            pushed = Push(plan, repository, cache, parallel=settings.registry.parallel, on_bytes=advance).run(
                target.tag
            )
            if not pushed.already_there and target.registry and not target.tag:
                mark_pushed(repository, pushed.digest)
    _show_pushed(pushed, target, time.monotonic() - started, as_json=json_)


@app.command()
def lint(
    reference: Annotated[str, typer.Argument(help="A modelcar or raw artifact, in a registry or a layout.")],
    json_: Json = False,
) -> None:
    """Check an image against the requirements of KServe, ilab, ModelPack and registries. Exit code 2 if one is broken."""
    findings = lint_reference(reference, Settings())
    wrong = [one for one in findings if one.level == "error"]
    if json_:
        print(json.dumps({"reference": reference, "findings": [asdict(one) for one in findings]}, indent=2))
    else:
        styles = {"ok": "green", "warning": "yellow", "error": "red"}
        terminal.out.print(reference)
        rows = [(Text(one.level, styles[one.level]), one.rule, one.message) for one in findings]
        terminal.show_table(("", "rule", "finding"), rows)
    if wrong:
        rules = ", ".join(one.rule for one in wrong)
        raise BadInput(f"{reference}: {len(wrong)} rule(s) broken: {rules}; the first: {wrong[0].message}")


@app.command()
def verify(
    reference: Annotated[
        str, typer.Argument(help="A modelcar or raw artifact, in a registry or a layout; or a folder with model.sig.")
    ],
    against: Annotated[str, typer.Option(help="A checkpoint folder or another reference.")] = "",
    policy: PolicyFile = None,
    key: Annotated[
        list[Path] | None, typer.Option(help="Public key that must have signed it; may be repeated, then one of them.")
    ] = None,
    json_: Json = False,
) -> None:
    """Recompute every digest from the stored bytes and report files that differ. Exit code 2 if one does.

    With a policy or a key the signatures are checked first, and exit code 5 says that it is not trusted. Of a folder the
    signature model.sig is checked (OpenSSF Model Signing), and that it is over exactly these files.
    """
    settings = Settings()
    rules = policy_of(policy, key, settings)
    if Path(reference).is_dir():
        verify_folder(Path(reference), rules, as_json=json_)
        return
    # By digest: a tag may move between the look at the signatures and the one at the bytes.
    pinned = str(Reference.parse(reference).at(resolve(reference, settings)))
    trusted = check_trust(pinned, rules, settings) if rules is not None else None
    with terminal.measured("verify", 0) as advance:
        result = verify_reference(pinned, settings, open_push_cache(settings), against=against, on_bytes=advance)
    if json_:
        print(
            json.dumps(
                {
                    "reference": reference,
                    "digest": str(result.digest),
                    "bytes": result.bytes_read,
                    "signed": {name: list(by) for name, by in trusted.signed.items()} if trusted is not None else None,
                    "files": {path: str(digest) for path, digest in result.files.items()},
                    "differences": [asdict(one) for one in result.differences],
                },
                indent=2,
            )
        )
    else:
        if trusted is not None:
            show_trusted(trusted)
        for one in result.differences:
            terminal.line(f"{one.kind}: {one.message}")
        if result.ok:
            terminal.line(
                f"{result.digest}: {len(result.files)} files, {amount(result.bytes_read, 'B')}, every digest is right"
            )
    if not result.ok:
        first = result.differences[0]
        raise BadInput(f"{reference}: {len(result.differences)} difference(s), the first: {first.message}")


def show_candidates(reference: str, older: str, *, delete: bool, as_json: bool) -> None:
    """The registry part of `carwright clean`: list old candidates, and with `delete` remove them."""
    candidates = clean_registry(reference, age(older), delete=delete, settings=Settings())
    if as_json:
        listed = [{"tag": one.tag, "digest": str(one.digest), "pushed": str(one.pushed)} for one in candidates]
        print(json.dumps({"reference": reference, "deleted": delete, "candidates": listed}, indent=2))
        return
    for one in candidates:
        terminal.line(
            f"{'removed' if delete else 'would remove'} {reference}:{one.tag} ({one.digest}, pushed {one.pushed})"
        )
    terminal.line(f"{len(candidates)} candidate(s) never passed and are older than {older}")


def clean_registry(reference: str, older: timedelta, *, delete: bool, settings: Settings) -> tuple[Candidate, ...]:
    """List the candidates in a repository that never passed and are older than `older`; remove them with `delete`."""
    target = Reference.parse(reference).target
    with open_repository(target, settings, write=delete) as repository:
        candidates = find_candidates(repository, older)
        if delete:
            remove(repository, candidates)
    return candidates


@contextmanager
def _source(source: str, settings: Settings, cache: PushCache) -> Iterator[Source]:
    """A folder, or a stored checkpoint by its fingerprint or a prefix of it."""
    folder = Path(source)
    if folder.exists() or not _FINGERPRINT.fullmatch(source):
        yield CheckpointFolder(folder, cache)
        return
    from containers.store import Store  # the object store's client is slow to load, and a folder needs none
    from flows.local import embedded

    with embedded.store(settings) as served:
        store = Store.open(served.store.location, served.store)
        found = [one for one in store.manifests(Kind.CHECKPOINT) if one.fingerprint.startswith(source)]
        if len(found) != 1:
            raise BadInput(
                f"{len(found)} stored checkpoints have a fingerprint that begins with {source}",
                remedy="give a folder, or more of the fingerprint",
            )
        yield StoredCheckpoint(store, store.load(found[0].ref))


def _annotations(pairs: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for pair in pairs:
        key, sign, value = pair.partition("=")
        if not key or not sign:
            raise BadInput(f"--annotation {pair!r} is not KEY=VALUE")
        found[key] = value
    return found


def _plan_json(plan: PushPlan) -> dict[str, Any]:
    return {
        "layers": [
            {"files": [file.path for file in one.files], "size": one.layer.size, "digest": str(one.digest or "")}
            for one in plan.layers
        ],
        "base": [base.name for base in plan.bases],
        "size": plan.size,
        "raw_size": plan.raw_size,
        "notes": list(plan.notes),
    }


def _show_plan(plan: PushPlan, target: Reference, *, error: bool) -> None:
    terminal.line(plan.summary(str(target.target)), error=error)
    for note in plan.notes:
        terminal.line(f"note: {note}", error=error)


def _show_pushed(pushed: Pushed, target: Reference, seconds: float, *, as_json: bool) -> None:
    reference = str(target.at(pushed.digest))
    if as_json:
        values = {
            "reference": reference,
            "tags": [pushed.candidate_tag, *([target.tag] if target.tag else [])],
            "layers": pushed.layers,
            "size": pushed.size,
            "pushed_bytes": pushed.pushed_bytes,
            "skipped": list(pushed.skipped),
            "already_there": pushed.already_there,
            "raw": str(pushed.raw or ""),
            "seconds": round(seconds, 3),
        }
        print(json.dumps(values, indent=2))
        return
    if pushed.already_there:
        print(f"{reference}\nalready in the registry: nothing was sent ({seconds:.1f} s)")
        return
    rate = amount(pushed.pushed_bytes / max(seconds, 0.001), "B")
    there = (
        f", {len(pushed.skipped)} part(s) were already there: {', '.join(pushed.skipped[:5])}" if pushed.skipped else ""
    )
    terminal.line(reference)
    terminal.line(f"{amount(pushed.pushed_bytes, 'B')} sent in {seconds:.1f} s ({rate}/s){there}")
    if pushed.raw:
        terminal.line(f"raw files: {target.at(pushed.raw)}")
