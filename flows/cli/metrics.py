"""`carwright metrics`."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from containers.errors import BadInput
from infra.settings import Settings

app = typer.Typer()


@app.command()
def metrics(
    output: Annotated[
        Path | None,
        typer.Option(
            help="Write them to this file, replaced whole: DIR/carwright.prom for node_exporter's textfile collector."
        ),
    ] = None,
) -> None:
    """Print runs, steps, bytes and verdicts as Prometheus metrics."""
    from containers.store import Store
    from flows.local import embedded
    from flows.local.run_record import records
    from flows.runtime import location
    from flows.watching.metrics import exposition

    with ExitStack() as stack:
        settings = stack.enter_context(embedded.store(Settings()))
        store = Store.open(location(settings), settings.store)
        text = exposition(store, (record for _, record in records(settings.home)))
    if output is None:
        print(text, end="")
    else:
        _replace(output, text)


def _replace(path: Path, text: str) -> None:
    """Whole or not at all: the collector may read at any moment. Readable for all, as it runs as another user."""
    try:
        with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            file.write(text)
        Path(file.name).chmod(0o644)
        Path(file.name).replace(path)
    except OSError as error:
        raise BadInput(
            f"cannot write {path}: {error.strerror}", remedy="name a file in a folder that exists"
        ) from error
