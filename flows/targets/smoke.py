"""The last look at something that was deployed: does it answer under its URL, by its name."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from containers.errors import NotReady

if TYPE_CHECKING:
    from collections.abc import Callable

PROMPT: Final = "The capital of France is"
_TOKENS: Final = 8
_ANSWER: Final = 120.0  # seconds for one answer: the first one of an engine may compile kernels
_PATIENCE: Final = 60.0  # seconds that a router or a proxy may take to know of a new service
_PAUSE: Final = 1.0


def ask(url: str, model: str, say: Callable[[str], None], *, patience: float = _PATIENCE) -> str:
    """Ask the OpenAI API at `url` (with or without /v1) for a few tokens; what it said.

    Raises NotReady when it is not reached, does not know the model, or has no answer.
    """
    import httpx  # slow to load, and the command line's help has every target loaded

    base = url.rstrip("/").removesuffix("/v1") + "/v1"
    deadline = time.monotonic() + patience
    while True:
        try:
            with httpx.Client(timeout=_ANSWER) as client:
                names = [one["id"] for one in client.get(f"{base}/models").raise_for_status().json()["data"]]
                if model not in names:
                    raise NotReady(f"{base} serves {', '.join(names) or 'nothing'}, and not {model}")
                body = {"model": model, "prompt": PROMPT, "max_tokens": _TOKENS, "temperature": 0}
                answer = client.post(f"{base}/completions", json=body).raise_for_status().json()
                text = str(answer["choices"][0]["text"])
        except (httpx.HTTPError, ValueError, KeyError, IndexError) as error:
            if time.monotonic() < deadline:
                time.sleep(_PAUSE)
                continue
            raise NotReady(
                f"{base} gave no answer: {error or type(error).__name__}",
                remedy="if the URL is reached from elsewhere only, give another with --url",
            ) from error
        if not text.strip():
            raise NotReady(f"{base} answered {PROMPT!r} with nothing")
        say(f"it answers: {PROMPT!r} -> {text!r}")
        return text
