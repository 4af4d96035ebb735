"""Deploying to one host: what is refused before anything is started."""

from __future__ import annotations

import pytest

from containers.errors import BadInput
from flows.targets import docker
from infra.settings import Settings
from tests.support.deployments import demo_deployment


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"arguments": ("--seed=1",)}, "--argument"),
        ({"fp8_cache": True}, "--kv-cache-dtype"),
        ({"listen": "10.0.0.1"}, "--listen ADDRESS"),
    ],
)
def test_what_our_own_server_does_not_take_is_said_and_not_dropped(given: dict[str, object], word: str) -> None:
    """The engine is not asked at all: there is none under this name."""
    settings = Settings(docker={"host": "unix:///nonexistent.sock"})
    deployment = demo_deployment().model_copy(update=given)
    with pytest.raises(BadInput, match=f"takes no {word}"):
        docker.deploy(deployment, settings, print, print, timeout=1)
