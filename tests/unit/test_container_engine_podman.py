"""What podman is asked for in another way than Docker."""

from __future__ import annotations

from typing import Any
from unittest.mock import MagicMock

import pytest

from infra.container_engine.client import ContainerEngine, Spec

PROFILE = 'seccomp={"defaultAction": "SCMP_ACT_ALLOW"}'


@pytest.mark.parametrize(
    ("component", "kept"),
    [("Podman Engine", ["apparmor=unconfined"]), ("Engine", [PROFILE, "apparmor=unconfined"])],
    ids=["podman", "docker"],
)
def test_podman_keeps_its_own_profile(component: str, kept: list[str]) -> None:
    """It takes one as a file of its own machine only, and its default one allows what ours is brought for."""
    api: Any = MagicMock()
    api.version.return_value = {"Components": [{"Name": component}]}
    spec = Spec("name", "image", (), {}, security=(PROFILE, "apparmor=unconfined"))
    ContainerEngine(api, "project").create(spec)
    asked = api.create_host_config.call_args.kwargs["security_opt"]
    assert [option for option in asked if "no-new-privileges" not in option] == kept
