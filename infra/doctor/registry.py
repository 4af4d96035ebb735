"""The target of a push: the login, and the right to push, which is tried without leaving anything behind."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from containers.errors import Error, Temporary
from containers.oci.access import open_push_cache
from containers.oci.reference import Reference
from infra.doctor.line import Line, failed, ok, skipped, wrong

if TYPE_CHECKING:
    from infra.settings import Settings


def registry(settings: Settings, target: str = "") -> Line:
    """`target` is what `--to` of a ship would be: registry/repository, or oci:DIR; empty for none."""
    from containers.oci.registry import Registry  # slow to load

    if not target:
        return skipped("registry", "not looked at", "`--to registry/repository` checks the login and the right to push")
    try:
        reference = Reference.parse(target)
        if reference.layout is not None:
            return _layout(reference)
        once = settings.registry.model_copy(update={"attempts": 1, "timeout": min(settings.registry.timeout, 10.0)})
        settings = settings.model_copy(update={"registry": once})
        with Registry(reference, settings, open_push_cache(settings), write=True) as opened:
            opened.check_push()
    except Temporary as error:
        remedy = "check its name, the network and the proxy (HTTPS_PROXY); it may be down or busy"
        return wrong("registry", error.message, remedy, asked_for=True)
    except Error as error:
        return failed("registry", error, asked_for=True)
    return ok("registry", f"{reference.name} takes a push")


def _layout(reference: Reference) -> Line:
    assert reference.layout is not None
    path = reference.layout.expanduser().absolute()
    there = next(one for one in (path, *path.parents) if one.exists())
    if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
        return ok("registry", f"the folder {path} can be written")
    return wrong("registry", f"the folder {path} cannot be written", "name one of yours: oci:DIR", asked_for=True)
