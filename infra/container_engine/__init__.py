"""The container engine, through its API: the one place that knows the Docker SDK.

Docker 20.10 (API 1.41) or later, on this machine or another one, rootless ones included. Everything that goes into a
container or comes out of it goes through the API: no folder is shared, so that the engine may be anywhere.
"""

from infra.container_engine.client import ContainerEngine, Spec, connect
from infra.container_engine.container import Container, State

__all__ = ["Container", "ContainerEngine", "Spec", "State", "connect"]
