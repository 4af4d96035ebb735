"""The tests' own client of a Prefect API, where a test or a soak runs for longer than its token."""

from __future__ import annotations

import httpx

from tests.support.api_client import Login


def test_a_token_that_has_run_out_is_asked_for_again() -> None:
    """As of the soak's second hour: 403, once, and then the call itself."""
    given = iter(["first", "second", "third"])
    valid, calls = {"first"}, []

    def server(request: httpx.Request) -> httpx.Response:
        calls.append((request.method, request.url.path, request.headers.get("Prefect-Csrf-Token")))
        assert request.headers["Authorization"].startswith("Basic ")
        if request.url.path == "/api/csrf-token":
            return httpx.Response(200, json={"token": next(given)})
        if request.headers["Prefect-Csrf-Token"] not in valid:
            return httpx.Response(403, json={"detail": "Invalid CSRF token or client identifier."})
        return httpx.Response(200, json={})

    api = "http://127.0.0.1/api"
    with httpx.Client(base_url=api, auth=Login(api, "me:secret"), transport=httpx.MockTransport(server)) as client:
        assert client.post("/flow_runs/filter", json={}).status_code == 200
        valid = {"second"}
        assert client.post("/flow_runs/filter", json={}).status_code == 200
        valid = set()
        assert client.post("/flow_runs/filter", json={}).status_code == 403
    post, token = ("POST", "/api/flow_runs/filter"), ("GET", "/api/csrf-token", None)
    assert calls[:5] == [token, (*post, "first"), (*post, "first"), token, (*post, "second")]
