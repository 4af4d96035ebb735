"""What a registry's answers mean, and a connection without one: what is tried again, and what to do about the rest.

Codes of errors are those of the distribution specification ("Error codes"), and what registries have added to them.
"""

from __future__ import annotations

import json
import socket
import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final

import httpx

from containers.errors import BadInput, Error, Temporary
from containers.foreign_text import one_line
from containers.oci import challenges
from containers.oci.repository import ImmutableTag

if TYPE_CHECKING:
    from collections.abc import Iterator

_LONGEST_WAIT: Final = 60.0  # seconds; a registry that asks for more is not worth waiting for
# A part of the registry has not yet seen what another part has stored: passes, whatever the status.
_NOT_YET: Final = frozenset({"MANIFEST_BLOB_UNKNOWN", "BLOB_UPLOAD_UNKNOWN", "TOOMANYREQUESTS", "UNAVAILABLE"})
_IMMUTABLE: Final = ("TAG_INVALID", "IMMUTABLE", "TAGALREADYEXISTS")  # in the code or the message
_ANSWERED: Final = frozenset({"basic", "bearer"})
_MOST_CAUSES: Final = 10


class RetryableError(Temporary):
    """An answer, or none, after which the same request may be sent again; `after` is in seconds.

    `silent`: no answer came in time, so what was asked for may have been done all the same.
    """

    def __init__(self, message: str, *, after: float = 0.0, doctor: str = "", silent: bool = False) -> None:
        remedy = "the registry may be busy; start again later: finished blobs are not sent again"
        super().__init__(message, remedy=remedy, doctor=doctor)
        self.after = after
        self.silent = silent


def explain(response: httpx.Response, what: str, registry: str, repository: str) -> Error:
    """The error of an answer that was not expected."""
    status = response.status_code
    errors = _errors(response)
    said = one_line("; ".join(errors))
    message = f"{registry} answered {status} to {what}" + (f": {said}" if said else "")
    where = f"{registry}/{repository}"
    if status == httpx.codes.TOO_MANY_REQUESTS or status >= httpx.codes.INTERNAL_SERVER_ERROR:
        return RetryableError(message, after=_retry_after(response))
    if status == httpx.codes.REQUEST_TIMEOUT or any(one.partition(" ")[0] in _NOT_YET for one in errors):
        return RetryableError(message)
    if response.request.method == "PUT" and any(word in said.upper() for word in _IMMUTABLE):
        return ImmutableTag(message, remedy="its tags cannot be moved: choose a tag that is not there yet")
    if response.has_redirect_location:
        to = one_line(response.headers["Location"])
        return BadInput(message, remedy=f"it leads to {to}: name the registry by the address that it has now")
    if status == httpx.codes.UNAUTHORIZED and (other := _unknown_schemes(response)):
        return BadInput(
            message,
            remedy=f"it asks for {other}, which Carwright does not speak; it logs in with Basic or Bearer, which the registry "
            "or the proxy before it must offer",
            doctor="registry",
        )
    remedies = {
        401: f"log in with `docker login {registry}` or `podman login {registry}`, "
        f"or set CARWRIGHT_REGISTRY__HOST={registry} and CARWRIGHT_REGISTRY__USERNAME and __PASSWORD",
        403: f"the login is not allowed to do this in {where}; ask its owner for the permission",
        404: f"check the name {where}; some registries require the repository to exist",
        413: "the registry, or a proxy in front of it, accepts no bodies of this size: raise its limit, or use smaller shards",
    }
    return BadInput(message, remedy=remedies.get(status, ""), doctor="registry" if status in (401, 403) else "")


class UnknownHost(BadInput):
    """Nobody here knows the registry by this name."""


def broken(host: str, error: httpx.TransportError) -> Error:
    """The error of a request without an answer; what TLS refuses and names that nobody knows are not worth another attempt."""
    text = str(error)
    if "CERTIFICATE_VERIFY_FAILED" in text:
        remedy = "name the bundle of its certificate authority in SSL_CERT_FILE"
    elif "SSL: WRONG_VERSION_NUMBER" in text or "SSL: RECORD_LAYER_FAILURE" in text:
        remedy = "it seems to serve without TLS: add it to CARWRIGHT_REGISTRY__PLAIN_HTTP"
    elif unresolved(error, host):
        return UnknownHost(
            f"{host}: this machine does not know the name ({text})",
            remedy="check the name; the name of a container is known in its network alone: use the address that this machine "
            "has for it, such as localhost:PORT",
            doctor="registry",
        )
    else:
        silent = isinstance(error, httpx.ReadTimeout)
        return RetryableError(f"{host}: {_reason(error)}", doctor="registry", silent=silent)
    return BadInput(f"{host}: TLS failed: {text}", remedy=remedy, doctor="registry")


def unresolved(error: BaseException, host: str) -> bool:
    """Whether a name was looked up and is not known. A resolver that does not answer may do so later, save for the name of a
    container, which has no dot and which no resolver of this machine will ever know.
    """
    cause: BaseException | None = error
    for _ in range(_MOST_CAUSES):
        if isinstance(cause, socket.gaierror):
            return cause.errno != socket.EAI_AGAIN or "." not in host.rpartition("//")[2].partition(":")[0]
        cause = cause.__cause__ or cause.__context__ if cause is not None else None
    return False


def _reason(error: httpx.TransportError) -> str:
    if isinstance(error, httpx.ConnectError):
        return f"cannot connect: {error}"
    if isinstance(error, httpx.TimeoutException):
        return "no answer in time"
    return f"the connection was lost: {error or type(error).__name__}"


def _errors(response: httpx.Response) -> tuple[str, ...]:
    """What the answer's body says: a code and a message each."""
    try:
        return tuple(_said(json.loads(response.content)["errors"]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, httpx.ResponseNotRead):
        return ()


def _said(errors: list[dict[str, str]]) -> Iterator[str]:
    for one in errors:
        yield f"{one.get('code', '')} {one.get('message', '')}".strip()


def _unknown_schemes(response: httpx.Response) -> str:
    """The schemes of a 401, where we know none of them."""
    offered = {one.scheme for one in challenges.parse(response.headers.get("WWW-Authenticate", ""))}
    return "" if not offered or offered & _ANSWERED else one_line(", ".join(sorted(offered)))


def _retry_after(response: httpx.Response) -> float:
    """Seconds to wait (RFC 9110, 10.2.3), at most a minute."""
    value = response.headers.get("Retry-After", "")
    if value.isascii() and value.isdigit():
        return min(float(value), _LONGEST_WAIT)
    try:
        seconds = parsedate_to_datetime(value).timestamp() - time.time()
    except (ValueError, TypeError, OverflowError, IndexError):
        return 0.0
    return min(max(seconds, 0.0), _LONGEST_WAIT)
