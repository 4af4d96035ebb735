"""Who we are to a registry: the settings, then the login files and credential helpers of docker and podman.

Formats: Docker's config.json ("auths", "credHelpers", "credsStore"; a value is base64 of `user:password`, or an
`identitytoken`), which containers-auth.json(5) extends by keys that name a part of a registry.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pydantic import SecretStr

from containers.errors import BadInput
from containers.process import run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from containers.settings import StepSettings

_TOKEN_USER: Final = "<token>"  # noqa: S105 -- what a helper answers as user name when the secret is an identity token
DOCKER_HUB: Final = "docker.io"
DOCKER_HUB_API: Final = "registry-1.docker.io"  # where what references call docker.io answers
_DOCKER_HUB: Final = (DOCKER_HUB, DOCKER_HUB_API, "index.docker.io")


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user name and password; or, with an empty user name, an identity token (OAuth2 refresh token)."""

    username: str
    secret: SecretStr

    @property
    def basic(self) -> str:
        """The value of an Authorization header (RFC 7617)."""
        pair = f"{self.username}:{self.secret.get_secret_value()}"
        return "Basic " + base64.b64encode(pair.encode()).decode()


def find_credentials(registry: str, repository: str, settings: StepSettings) -> Credentials | None:
    """The login for a repository; None to go without. Raises BadInput for a login file that cannot be read.

    A login in the settings is for the registry that they name, and a login file names the registry of each of its logins.
    """
    own = settings.registry
    if own.username is not None and not own.host:
        raise BadInput(
            "the user name in the settings (CARWRIGHT_REGISTRY__USERNAME) is for no registry in particular, so it was sent to none",
            remedy=f"name the registry that it is for: CARWRIGHT_REGISTRY__HOST={registry}",
        )
    if own.username is not None and _same(own.host, registry):
        return Credentials(own.username, own.password or SecretStr(""))
    for path in _files(settings):
        found = _from_file(path, registry, repository)
        if found is not None:
            return found
    return None


def _same(host: str, registry: str) -> bool:
    """Whether the host that a login was given for is this registry."""
    one, other = (name.lower() for name in (host, registry))
    return one == other or (one in _DOCKER_HUB and other in _DOCKER_HUB)


def _files(settings: StepSettings) -> Iterator[Path]:
    """Where docker and podman keep logins; a file that the settings name must exist, the others may."""
    named = settings.registry.auth_file
    if named is not None:
        if not named.expanduser().is_file():
            raise BadInput(
                f"the login file {named} does not exist", remedy="log in with `docker login` or `podman login`"
            )
        yield named.expanduser()
        return
    home = Path("~").expanduser()
    usual = (
        (settings.docker_config or home / ".docker").expanduser() / "config.json",
        Path(f"/run/user/{os.getuid()}/containers/auth.json"),
        Path(f"/run/containers/{os.getuid()}/auth.json"),
        home / ".config/containers/auth.json",
    )
    yield from (path for path in usual if path.is_file())


def _from_file(path: Path, registry: str, repository: str) -> Credentials | None:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise BadInput(f"cannot read the login file {path}: {error}", remedy="log in again") from error
    if not isinstance(content, dict):
        raise BadInput(f"the login file {path} is not a JSON object", remedy="log in again")
    auths: dict[str, Any] = content.get("auths") or {}
    helpers: dict[str, str] = content.get("credHelpers") or {}
    for key in _keys(registry, repository):
        if key in helpers:
            return _ask(helpers[key], key)
        entry = auths.get(key)
        if isinstance(entry, dict) and (entry.get("auth") or entry.get("identitytoken")):
            return _decode(entry, path, key)
    store = content.get("credsStore")
    if store:
        for key in _keys(registry, ""):
            found = _ask(store, key)
            if found is not None:
                return found
    return None


def _keys(registry: str, repository: str) -> Iterator[str]:
    """Names under which a login may stand, the most specific first."""
    parts = repository.split("/") if repository else []
    for end in range(len(parts), 0, -1):
        yield "/".join([registry, *parts[:end]])
    yield registry
    yield f"https://{registry}"
    if registry in _DOCKER_HUB:
        yield from ("docker.io", "https://index.docker.io/v1/", "index.docker.io")


def _decode(entry: dict[str, Any], path: Path, key: str) -> Credentials:
    token = entry.get("identitytoken")
    if token:
        return Credentials("", SecretStr(str(token)))
    try:
        name, colon, secret = base64.b64decode(str(entry["auth"]), validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError) as error:
        raise BadInput(
            f"the login for {key} in {path} is not base64 of user:password", remedy="log in again"
        ) from error
    if not colon:
        raise BadInput(f"the login for {key} in {path} is not base64 of user:password", remedy="log in again")
    return Credentials(name, SecretStr(secret.rstrip("\0")))


def _ask(helper: str, server: str) -> Credentials | None:
    """What a credential helper (docker-credential-NAME, on the PATH) answers; None when it knows nothing."""
    if "/" in helper:
        raise BadInput(f"{helper!r} is not the name of a credential helper")
    done = run([f"docker-credential-{helper}", "get"], stdin=server, timeout=60, check=False)
    if done.code != 0:
        return None
    try:
        answer = json.loads(done.stdout)
        name, secret = str(answer["Username"]), str(answer["Secret"])
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(f"docker-credential-{helper} returned no login for {server}") from error
    return Credentials("" if name == _TOKEN_USER else name, SecretStr(secret))
