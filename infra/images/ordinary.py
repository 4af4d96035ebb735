"""Lays out what one image is made from inside an ordinary build: in a stage that has the network, apt and a checkout.

    python -m infra.images.ordinary TARGET FOLDER --cache CACHE

The stage `laid-out` of the Containerfile runs it for `docker compose build`, `docker build` and `podman build`. The folder is
the one that the hermetic build gets (infra/images/context.py), with two differences: its base is the builder's, and a Debian
package that the archive no longer has in its locked version is taken in the archive's signed current one. Python packages
are those of the locks, by hash, as everywhere.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from containers.errors import BadInput, Error
from containers.events import Event
from infra.environments.pip_indexes import PipIndexes
from infra.images import debian
from infra.images.context import inputs_of, lay_out_inputs
from infra.images.inside import offline
from infra.images.targets import find
from infra.images.wheels import Wheelhouse
from infra.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from infra.images.debian import Deb

# The public image that an ordinary build stands on when nobody names another: python:3.11-slim-bookworm, by the digest of its
# index of platforms. infra/compose.yaml has it, too.
BASE: Final = "docker.io/library/python@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b"
_STATUS: Final = Path("/var/lib/dpkg/status")  # the stage stands on the base that the image gets


def lay_out_with_network(name: str, folder: Path, cache: Path, on_event: Callable[[Event], None]) -> None:
    """Fetch what is locked for the target `name` into the cache and fill `folder`, which must not exist.

    Raises what fetching raises: BadInput (a file that was not locked, no index that has it), Temporary, DiskFull.
    """
    (target,) = find([name])
    wheelhouse = Wheelhouse(cache / "wheels")
    inputs = replace(inputs_of(target), base_debs=(), base=BASE)
    wheelhouse.fetch(name, inputs.python, on_event, PipIndexes.of(Settings()))
    inputs = replace(inputs, debs=_debs(inputs.debs, cache / "debs", on_event))
    folder.mkdir(parents=True)
    key = inputs.digest if inputs.demo else inputs.packages_digest
    status = _STATUS.read_text() if _STATUS.is_file() else ""
    lay_out_inputs(inputs, folder, cache, wheelhouse, key=key, status=status)
    (folder / "inside" / offline.ALLOWED).touch()


def _debs(locked: tuple[Deb, ...], folder: Path, on_event: Callable[[Event], None]) -> tuple[Deb, ...]:
    try:
        debian.fetch(locked, folder, on_event)
    except BadInput as error:
        on_event(Event(event="log", message=f"{error.message}; taking Debian's current versions"))
    else:
        return locked
    with tempfile.TemporaryDirectory(prefix="carwright-lock-") as scratch:
        lock = Path(scratch, "base.lock")
        debian.update_lock(on_event, lock=lock)
        now = debian.pinned(lock)
    current = tuple(now[deb.name] for deb in locked)
    debian.fetch(current, folder, on_event)
    return current


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m infra.images.ordinary", description="Lay out an image's inputs.")
    parser.add_argument("target", metavar="TARGET")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="folder to create")
    parser.add_argument("--cache", type=Path, required=True, help="folder for what is fetched")
    arguments = parser.parse_args()
    try:
        lay_out_with_network(
            arguments.target, arguments.folder, arguments.cache, lambda event: print(event.message, flush=True)
        )
    except Error as error:
        print(f"{error.message}\n{error.remedy}".rstrip(), file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
