"""Origins, and the one rule about who gets a credential.

A login or token was given for one origin: scheme, host and port (RFC 6454). It goes there and nowhere else, whatever a
redirect, a `Location`, a `Link` or a challenge names. What leads from https to a place without TLS is refused altogether,
with a credential or without. So is a login inside an address that somebody else gave: the client would send it.

A token service is the exception that registries need (distribution specification, "Token authentication"): see `check_realm`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urljoin, urlsplit

from containers.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import MutableMapping

_PORTS: Final = {"http": 80, "https": 443}
_CREDENTIALS: Final = ("Authorization", "Cookie", "Proxy-Authorization")


@dataclass(frozen=True, slots=True)
class Origin:
    """Scheme and host in lower case, and the port even where it is the scheme's own."""

    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, url: Any) -> Origin:
        """The origin of a URL; raises BadInput for one that is not http(s), names no host, or holds a login."""
        text = str(url)
        try:
            parts = urlsplit(text)
            host, port, login = parts.hostname, parts.port, "@" in parts.netloc
        except ValueError as error:
            raise BadInput(f"not a URL: {text!r}: {error}") from error
        if parts.scheme.lower() not in _PORTS or not host:
            raise BadInput(f"not an http(s) URL: {text!r}")
        if (raw := getattr(url, "raw_host", None)) is not None and raw.decode().lower() != host.lower():
            raise BadInput(f"a URL that two readers read differently: {text!r}")  # the client's would decide
        if login:
            raise BadInput(f"the URL holds a login: {text!r}", remedy="give the login in a setting of its own")
        scheme = parts.scheme.lower()
        return cls(scheme, host.rstrip(".").lower(), port if port is not None else _PORTS[scheme])

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}" + ("" if self.port == _PORTS[self.scheme] else f":{self.port}")

    def keep_credentials_here(self, url: Any, headers: MutableMapping[str, str]) -> None:
        """Take the credentials, which are for this origin, out of the headers of a request that goes elsewhere.

        Raises BadInput where the request may not go at all: from https to http, or to what is no plain http(s) URL.
        """
        target = Origin.of(url)
        if target == self:
            return
        if self.scheme == "https" and target.scheme != "https":
            raise BadInput(
                f"{self} leads to {target}, without TLS; nothing was sent there",
                remedy="the server, or a proxy before it, is wrongly configured or hostile",
            )
        for name in _CREDENTIALS:
            headers.pop(name, None)

    def check_realm(self, realm: str) -> Origin:
        """The origin of the token service that this registry names; BadInput where its login may not be sent to.

        Registries keep their tokens on hosts of their own (Docker Hub's is auth.docker.io), and the specification has the
        client send the registry's login to the realm. That is the registry's decision, who could read the login anyway;
        so it goes there, over https. Only a registry that is itself reached without TLS may name a realm without, and
        then on its own host: anywhere else the login would cross a network that it was not given for.
        """
        target = Origin.of(realm)
        if target.scheme == "https" or (self.scheme == "http" and target.host == self.host):
            return target
        raise BadInput(
            f"{self} wants the login sent to {target}, without TLS; it was not sent",
            remedy="the registry must name a token service with https",
        )


def resolve(base: str, url: str) -> str:
    """An address that a server gave, which may be relative (RFC 9110, 10.2.2); BadInput when it is none."""
    try:
        return urljoin(base, url)
    except ValueError as error:
        raise BadInput(f"{Origin.of(base)} names an address that is none: {url!r}") from error
