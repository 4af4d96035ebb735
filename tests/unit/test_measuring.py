"""A server that ends while it is measured: its own reason counts for more than that nobody answered."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from containers.contract import StoreLocation
from containers.errors import BadInput, Error, NotReady, StepFailed
from containers.parameters import Endpoint, ServeParameters
from flows import measuring
from flows.requests import Requests, Subject
from infra.settings import Settings
from tests.support.openai_server import Behaviour, openai_server
from tests.support.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

REASON = StepFailed("serve", 75, "vLLM could not get the GPU memory that it needs: CUDA out of memory")


@dataclass
class Lease:
    """Of a server that ends after it was looked at so many times."""

    endpoint: Endpoint
    looks: int = 2
    reason: Error | None = REASON
    found: bool = False
    ended: list[str] = field(default_factory=list)

    @property
    def serves(self) -> bool:
        self.looks -= 1
        return self.looks > 0

    def why_ended(self) -> Error | None:
        return self.reason

    def end(self) -> None:
        self.ended.append("end")

    def keep(self) -> None: ...


def measure(lease: Lease, error: Error) -> None:
    @contextmanager
    def serve(_: Subject) -> Iterator[Any]:
        try:
            yield lease
        finally:
            lease.end()

    def run(_: object) -> None:
        raise error

    settings = Settings()
    subject = Subject("candidate", "sha256:" + "1" * 64, ServeParameters(served_model_name="m"), {})
    requests = Requests("run", StoreLocation(endpoint="http://127.0.0.1:9"), settings)
    nothing: Any = None
    measuring.measure(subject, "smoke", requests=requests, store=nothing, run=run, serve=serve, always_serve=True)


def at(url: str) -> Endpoint:
    return Endpoint(url=url, served_model_name="m", server="vllm 0.32.0")


@pytest.fixture
def gone() -> Endpoint:
    return at(f"http://127.0.0.1:{free_port()}/v1")


def test_the_reason_is_the_servers_when_it_ended(gone: Endpoint) -> None:
    unanswered = NotReady("the endpoint does not answer")
    lease = Lease(gone)
    with pytest.raises(StepFailed, match="CUDA out of memory") as caught:
        measure(lease, unanswered)
    assert caught.value.__cause__ is unanswered
    assert lease.ended == ["end"]


def test_without_a_word_of_the_server_the_error_stays(gone: Endpoint) -> None:
    with pytest.raises(NotReady, match="does not answer"):
        measure(Lease(gone, reason=None), NotReady("the endpoint does not answer"))


def test_an_error_of_the_measuring_itself_stays_what_it_is(gone: Endpoint) -> None:
    with pytest.raises(BadInput, match="no such suite"):
        measure(Lease(gone), BadInput("no such suite"))


def test_a_server_that_goes_on_is_not_blamed() -> None:
    with openai_server(Behaviour()) as url:
        lease = Lease(at(url))
        with pytest.raises(NotReady, match="busy"):
            measure(lease, NotReady("busy"))
    assert lease.looks == 2
