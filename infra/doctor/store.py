"""The object store: whether it answers, takes a write, and has the same time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from containers.errors import Error
from infra.doctor.line import Line, failed, ok, wrong
from infra.objectstore import embedded_program

if TYPE_CHECKING:
    from infra.settings import Settings

SKEW: Final = 60.0  # seconds between the clocks that are still well
REFUSED: Final = 900.0  # seconds from which S3 refuses signatures (RequestTimeTooSkewed)
_CLOCK: Final = "set this machine's clock, or the store's (timedatectl set-ntp true)"


def store(settings: Settings) -> Line:
    """The store of the settings, or the program for the embedded one."""
    from containers.store import rehearse  # boto3 is slow to load

    if settings.store.endpoint is None:
        try:
            program = embedded_program()
        except Error as error:
            return failed("store", error, asked_for=True)
        return ok("store", f"each command starts its own ({program}); no CARWRIGHT_STORE__ENDPOINT is set")
    try:
        found = rehearse(settings.store.location, settings.store)
    except Error as error:
        return failed("store", error, asked_for=True)
    name = f"{settings.store.endpoint}/{settings.store.bucket}"
    if abs(found.skew) >= SKEW:
        ahead = "ahead of" if found.skew > 0 else "behind"
        text = f"the clock of {name} is {abs(found.skew):.0f} s {ahead} this machine's"
        return wrong("store", text, _CLOCK, asked_for=abs(found.skew) >= REFUSED)
    return ok("store", f"{name} takes a write" if found.bucket else f"{name} answers; the first run makes the bucket")
