"""The key of a measured endpoint: OpenAI's `Authorization: Bearer`, for the one endpoint that the settings name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from containers.errors import BadInput
from containers.web.origins import Origin

if TYPE_CHECKING:
    from collections.abc import Mapping

    from containers.settings import EvaluateSettings

REFUSED: Final = (401, 403)  # what an endpoint answers to no key, or to another one


def authorization(settings: EvaluateSettings, url: str) -> Mapping[str, str]:
    """The headers for requests to the endpoint at `url`: none where the key is for another one, or where there is no key.

    Raises BadInput for a key that is for no endpoint in particular: it would go to whatever is measured.
    """
    if settings.api_key is None:
        return {}
    if settings.api_key_for is None:
        raise BadInput(
            "the key in the settings (CARWRIGHT_EVALUATE__API_KEY) is for no endpoint in particular, so it was sent to none",
            remedy=f"name the endpoint that it is for: CARWRIGHT_EVALUATE__API_KEY_FOR={Origin.of(url)}",
        )
    if Origin.of(settings.api_key_for) != Origin.of(url):
        return {}
    return {"Authorization": f"Bearer {settings.api_key.get_secret_value()}"}


def needs_key(url: str, status: int) -> BadInput:
    """The error of an endpoint that lets nobody in without a key, or not with this one."""
    return BadInput(
        f"{url} wants a key, or another one (it answered {status})",
        remedy=f"set CARWRIGHT_EVALUATE__API_KEY and CARWRIGHT_EVALUATE__API_KEY_FOR={Origin.of(url)}",
    )
