"""A session of steps with its display, and how the results of steps are shown."""

from __future__ import annotations

import json
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from containers.events import amount
from flows.cli import terminal
from flows.cli.options import on_device
from flows.cli.plan_view import show_plan_tables
from flows.local.early_checks import check_source
from flows.local.session import open_session
from flows.local.ship import choose_model
from infra.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from containers.contract import ArtifactRef, StepResult
    from containers.store import Store
    from flows.local.session import Session


@contextmanager
def session(*, verbose: bool, device: str | None = None) -> Iterator[Session]:
    """A session that displays events; `device` is that of the command's option."""
    settings = on_device(Settings(), device)
    with terminal.display(verbose=verbose) as show, open_session(settings, show) as opened:
        yield opened


@contextmanager
def session_with_model(model: str | None, *, verbose: bool, device: str | None = None) -> Iterator[tuple[Session, str]]:
    """A session, with the model to work on: the demo if none is given."""
    settings = on_device(Settings(), device)
    if model:
        check_source(model)
    with terminal.display(verbose=verbose) as show, ExitStack() as stack:
        chosen, settings = choose_model(model or "", settings, stack, show)
        yield stack.enter_context(open_session(settings, show)), chosen


def show_artifact(store: Store, ref: ArtifactRef, output: Path | None, *, as_json: bool) -> None:
    """List an artifact's files, and write them into the folder `output` if one is given."""
    manifest = store.load(ref)
    if output is not None:
        store.materialize(ref, output)
    if as_json:
        print(manifest.model_dump_json(indent=2))
        return
    rows = [(amount(file.size, "B"), file.sha256.hex, file.path) for file in manifest.files]
    terminal.show_table(("size", "sha256", "file"), rows, right={0})
    terminal.out.print(f"{ref.kind} {ref.digest}" + (f", written to {output}" if output else ""))


def show_plan(result: StepResult, *, as_json: bool) -> None:
    plan = result.values["plan"]
    if as_json:
        print(json.dumps(plan, indent=2))
    elif isinstance(plan, dict):
        show_plan_tables(plan)
