"""Signing without a key of one's own: a certificate of minutes for an OIDC token, and an entry in a transparency log.

PyPI `sigstore` does it: it makes a key that is never stored, gets a certificate for it from the authority that the trust
configuration names, signs, and has the signature logged. The log is public where the authority is: whoever signs with the
public instance tells the world the identity, and the digest of each statement.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urlsplit

from containers.errors import BadInput, NotTrusted, Temporary
from containers.foreign_json import JsonLimits, parse_object
from containers.foreign_values import shown
from containers.identity_token import AUDIENCE, check_token
from containers.network import LOOPBACK_NAMES
from containers.signing_settings import config_text, identity_token
from containers.trust import certified
from containers.trust.dsse import IN_TOTO

if TYPE_CHECKING:
    from collections.abc import Callable

    from sigstore.sign import Signer as Session

    from containers.signing_settings import SigningSettings
    from containers.trust.dsse import Envelope

T = TypeVar("T")
_DEADLINE: Final = 120.0  # seconds for what services must do; the library itself waits for ever
_LIMITS: Final = JsonLimits(size=1 << 20, values=1 << 14)
# The library reads the names of fields in either spelling.
_SERVICES: Final = ("caUrls", "ca_urls", "rekorTlogUrls", "rekor_tlog_urls", "tsaUrls", "tsa_urls")
_BUSY: Final = 429
_NOBODY: Final = "the services of the Sigstore"


class KeylessSigner:
    """Signs statements for whoever the token is about, for the minutes that its certificate is good."""

    def __init__(self, config: str, token: str) -> None:
        """`config` is a client's trust configuration as JSON.

        Raises BadInput for a token or a configuration that cannot be used, and Temporary when a service is not there.
        """
        self._root = certified.read_root(config, "the trust configuration")
        check_token(token)
        _check_services(config)
        self._session: Session = _served(lambda: _open(config, token))
        # The library shows the certificate only in a bundle, and a bundle is an entry in the log for ever.
        certificate = _served(self._session._signing_cert)  # noqa: SLF001
        try:
            self._subject, self._issuer = certified.identity_of(certificate)
            self._repository = certified.repository_of(certificate)
        except NotTrusted as error:
            raise BadInput(f"the certificate that was issued cannot be used: {error.message}") from error

    @property
    def name(self) -> str:
        """Whom the certificate is for, and on whose word."""
        return f"{self._subject} ({self._issuer})"

    def made(self, envelope: Envelope, what: str) -> bool:
        """Whether a bundle is signed for the same identity, in a build for the same repository, and holds."""
        if not envelope.certified:
            return False
        try:
            found = certified.verify(envelope.certified, self._root, what)
        except NotTrusted:
            return False
        whose = (found.subject, found.issuer, found.repository)
        return found.payload_type == IN_TOTO and whose == (self._subject, self._issuer, self._repository)

    def bundle(self, statement: bytes) -> bytes:
        """A bundle around the statement; raises BadInput and Temporary as the constructor does."""
        from sigstore.dsse import Statement

        made = _served(lambda: self._session.sign_dsse(Statement(statement))).to_json().encode()
        certified.verify(made, self._root, "what was signed just now")  # a log that lies is noticed here
        return made


def open_keyless(settings: SigningSettings) -> tuple[KeylessSigner, ...]:
    """The signer of the settings, if they ask for one; raises BadInput and Temporary as `KeylessSigner` does."""
    if settings.keyless is None:
        return ()
    token = identity_token(settings)
    config = config_text(settings.keyless)
    config = certified.public_config() if config == certified.PUBLIC else config
    return (KeylessSigner(config, token),)


def _check_services(config: str) -> None:
    """Raises BadInput where the token or a signature would travel in the open."""
    value = parse_object(config, "the trust configuration", _LIMITS)
    signing = value.get("signingConfig")
    if value.get("mediaType") != certified.CONFIG or not isinstance(signing, dict):
        raise BadInput(
            "the trust configuration says what to trust, and not where to sign",
            remedy=f"give a file with the media type {certified.CONFIG}",
        )
    for section in _SERVICES:
        services = signing.get(section)
        for one in services if isinstance(services, list) else []:
            url = str(one.get("url")) if isinstance(one, dict) else ""
            if not _is_safe(url):
                raise BadInput(
                    f"the trust configuration names {shown(url)}, which is not reached by https",
                    remedy="correct `signingConfig` in it: an identity token is sent there",
                )


def _is_safe(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK_NAMES)


def _open(config: str, token: str) -> Session:
    from sigstore.models import ClientTrustConfig
    from sigstore.oidc import IdentityToken
    from sigstore.sign import Signer, SigningContext

    context = SigningContext.from_trust_config(ClientTrustConfig.from_json(config))
    return Signer(IdentityToken(token, AUDIENCE), context)


def _served(work: Callable[[], T]) -> T:
    """What the services do, within the deadline; their refusals as BadInput and their absence as Temporary."""
    done: list[T] = []
    failed: list[Exception] = []

    def run() -> None:
        try:
            done.append(work())
        except Exception as error:  # noqa: BLE001 -- raised again below, in the thread that waits
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True, name="keyless")
    thread.start()
    thread.join(_DEADLINE)
    if failed:
        raise _meant(failed[0]) from failed[0]
    if not done:
        raise Temporary(f"{_NOBODY} did not answer within {_DEADLINE:.0f} s", remedy="start again later")
    return done[0]


def _meant(error: Exception) -> Exception:
    """The error as one of ours. The library's own keep the answer of a service two causes deep, or not at all."""
    import requests
    from sigstore.errors import VerificationError

    chain: list[BaseException] = [error]
    while (below := chain[-1].__cause__ or chain[-1].__context__) is not None and below not in chain:
        chain.append(below)
    http = next((one for one in (*chain, *_held(chain)) if isinstance(one, requests.HTTPError)), None)
    if http is not None and http.response is not None:
        status, url = http.response.status_code, http.response.url
        told = f"{url} answered {status}: {shown(_message(http.response.text))}"
        if status >= 500 or status == _BUSY:
            return Temporary(told, remedy="start again later")
        return BadInput(told, remedy="the identity token or the trust configuration is not for this service")
    if any(isinstance(one, requests.JSONDecodeError) for one in chain):
        return BadInput(
            f"{_NOBODY} answered something that is not JSON",
            remedy="look at the addresses in the trust configuration, and at the proxy before them",
        )
    if any(isinstance(one, requests.RequestException) for one in chain):
        hosts = {one.request.url for one in chain if isinstance(one, requests.RequestException) and one.request}
        return Temporary(
            f"{', '.join(map(str, hosts)) or _NOBODY} cannot be reached ({type(error).__name__})",
            remedy="look at the network, the proxy and the addresses in the trust configuration; start again later",
        )
    if isinstance(error, VerificationError):
        return BadInput(
            f"what {_NOBODY} issued is not by whom the trust configuration names: {shown(str(error))}",
            remedy="its trusted root is of another Sigstore, or older than a change there: get the file again",
        )
    return BadInput(
        f"{_NOBODY} cannot be used: {shown(' '.join(str(error).split()) or type(error).__name__)}",
        remedy="look at the trust configuration and at the services that it names",
    )


def _held(chain: list[BaseException]) -> list[Any]:
    """Errors that an error was made of."""
    return [argument for one in chain for argument in one.args]


def _message(text: str) -> str:
    try:
        value = parse_object(text, "the answer", _LIMITS)
    except BadInput:
        return " ".join(text.split())[:200]
    return str(value.get("message") or text)
