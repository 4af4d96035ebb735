"""OIDC tokens that say who a program is: given as a text or a file, or offered by the CI system or cloud around it.

A token is good for minutes, so it is asked for just before it is used, by the process that starts the step that signs. PyPI
`id` knows where GitHub Actions, GitLab, Google Cloud, Buildkite and CircleCI keep theirs.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from containers.errors import BadInput
from containers.foreign_values import shown

AUDIENCE: Final = "sigstore"  # of every token for Sigstore; a token for somebody else is not sent there
_WAYS: Final = (
    "in GitHub Actions give the job `permissions: id-token: write`, in GitLab `id_tokens: SIGSTORE_ID_TOKEN: aud: sigstore`; "
    "elsewhere set CARWRIGHT_SIGN__IDENTITY_TOKEN or CARWRIGHT_SIGN__IDENTITY_TOKEN_FILE"
)
_NEEDED: Final = ("iss", "sub", "aud", "iat", "exp")
_SKEW: Final = 5  # seconds between two clocks


def ambient_token() -> str:
    """The token that the surroundings of this process offer; raises BadInput where they offer none."""
    import id as oidc  # late: few processes sign

    try:
        found = oidc.detect_credential(AUDIENCE)
    except oidc.IdentityError as error:
        raise BadInput(f"the identity token of this CI job cannot be had: {error}", remedy=_WAYS) from error
    if not found:
        raise BadInput("there is no identity token to sign with", remedy=_WAYS)
    return found


def check_token(token: str, now: datetime | None = None) -> dict[str, Any]:
    """The claims of a token that may be sent; whether they are true is for the certificate authority to say.

    Raises BadInput for one that is no token, has expired, is not valid yet or is for another audience.
    """
    import jwt

    try:
        claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    except jwt.InvalidTokenError as error:
        raise BadInput("the identity token is none: it cannot be read as a JSON Web Token", remedy=_WAYS) from error
    if missing := [name for name in _NEEDED if not claims.get(name)]:
        raise BadInput(f"the identity token says nothing about {', '.join(missing)}", remedy="ask for an ID token")
    audience = claims["aud"]
    if AUDIENCE not in (audience if isinstance(audience, list) else [audience]):
        raise BadInput(
            f"the identity token is for the audience {shown(str(audience))}, not for {AUDIENCE}",
            remedy=f"ask for a token with the audience {AUDIENCE}",
        )
    moment = (now or datetime.now(UTC)).timestamp()
    try:
        start, end = float(claims.get("nbf") or 0), float(claims["exp"])
        ended = datetime.fromtimestamp(end, UTC)
    except (TypeError, ValueError, OverflowError, OSError) as error:
        raise BadInput("the identity token has a date that is none", remedy="ask for a new one") from error
    if end + _SKEW < moment:
        raise BadInput(
            f"the identity token expired at {ended:%Y-%m-%d %H:%M:%S} UTC",
            remedy="tokens are good for minutes: ask for a new one, or give a file that is kept new",
        )
    if start - _SKEW > moment:
        raise BadInput("the identity token is not valid yet", remedy="set the clock of this machine")
    return claims
