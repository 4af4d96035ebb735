"""How a call to the engine is made: what may be asked again is asked again, and what did not come from an engine is none."""

from __future__ import annotations

from typing import Any, Final

import docker
from docker.utils import kwargs_from_env
from requests.exceptions import ChunkedEncodingError
from requests.exceptions import ConnectionError as Disconnected
from urllib3.exceptions import ReadTimeoutError, SSLError
from urllib3.util import Retry

_reached: set[str] = set()  # addresses at which an engine has answered this process


def was_reached(where: str) -> bool:
    """Whether an engine has answered there: one that ends takes its socket along until it is back."""
    return where in _reached


class _Retries(Retry):
    """Not after a full timeout; and nothing that may not be done twice after TLS broke off, which urllib3 takes for "not sent"."""

    def increment(self, method: Any = None, url: Any = None, *arguments: Any, **more: Any) -> Any:
        error = more.get("error")
        if isinstance(error, ReadTimeoutError) or (isinstance(error, SSLError) and method not in _TWICE):
            raise error
        return super().increment(method, url, *arguments, **more)


# An engine that restarts, or a proxy in front of one, loses calls. Looking, putting files and removing may be done twice (RFC 9110,
# 9.2.2); whoever makes, starts or attaches has to clear up and begin again.
_TWICE: Final = ("GET", "HEAD", "PUT", "DELETE")
_RETRIES: Final = _Retries(
    total=4,
    allowed_methods=_TWICE,
    status_forcelist=(500, 502, 503, 504),
    backoff_factor=0.2,  # seconds: 0, 0.4, 0.8, 1.6
    raise_on_status=False,
    respect_retry_after_header=False,  # of a proxy, which may ask for hours
)


class EngineApi(docker.APIClient):  # type: ignore[misc] # the SDK has no types
    """The SDK's client of an engine's API, at `where`; raises what the SDK raises, at once where no engine ever answered."""

    def __init__(self, where: str, environment: dict[str, str], timeout: float) -> None:
        self._retries = _RETRIES if was_reached(where) else Retry(0, read=False)
        super().__init__(
            version="auto", timeout=timeout, use_ssh_client=True, **kwargs_from_env(environment=environment)
        )
        _reached.add(where)
        self._retries = _RETRIES
        for prefix, adapter in list(self.adapters.items()):
            self.mount(prefix, adapter)

    def merge_environment_settings(self, url: Any, proxies: Any, stream: Any, verify: Any, cert: Any) -> Any:
        """Hold the engine's certificate against its own CA: requests lets REQUESTS_CA_BUNDLE outrank a session's."""
        return super().merge_environment_settings(url, proxies, stream, self.verify if verify is None else verify, cert)

    def mount(self, prefix: Any, adapter: Any) -> None:
        adapter.max_retries = self._retries
        super().mount(prefix, adapter)

    def send(self, request: Any, **how: Any) -> Any:
        """Raises ConnectionError for a web page, as proxies answer: an engine says nothing in HTML."""
        try:
            answer = super().send(request, **how)
        except ChunkedEncodingError:  # cut short while it was read, which urllib3 does not see any more
            if request.method not in _TWICE:
                raise
            answer = super().send(request, **how)
        if answer.headers.get("Content-Type", "").startswith("text/html"):
            answer.close()
            raise Disconnected("a web page in place of the engine's answer")
        return answer
