"""Where runs of this folder have left something serving: `carwright clean` finds it there, whatever the settings say by then."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from containers import private

if TYPE_CHECKING:
    from pathlib import Path

    from infra.settings import KubernetesSettings, Settings

_PLACE = ("kubeconfig", "context", "namespace")


def mark(settings: Settings) -> Path:
    """A file with one line of JSON for each place; it is there while something may be kept."""
    return settings.home.resolve() / "services" / "kubernetes"


def remember(settings: Settings, kube: KubernetesSettings) -> None:
    """Before it is kept: a place without a service does no harm. `kube` finds it whatever the environment says."""
    line = json.dumps({name: None if (value := getattr(kube, name)) is None else str(value) for name in _PLACE})
    file = mark(settings)
    known = file.read_text().splitlines() if file.exists() else []
    if line not in known:
        private.folder(settings.home.resolve(), "services")
        with open(file, "a", opener=private.opener) as marks:
            marks.write(f"{line}\n")


def places(settings: Settings) -> list[KubernetesSettings]:
    """The settings that reach each place: their own where steps run on a cluster, and those that were remembered."""
    found = [settings.kubernetes] if settings.launcher == "kubernetes" else []
    file = mark(settings)
    lines = file.read_text().splitlines() if file.exists() else []
    return found + [settings.kubernetes.model_validate(dict(settings.kubernetes) | json.loads(line)) for line in lines]


def forget(settings: Settings) -> None:
    """Everything that was kept has been stopped."""
    mark(settings).unlink(missing_ok=True)
