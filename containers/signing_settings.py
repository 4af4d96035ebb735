"""The settings of whoever signs, and how they reach the promote step."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from containers.errors import BadInput
from containers.identity_token import ambient_token
from containers.process import inherited
from containers.setting_types import Token

_LARGEST: Final = 1 << 20  # bytes of a file with keys
_KEY, _KEY_FILE, _PUBLIC_KEY, _URI, _CLIENT = (
    f"CARWRIGHT_SIGN__{name}" for name in ("KEY", "KEY_FILE", "PUBLIC_KEY", "URI", "CLIENT")
)
_KEYLESS, _TOKEN, _TOKEN_FILE = (
    f"CARWRIGHT_SIGN__{name}" for name in ("KEYLESS", "IDENTITY_TOKEN", "IDENTITY_TOKEN_FILE")
)
# By these variables the clients of key management services are configured, and know who asks.
_OF_CLIENTS: Final = {"awskms": "AWS_", "gcpkms": "GOOGLE_", "azurekms": "AZURE_", "hv": "VAULT_"}


class SigningSettings(BaseModel):
    """Keys that sign what is promoted: all that are given. Only the promote step gets them."""

    model_config = ConfigDict(extra="forbid")

    key: SecretStr | None = Field(
        default=None,
        description="private keys as PEM text, one or more: cosign's encrypted ones, or plain ones",
    )
    key_file: Path | None = Field(default=None, description="file with such keys, as `carwright keys new` writes it")
    password: SecretStr | None = Field(
        default=None,
        description="password of the encrypted keys",
    )
    folder: Path | None = Field(
        default=None,
        description="folder with such keys on the machine that promotes, each NAME.key with its password in NAME.password; "
        "docker.signing_volume and kubernetes.signing_secret set it",
    )
    uri: str = Field(
        default="",
        description="keys in a token (pkcs11:token=NAME;id=%02) or a service (awskms:alias/NAME, ...), separated by spaces",
    )
    pkcs11_module: Path | None = Field(
        default=None, description="PKCS #11 library of the token, on the machine that promotes"
    )
    pin: SecretStr | None = Field(default=None, description="PIN of the token")
    client: SecretStr | None = Field(
        default=None,
        description="variables for the client of the service or the library of the token, as lines NAME=VALUE; unset: the AWS_, GOOGLE_, "
        "AZURE_ or VAULT_ variables set here, by the service of `uri`",
    )
    command: tuple[str, ...] = Field(
        default=(),
        description="command that signs with a key of its own: it reads the message and prints the signature in base64",
    )
    public_key: str | None = Field(
        default=None,
        description="public key of that command, as PEM text or the name of a file; a token or a service is asked for its own",
    )
    keyless: str | None = Field(
        default=None,
        description="sign without a key, by a certificate for an identity token: `public` (Sigstore's public instance), or a file with "
        "the client trust configuration of another",
    )
    identity_token: Token = Field(
        default=None,
        description="OIDC token for keyless signing, with the audience sigstore; unset: the one of the CI job or cloud",
    )
    identity_token_file: Path | None = Field(
        default=None, description="file with such a token, read anew each time, such as one that a cluster renews"
    )


def identity_token(settings: SigningSettings) -> str:
    """The token for keyless signing: the one given, else that of the file, else that of the CI job or cloud. Raises BadInput."""
    if settings.identity_token is not None:
        return str(settings.identity_token.get_secret_value())
    file = settings.identity_token_file
    return read_text(file).strip() if file is not None else ambient_token()


def hand_over_keys(plain: dict[str, str], secret: dict[str, str]) -> None:
    """Put the contents of key files in the place of their names, since a step may run where the files are not; and add what
    the client of a key management service reads from the environment here, which no step inherits.

    `plain` and `secret` are the variables of a step. Raises BadInput for a file that cannot be read.
    """
    if _URI in plain and _CLIENT not in secret and (variables := _of_clients(plain[_URI])):
        secret[_CLIENT] = "\n".join(f"{name}={value}" for name, value in sorted(variables.items()))
    if _KEY_FILE in plain:
        secret[_KEY] = "\n".join(filter(None, (secret.get(_KEY), read_text(Path(plain.pop(_KEY_FILE))))))
    if _PUBLIC_KEY in plain:
        plain[_PUBLIC_KEY] = pem_text(plain[_PUBLIC_KEY])
    token_file = plain.pop(_TOKEN_FILE, None)
    if _KEYLESS in plain:
        plain[_KEYLESS] = config_text(plain[_KEYLESS])
        if _TOKEN not in secret:
            secret[_TOKEN] = read_text(Path(token_file)).strip() if token_file else ambient_token()


def _of_clients(uris: str) -> dict[str, str]:
    prefixes = tuple({_OF_CLIENTS[one] for uri in uris.split() if (one := uri.partition(":")[0]) in _OF_CLIENTS})
    found = {name: value for name, value in inherited(*prefixes).items() if prefixes and name.startswith(prefixes)}
    # One of several lines would not be read as one; no client takes such.
    return {name: value for name, value in found.items() if len(value.splitlines()) <= 1}


def pem_text(text: str) -> str:
    """A public key given as PEM text, or as the name of a file with it; raises BadInput as `read_text` does."""
    return text if "-----BEGIN" in text else read_text(Path(text))


def config_text(text: str) -> str:
    """A client's trust configuration given as JSON or as a file's name; `public` stays the word. Raises BadInput."""
    return text if text == "public" or text.lstrip().startswith("{") else read_text(Path(text))


def read_text(path: Path) -> str:
    """A small text file, such as one with keys; raises BadInput when it cannot be read."""
    try:
        with path.expanduser().open("rb") as file:
            content = file.read(_LARGEST + 1)
        if len(content) > _LARGEST:
            raise BadInput(f"{path} has more than {_LARGEST} bytes", remedy="check the file's name")
        return content.decode()
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}", remedy="check the file's name and its mode") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is not text", remedy="check the file's name") from error
