"""Keys that never leave where they are: in a token (PKCS #11) or a key management service, through securesystemslib.

A key is named by a URI. Tokens have `pkcs11:token=NAME;id=%02` (RFC 7512), which securesystemslib writes `hsm:2?label=NAME`;
services have `awskms:`, `gcpkms:`, `azurekms:` and `hv:` as it defines them, and where cosign writes the same key otherwise
(`awskms:///alias/NAME`, `gcpkms://projects/...`, `hashivault://NAME`) that is taken, too. What is signed is hashed here; only the
digest goes there.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, unquote_to_bytes, urlencode

from containers.errors import BadInput, Error, Temporary
from containers.foreign_text import one_line
from containers.process import export
from containers.trust.keys import PublicKey

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic import SecretStr

    from containers.signing_settings import SigningSettings

# By scheme: what holds the key, and the package that asks it where Carwright has none.
_SERVICES: Final = {
    "hsm": ("the token", ""),
    "awskms": ("AWS KMS", ""),
    "gcpkms": ("Google Cloud KMS", "google-cloud-kms"),
    "azurekms": ("Azure Key Vault", "azure-identity and azure-keyvault-keys"),
    "hv": ("HashiCorp Vault", "hvac"),
}
_EXAMPLES: Final = "pkcs11:token=NAME;id=%02, awskms:alias/NAME, gcpkms:projects/..., azurekms://NAME.vault.azure.net/keys/..., hv:NAME/1"
# How signatures are made that `PublicKey.verifies` checks, as securesystemslib calls it. RSA keys may do it otherwise.
_SCHEMES: Final = (
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "ed25519",
    "rsa-pkcs1v15-sha256",
)
_KIND: Final = (
    "make an ECDSA key on P-256 (in AWS ECC_NIST_P256, in Google EC_SIGN_P256_SHA256): cosign and podman read it"
)
_PIN: Final = "CARWRIGHT_SIGN__PIN"
_PKCS11: Final = "CARWRIGHT_SIGN__PKCS11_MODULE"

# What the library says of a failure, it also logs.
logging.getLogger("securesystemslib").addHandler(logging.NullHandler())


@dataclass(frozen=True)
class ServiceSigner:
    """A key in a token or a service; `public` is what it said, or what was given for it."""

    uri: str
    public: PublicKey
    _signer: Any = field(repr=False, compare=False)

    def sign(self, message: bytes) -> bytes:
        """Raises BadInput when it refuses, and Temporary when it cannot be reached."""
        try:
            return bytes.fromhex(self._signer.sign(message).signature)
        except Exception as error:
            raise _refused(self.uri, error) from error


def open_services(settings: SigningSettings) -> list[ServiceSigner]:
    """The keys that `sign.uri` names. Raises BadInput for a URI or a key that cannot sign, and Temporary."""
    uris = settings.uri.split()
    if not uris:
        return []
    export(_client(settings.client))
    return [_open(one, translated(one), settings.pin, settings.pkcs11_module) for one in uris]


def translated(uri: str) -> str:
    """The URI as securesystemslib writes it; raises BadInput for one that names no key."""
    scheme, _, rest = uri.partition(":")
    if scheme == "pkcs11":
        return _of_token(uri, rest)
    if scheme == "hashivault":
        scheme = "hv"
    if scheme not in _SERVICES or not rest:
        raise BadInput(f"{_shown(uri)} names no key", remedy=f"CARWRIGHT_SIGN__URI takes {_EXAMPLES}")
    if scheme == "awskms" and rest.startswith("//") and not rest.startswith("///"):
        raise BadInput(
            f"{_shown(uri)} names an endpoint", remedy="set AWS_ENDPOINT_URL_KMS, and leave it out: awskms:///KEY"
        )
    return f"{scheme}:{rest if scheme == 'azurekms' else rest.lstrip('/')}"


def _of_token(uri: str, rest: str) -> str:
    """A URI of RFC 7512 as the library has it: the token by its label, the key by its id."""
    path, _, query = rest.partition("?")
    named = {name: unquote_to_bytes(value) for name, _, value in (one.partition("=") for one in path.split(";"))}
    if query:
        first = parse_qsl(query, keep_blank_values=True)[0][0] if "=" in query else query
        where = {"module-path": _PKCS11, "pin-value": _PIN, "pin-source": _PIN}.get(first)
        raise BadInput(
            f"{_shown(uri)} has a query, and URIs are shown",
            remedy=f"set {where} instead" if where else f"set {_PKCS11} and {_PIN} instead",
        )
    key = named.pop("id", b"")
    token = named.pop("token", b"")
    named.pop("type", None)
    if named or not key or not token or key[0] == 0:
        why = f"has {', '.join(sorted(named))}" if named else "has no id of a key, or no token"
        raise BadInput(
            f"{_shown(uri)} {_shown(why)}",
            remedy="name the token by its label and the key by its id: pkcs11:token=NAME;id=%02",
        )
    return f"hsm:{int.from_bytes(key)}?{urlencode({'label': token.decode(errors='replace')})}"


def _client(given: SecretStr | None) -> dict[str, str]:
    lines = [one.strip() for one in (given.get_secret_value() if given is not None else "").splitlines()]
    for number, line in enumerate(lines, start=1):
        if line and not line.partition("=")[0].isidentifier():
            raise BadInput(  # without the line, which may be a secret
                f"line {number} of CARWRIGHT_SIGN__CLIENT sets no variable", remedy="its lines are NAME=VALUE"
            )
    return dict(line.partition("=")[::2] for line in lines if line)


def _open(given: str, uri: str, pin: SecretStr | None, module: Path | None) -> ServiceSigner:
    """The key of the translated URI; `given` is how the user named it."""
    from securesystemslib.signer import Signer

    if uri.startswith("hsm:"):
        if module is None:
            raise BadInput(
                f"{_shown(given)} is in a token, and {_PKCS11} is not set", remedy="name its maker's library"
            )
        if pin is None:
            raise BadInput(f"{_shown(given)} is in a token, and {_PIN} is not set", remedy="set it")
        export({"PYKCS11LIB": str(module.expanduser().absolute())})

    def entered(_: str) -> str:
        return pin.get_secret_value() if pin is not None else ""

    try:
        key = _ask(uri, entered)
        signer = Signer.from_priv_key_uri(uri, key, entered)
    except Exception as error:
        raise _refused(given, error) from error
    public = PublicKey.parse(key.keyval["public"] if "BEGIN" in key.keyval["public"] else _pem(key), _shown(given))
    if key.scheme not in _SCHEMES:
        raise BadInput(f"{_shown(given)} signs with {key.scheme}, which is not read here", remedy=_KIND)
    return ServiceSigner(given, public, signer)


def _ask(uri: str, pin: Any) -> Any:
    """The public key, from where the private one is (an SSlibKey)."""
    from securesystemslib.signer import AWSSigner, AzureSigner, GCPSigner, HSMSigner, VaultSigner

    scheme, _, rest = uri.partition(":")
    if scheme == "hsm":
        number, _, query = rest.partition("?")
        return HSMSigner.import_(int(number), dict(parse_qsl(query)).get("label"), pin)[1]
    if scheme == "awskms":
        key = AWSSigner.import_(rest)[1]
        # An RSA key does both, and the library would take the other.
        return key if key.keytype != "rsa" else AWSSigner.import_(rest, "rsa-pkcs1v15-sha256")[1]
    if scheme == "gcpkms":
        return GCPSigner.import_(rest)[1]
    if scheme == "azurekms":
        vault, _, name = rest.removeprefix("//").partition(".vault.azure.net/keys/")
        return AzureSigner.import_(vault, name.partition("/")[0])[1]
    return VaultSigner.import_(rest.partition("/")[0])[1]


def _pem(key: Any) -> str:
    """Of a key that the library keeps as bare bytes (Ed25519, in hex)."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    return PublicKey(Ed25519PublicKey.from_public_bytes(bytes.fromhex(key.keyval["public"]))).pem


