"""The roles of a run that somebody else serves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flows.serving import endpoint, endpoint_probe
from flows.serving.plan import ServicePlan, vocabulary

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from flows.ship_request import ShipRequest
    from infra.settings import Settings


def plans(  # noqa: PLR0917 - a request, and what is known of its model and of this run
    request: ShipRequest, config: Mapping[str, Any], length: int, settings: Settings, run: str, own: Callable[[], str]
) -> dict[str, ServicePlan]:
    """The roles that the request has a running server for. What it serves may change, so its name is that of this run.

    `config` is the model's, `length` the tokens that the suite needs, `own` names the vLLM that serves the other role. Raises what
    `endpoint` and `endpoint_probe` raise for servers that cannot be compared, or that are not one model.
    """
    urls = {"baseline": request.baseline_endpoint, "candidate": request.candidate_endpoint}
    how = (settings.http, settings.evaluate)
    found = {role: endpoint.find(url, *how) for role, url in urls.items() if url}
    versions = {role: endpoint.vllm_version(one.url, *how) for role, one in found.items()}
    if len(found) == 1:
        version = own().rpartition(" ")[2]
        versions |= {role: version for role in urls if role not in found}
    endpoint.check_same(versions)
    endpoint.check_apart(found)
    for one in found.values():
        endpoint.check_model(one, length, vocabulary(config), *how)
        endpoint_probe.check_replicas(one, *how)
    return {
        role: ServicePlan(
            role=role,
            max_model_len=request.max_model_len,
            endpoint=urls[role],
            server=f"vllm {versions[role]} at {one.url} in the run {run}",
        )
        for role, one in found.items()
    }
