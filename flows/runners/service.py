"""What outlives a step: a served model with an endpoint, a lease and an end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

from containers.contract import Step
from containers.errors import NotTrusted
from containers.parameters import ServeOptions

if TYPE_CHECKING:
    from containers.contract import StepRequest
    from containers.errors import Error
    from containers.events import OnEvent
    from containers.parameters import Endpoint


class Lease(Protocol):
    """The right to use a service for as long as it is renewed; renewal goes on by itself until `end` or `keep`."""

    @property
    def endpoint(self) -> Endpoint: ...

    @property
    def found(self) -> bool:
        """Whether it was already serving when it was asked for."""
        ...

    @property
    def serves(self) -> bool:
        """Whether it has not ended by itself."""
        ...

    def why_ended(self) -> Error | None:
        """What it said when it ended by itself; None where it serves, or nothing is known."""
        ...

    def end(self) -> None:
        """Stop the service; safe to call twice."""
        ...

    def keep(self) -> None:
        """Leave it serving without a lease, until it is stopped by name."""
        ...


class Services(Protocol):
    """Starts services and finds those that run; reconciled, never cached."""

    def start(self, request: StepRequest, on_event: OnEvent, *, keep: bool = False) -> Lease:
        """Return when the service answers its health check.

        One that already serves the same inputs and parameters is found and taken over; under a policy, once its files were
        compared with what was signed. `keep` says beforehand that it is to outlive this process. Raises what a Launcher
        raises.
        """
        ...

    def stop_all(self, *, kept: bool = False) -> list[str]:
        """Stop what dead runs have left, and with `kept` also what was meant to stay; returns what was stopped."""
        ...


def serves(request: StepRequest) -> bool:
    """Whether the request is for a service; a serve step that checks arguments ends by itself, as all others do."""
    return request.step is Step.SERVE and request.parameters.get("action", "serve") == "serve"


def has_policy(request: StepRequest) -> bool:
    """Whether a policy binds the request, and so a server that is found for it."""
    return bool(ServeOptions.read(request.options).policy)


def refuse_unseen(request: StepRequest, where: str) -> None:
    """Raises NotTrusted under a policy, for a server whose files nobody here can compare."""
    if has_policy(request):
        raise NotTrusted(
            f"the model is served already, {where}: its files cannot be compared with what was signed",
            remedy="stop it (`carwright clean`, where it was started), and serve it again under the policy",
        )


def stage(request: StepRequest, which: Literal["fetch", "serve", "compare"]) -> StepRequest:
    """One half of a request to serve: the half that fetches the model gets the secrets, the half that serves none."""
    options = ServeOptions.read(request.options).model_copy(update={"stage": which})
    return request.model_copy(update={"options": options.dump()})