def _refused(uri: str, error: Exception) -> Error:
    """What went wrong, in one line. Clients of services raise what they like."""
    scheme = translated(uri).partition(":")[0]
    why = {"hsm": _of_the_token, "awskms": _of_aws}.get(scheme, _of_others)
    kind, said, remedy = why(error, scheme)
    return kind(f"{_SERVICES[scheme][0]} does not sign with {_shown(uri)}: {one_line(said)}", remedy=remedy)


def _of_the_token(error: Exception, scheme: str) -> tuple[type[Error], str, str]:
    from pkcs11.exceptions import PinIncorrect, PinLocked, PKCS11Error

    if isinstance(error, PinLocked):
        return BadInput, "its PIN is locked", "unlock it with the tool of its maker"
    if isinstance(error, PinIncorrect):
        return BadInput, "the PIN is wrong", f"check {_PIN}: a token locks itself after a few wrong ones"
    if isinstance(error, PKCS11Error):
        return BadInput, str(error) or type(error).__name__, f"check {_PKCS11}, the token and its key"
    return _of_others(error, scheme)


def _of_aws(error: Exception, scheme: str) -> tuple[type[Error], str, str]:
    from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
    from botocore.exceptions import ConnectionError as NotConnected

    if isinstance(error, HTTPClientError | NotConnected):
        return Temporary, str(error), "try again, or check the network and the endpoint"
    if isinstance(error, ClientError):
        code = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        passes = code >= 500 or code == 429 or "Throttling" in str(error)
        return (
            Temporary if passes else BadInput,
            str(error),
            "check the key's name, its state and who may sign with it",
        )
    if isinstance(error, BotoCoreError):  # no region, no login, a profile that is not there
        return BadInput, str(error), "set AWS_REGION and a login as for aws; CARWRIGHT_SIGN__CLIENT hands others on"
    return _of_others(error, scheme)


def _of_others(error: Exception, scheme: str) -> tuple[type[Error], str, str]:
    from securesystemslib.exceptions import UnsupportedLibraryError

    package = _SERVICES[scheme][1]
    if isinstance(error, UnsupportedLibraryError):
        return (
            BadInput,
            f"Carwright does not include {package or 'its client'}",
            "let cosign sign: CARWRIGHT_SIGN__COMMAND (docs/trust.md)"
            + (f"; or install {package} where `carwright sign` runs" if package else ""),
        )
    said = str(error) or type(error).__name__
    return BadInput, said, _KIND if "support" in said or "ECDSA" in said else f"CARWRIGHT_SIGN__URI takes {_EXAMPLES}"


def _shown(text: str) -> str:
    return one_line(text)[:200]
