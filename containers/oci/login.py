"""How one repository of a registry is logged in to: what its 401s ask for, and the tokens that answer them.

Authentication is the distribution specification's: Basic sends the login, Bearer fetches a token for it (GET with the login,
or POST with a refresh token, as Docker's token specification says). Login and tokens go to the registry alone, and to the
token service that the registry itself names (`containers.web.origins`): not to where an upload or a blob is redirected, and a
401 from there is not answered.
"""

from __future__ import annotations

import re
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import httpx

from containers.errors import BadInput
from containers.oci import challenges
from containers.oci.answers import broken, explain
from containers.oci.credentials import Credentials, find_credentials
from containers.web.exchange import Exchange
from containers.web.origins import Origin

if TYPE_CHECKING:
    from collections.abc import Sequence

    from containers.oci.challenges import Challenge
    from containers.settings import StepSettings

_TOKEN_LIFE: Final = 60.0  # seconds; what a token lives when the answer does not say (Docker's token specification)
_TOKEN_LONGEST: Final = 86400.0  # seconds; whatever the answer says
_TOKEN: Final = re.compile(r"[\x21-\x7e]{1,65536}")  # what fits in a header (RFC 6750, 2.1, is stricter)
_TOKEN_ANSWER: Final = 1 << 20  # bytes


@dataclass
class _Token:
    value: str
    until: float


class Login:
    """The login of one repository at `home`, with the permission for `actions`; may be used from several threads."""

    def __init__(  # noqa: PLR0917 -- who asks whom for what
        self, registry: str, repository: str, actions: str, home: Origin, client: httpx.Client, settings: StepSettings
    ) -> None:
        self._registry = registry
        self._repository = repository
        self._actions = actions
        self._home = home
        self._client = client
        self._settings = settings
        self._lock = threading.Lock()
        self._challenge: Challenge | None = None
        self._credentials: Credentials | None = None
        self._asked = False
        self._tokens: dict[str, _Token] = {}

    def challenged(self, response: httpx.Response) -> bool:
        """Take note of what a 401 asks for; False when we have already answered it and are still not welcome.

        Only the registry itself may ask: what it redirects to would have us fetch a token for it wherever it likes.
        """
        if Origin.of(response.request.url) != self._home:
            return False
        offered = challenges.parse(response.headers.get("WWW-Authenticate", ""))
        with self._lock:
            if not self._asked:
                self._credentials = find_credentials(self._registry, self._repository, self._settings)
                self._asked = True
            sent = response.request.headers.get("Authorization")
            answerable = self._answerable(offered)
            if answerable is not None and answerable.scheme == "basic":
                self._challenge = answerable
                return self._credentials is not None and sent != self._credentials.basic
            if sent is not None and sent not in {f"Bearer {one.value}" for one in self._tokens.values()}:
                return True  # another thread has fetched a new token since
            if answerable is not None:
                self._challenge = answerable
            elif self._challenge is None or not self._tokens:
                return False
            self._tokens.clear()  # what we have is not, or no longer, accepted
            return True

    def _answerable(self, offered: Sequence[Challenge]) -> Challenge | None:
        """The challenge to answer: a token rather than the login itself, and the login where there is no token to be had.

        Raises BadInput where all that is offered is a token service that may not get the login.
        """
        refused: BadInput | None = None
        for one in offered:
            if one.scheme != "bearer" or "realm" not in one.parameters:
                continue
            try:
                self._home.check_realm(one.parameters["realm"])
            except BadInput as error:  # some name a realm that is no address, and mean Basic
                refused = error
            else:
                return one
        basic = next((one for one in offered if one.scheme == "basic"), None)
        if basic is not None and (self._credentials is None or self._credentials.username):
            return basic
        if refused is not None:
            raise refused
        return None

    def headers(self, mount_from: str) -> dict[str, str]:
        """What to send along with a request that reads, besides the repository itself, `mount_from`."""
        with self._lock:
            if self._challenge is None:
                return {}
            if self._challenge.scheme == "basic":
                return {"Authorization": self._credentials.basic} if self._credentials else {}
            token = self._tokens.get(mount_from)
            if token is None or token.until < time.monotonic():
                token = self._tokens[mount_from] = self._fetch_token(self._challenge.parameters, mount_from)
            return {"Authorization": f"Bearer {token.value}"}

    def _fetch_token(self, parameters: dict[str, str], mount_from: str) -> _Token:
        realm = parameters["realm"]
        service = Exchange(
            self._client, self._home.check_realm(realm), self._settings.http, self._settings.registry.timeout
        )
        scopes = [f"repository:{self._repository}:{self._actions}"]
        scopes += [f"repository:{mount_from}:pull"] if mount_from else []
        query: dict[str, Any] = {"scope": scopes, "client_id": "carwright"}
        if "service" in parameters:
            query["service"] = parameters["service"]
        who = self._credentials
        try:
            if who is not None and not who.username:
                form = query | {
                    "scope": " ".join(scopes),
                    "grant_type": "refresh_token",
                    "refresh_token": who.secret.get_secret_value(),
                }
                request = self._client.build_request("POST", realm, data=form)
            else:
                login = {"Authorization": who.basic} if who else {}
                url = httpx.URL(realm)
                request = self._client.build_request("GET", url.copy_merge_params(query), headers=login)
            response = service.small(request, limit=_TOKEN_ANSWER)
        except httpx.TransportError as error:
            raise broken(str(service.home), error) from error
        except httpx.InvalidURL as error:
            raise BadInput(f"{self._registry} names a token service that is no URL: {realm!r}") from error
        if response.status_code != httpx.codes.OK:
            raise explain(response, "the login", self._registry, self._repository)
        try:
            body = response.json()
            value = str(body.get("token") or body["access_token"])
        except (ValueError, KeyError, AttributeError, RecursionError) as error:
            raise BadInput(f"{service.home} answered a login without a token") from error
        if not _TOKEN.fullmatch(value):
            raise BadInput(f"{service.home} answered a login with a token that fits in no header")
        life = body.get("expires_in")
        seconds = float(life) if isinstance(life, (int, float)) and 0 <= life <= _TOKEN_LONGEST else _TOKEN_LIFE
        return _Token(value, time.monotonic() + 0.75 * seconds)
