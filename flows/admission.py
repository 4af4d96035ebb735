"""What may be served: the policy that is set, asked for every model that a command serves or deploys.

What a run serves to measure it is not asked: it is not signed before it was measured, and it is gone when the run ends.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from containers.errors import NotTrusted
from containers.oci.access import resolve
from containers.oci.reference import Reference, absolute_layout
from containers.trust import verify
from containers.trust.policy import Policy

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pydantic import JsonValue

    from containers.trust.verify import Trusted
    from infra.settings import Settings

_SOURCES: Final = ("hf://", "file://", "s3://")
UNCHECKED: Final = "no policy is set: served without looking at signatures (--policy FILE, or the setting trust.policy)"


@dataclass(frozen=True)
class Admitted:
    """A policy, what it found of an image that it lets be served, and that image by digest."""

    policy: Policy
    trusted: Trusted
    reference: str

    @property
    def options(self) -> dict[str, JsonValue]:
        """What binds a serve step to it (`containers.parameters.ServeOptions`)."""
        files: dict[str, JsonValue] = {path: str(digest) for path, digest in self.trusted.files.items()}
        return {"policy": self.policy.dump(), "files": files}


def admit(what: str, policy: Path | None, settings: Settings, say: Callable[[str], None]) -> Admitted | None:
    """Ask the policy, or that of the settings, about an image; None without one, which `say` is told.

    Raises NotTrusted for what does not pass, a model that is no image among it, and BadInput for a policy that cannot be read.
    """
    chosen = policy or settings.trust.policy
    if chosen is None:
        say(UNCHECKED)
        return None
    if policy is None:  # a carwright.toml in this folder may have set it, and the folder may be somebody else's
        say(f"policy: {chosen}")
    rules = Policy.read(chosen)
    if what.startswith(_SOURCES):
        raise NotTrusted(
            f"the policy {chosen} is set, and {what} is not an image that could be signed",
            remedy="serve a modelcar: `carwright ship` makes one and signs it",
        )
    reference = absolute_layout(what)
    pinned = str(Reference.parse(reference).at(resolve(reference, settings)))
    trusted = verify.check(pinned, rules, settings)
    for name, keys in trusted.signed.items():
        say(f"{name}: signed by {', '.join(keys)}")
    return Admitted(rules, trusted, pinned)
