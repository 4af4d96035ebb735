"""The health check of a served model: where it answers, and how often and how long to ask."""

from __future__ import annotations

from typing import Final

HEALTH_PATH: Final = "/health"  # of vLLM; it answers 200 once the model is loaded
HEALTH_TIMEOUT: Final = 5  # seconds for one answer
STARTUP_PERIOD: Final = 10  # seconds between two probes while the model is loading


def startup_tries(seconds: int) -> int:
    """Probes that may fail before a server that needs up to `seconds` to load its model counts as failed."""
    return -(-seconds // STARTUP_PERIOD)


def health_url(url: str) -> str:
    """Where a server tells its health; `url` is its address or the base of its OpenAI API."""
    return url.rstrip("/").removesuffix("/v1") + HEALTH_PATH


def is_healthy(url: str) -> bool:
    """Whether the server at `url` (see `health_url`) answers and has loaded its model."""
    import httpx  # slow to load, and what only writes a probe down needs none

    try:
        return httpx.get(health_url(url), timeout=HEALTH_TIMEOUT).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False
