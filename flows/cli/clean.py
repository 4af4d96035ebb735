"""`carwright clean`, `pin` and `unpin`: what is kept in store, caches and container engine, and what goes."""

from __future__ import annotations

import json
import shutil
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from containers.events import amount
from flows.cli import housekeeping, modelcars, terminal
from flows.cli.options import Json  # noqa: TC001 -- typer reads the annotation
from infra.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from containers.store import Store
    from flows.retention.report import SweepReport

app = typer.Typer()


@app.command()
def clean(  # noqa: PLR0917 - typer makes options of them
    everything: Annotated[
        bool,
        typer.Option(
            "--all", help="Also remove the store, the images, the runs and their database: all of .carwright."
        ),
    ] = False,
    registry: Annotated[
        str, typer.Option(help="Instead: list the candidates in registry/repository that never passed the gate.")
    ] = "",
    older: Annotated[
        str,
        typer.Option(
            help="Leave what was made or used since: in the store (24h at least), environments, images; with --registry what "
            "was pushed since; 36h, 14d."
        ),
    ] = "14d",
    keep_gb: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Also remove what nothing needs and is younger (a day at least), the oldest first, until no more than this "
            "is in the store.",
            show_default="no limit",
        ),
    ] = None,
    shared_store: Annotated[
        bool,
        typer.Option("--shared-store", help="Also sweep the store of CARWRIGHT_STORE__ENDPOINT, which others may use."),
    ] = False,
    delete: Annotated[bool, typer.Option("--delete", help="With --registry: remove what is listed.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be removed; stop and remove nothing.")
    ] = False,
    json_: Json = False,
) -> None:
    """Stop models that are still serving, and remove what nothing needs any more."""
    age = housekeeping.age(older, least=timedelta(days=0 if registry or everything else 1))
    if registry:
        modelcars.show_candidates(registry, older, delete=delete and not dry_run, as_json=json_)
        return
    from flows.local import embedded

    settings = Settings()
    with embedded.run_lock(settings, terminal.err.print):
        _stop_and_remove(settings, terminal.err if json_ else terminal.out, everything=everything, dry_run=dry_run)
        swept = None if everything else _sweep_store(settings, age, keep_gb, shared=shared_store, dry_run=dry_run)
        rows = [] if everything else _leftovers(settings, age, dry_run=dry_run)
    if json_:
        rest = [dict(zip(("fate", "what", "age", "bytes", "why", "name"), row, strict=True)) for row in rows]
        print(json.dumps({"store": swept.document() if swept else None, "beside": rest}, indent=2))
        return
    _show(swept, rows, dry_run=dry_run)


@app.command()
def pin(
    what: Annotated[
        str,
        typer.Argument(
            help="Fingerprint of an artifact, or its beginning; or the reference of a shipped modelcar. Without it: list the pins.",
            show_default=False,
        ),
    ] = "",
    json_: Json = False,
) -> None:
    """Keep an artifact of the store, or all that a shipped modelcar was made from, until `carwright unpin`."""
    from flows.retention import pins

    with _store() as store:
        if what:
            made = pins.pin(store, what)
            if json_:
                terminal.document({"pinned": made.model_dump(mode="json")})
                return
            terminal.out.print(f"pinned {made.name} ({len(made.artifacts)} artifact(s))")
            return
        found = [(one, bool(pins.absent(store, one))) for one in pins.pins(store)]
    if json_:
        terminal.document({"pins": [{**one.model_dump(mode="json"), "whole": not gone} for one, gone in found]})
        return
    if not found:
        terminal.out.print("nothing is pinned")
        return
    rows = [
        (f"{one.at:%Y-%m-%d}", ", ".join(sorted({ref.kind for ref in one.artifacts})), "gone" if gone else "", one.name)
        for one, gone in found
    ]
    terminal.show_table(("since", "kind", "", "pinned"), rows)


@app.command()
def unpin(
    what: Annotated[str, typer.Argument(help="As it was pinned; of a fingerprint, its beginning is enough.")],
    json_: Json = False,
) -> None:
    """Remove a pin; `carwright clean` then judges by age again."""
    from flows.retention import pins

    with _store() as store:
        gone = pins.unpin(store, what)
    if json_:
        terminal.document({"unpinned": gone.model_dump(mode="json")})
    else:
        terminal.out.print(f"no longer pinned: {gone.name}")


@contextmanager
def _store() -> Iterator[Store]:
    from containers.store import Store  # the object store's client is slow to load
    from flows.local import embedded

    with embedded.store(Settings()) as served:
        yield Store.open(served.store.location, served.store)


def _stop_and_remove(settings: Settings, say: Console, *, everything: bool, dry_run: bool) -> None:
    for services in housekeeping.services(settings) if not dry_run else ():
        for url in services.stop_all(kept=True):
            say.print(f"stopped {url}")
    for folder in [settings.home] if everything else [settings.home / "serving", settings.home / "partial"]:
        if folder.exists():
            if not dry_run:
                shutil.rmtree(folder, ignore_errors=True)
            say.print(f"{'would remove' if dry_run else 'removed'} {folder}")


def _sweep_store(
    settings: Settings, older: timedelta, keep_gb: float | None, *, shared: bool, dry_run: bool
) -> SweepReport | None:
    """Sweep this folder's own store, or, if asked to, the one that other machines reach; None where there is none."""
    if settings.store.endpoint is not None:
        if not shared:
            return None
    elif not (settings.home / "store").is_dir():
        return None
    from flows.retention.report import sweep

    with _store() as store:
        return sweep(store, older, keep_gb=keep_gb, dry_run=dry_run)


def _leftovers(settings: Settings, older: timedelta, *, dry_run: bool) -> list[tuple[str, ...]]:
    """Environments and images of old locks: rows of the table."""
    from flows.retention.report import age_text
    from infra.environments import leftovers

    verb = "would go" if dry_run else "removed"
    rows: list[tuple[str, ...]] = []
    for one in leftovers.leftovers(settings.cache, older):
        if dry_run or leftovers.remove(one, older):
            age, size = age_text(timedelta(seconds=one.age)), amount(one.size, "B")
            rows.append((verb, "environment", age, size, "of another lock, unused", str(one.folder)))
    if settings.launcher != "docker" and not (settings.home / "services" / "docker").exists():
        return rows
    from infra.container_engine import connect
    from infra.images import local_engine

    with connect(settings.docker) as engine:
        for image in local_engine.old_images(engine, older):
            if dry_run or local_engine.remove_image(engine, image):
                age, size = age_text(timedelta(seconds=image.age)), amount(image.size, "B")
                rows.append((verb, "image", age, size, "a newer one has its name", image.id))
    return rows


def _show(swept: SweepReport | None, rows: list[tuple[str, ...]], *, dry_run: bool) -> None:
    from flows.retention.report import HEADINGS

    if swept is not None and (table := swept.rows()):
        terminal.show_table(HEADINGS, table, right={2, 3, 4})
    if rows:
        terminal.show_table(("", "what", "age", "bytes", "why", "name"), rows, right={2, 3})
    if swept is not None and swept.headline:
        terminal.out.print(f"{'would remove' if dry_run else 'removed'} {swept.headline}")
    for note in swept.notes if swept is not None else ():
        terminal.err.print(note, style="yellow")
