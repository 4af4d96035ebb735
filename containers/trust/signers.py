"""Who signs: private keys at hand, keys in a token or a key management service, or a command that signs with its own."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from containers.errors import BadInput
from containers.process import ProcessFailed, run
from containers.signing_settings import pem_text, read_text
from containers.trust.keys import PrivateKey, PublicKey

if TYPE_CHECKING:
    from pathlib import Path

    from containers.signing_settings import SigningSettings

_TIMEOUT: Final = 120.0  # seconds for a command that signs: a person may have to touch a token


class Signer(Protocol):
    """Makes signatures that `public` verifies."""

    @property
    def public(self) -> PublicKey: ...

    def sign(self, message: bytes) -> bytes: ...


@dataclass(frozen=True)
class CommandSigner:
    """A program that gets the message on standard input and prints the signature in base64, as `cosign sign-blob -` does."""

    argv: tuple[str, ...]
    public: PublicKey

    def sign(self, message: bytes) -> bytes:
        try:
            said = run(self.argv, stdin=message.decode(), timeout=_TIMEOUT, most=1 << 16).stdout
        except ProcessFailed as error:
            raise BadInput(f"the command that signs failed: {error.message}", remedy=_COMMAND) from error
        try:
            return base64.b64decode("".join(said.split()), validate=True)
        except binascii.Error as error:
            raise BadInput("the command that signs printed something that is not base64", remedy=_COMMAND) from error


_COMMAND: Final = "check CARWRIGHT_SIGN__COMMAND: it reads a message and prints its signature in base64"


def open_signers(settings: SigningSettings) -> tuple[Signer, ...]:
    """The signers of the settings, each key once; none where nothing is set. Raises BadInput for what cannot sign."""
    password = settings.password.get_secret_value() if settings.password is not None else None
    found: list[Signer] = []
    if settings.key is not None:
        found += PrivateKey.parse_all(settings.key.get_secret_value(), password, "CARWRIGHT_SIGN__KEY")
    if settings.key_file is not None:
        found += PrivateKey.parse_all(read_text(settings.key_file), password, str(settings.key_file))
    if settings.folder is not None:
        found += _in_folder(settings.folder)
    if settings.uri:
        from containers.trust.key_services import open_services

        found += open_services(settings)
    if settings.command:
        if settings.public_key is None:
            raise BadInput(
                "CARWRIGHT_SIGN__COMMAND is set, and not CARWRIGHT_SIGN__PUBLIC_KEY",
                remedy="give the public key of what the command signs with, as a PEM text or a file's name",
            )
        found.append(CommandSigner(settings.command, public_key(settings.public_key, "CARWRIGHT_SIGN__PUBLIC_KEY")))
    return tuple({one.public.fingerprint: one for one in found}.values())


def key_files(settings: SigningSettings) -> dict[str, str]:
    """The private keys of the settings as the files of a folder (`sign.folder`), by name, once they were opened.

    Raises BadInput as `open_signers` does, and for keys that are no files.
    """
    if settings.command or settings.uri or settings.keyless is not None:
        raise BadInput(
            "CARWRIGHT_SIGN__COMMAND, CARWRIGHT_SIGN__URI and CARWRIGHT_SIGN__KEYLESS do not sign here: what they name is of this "
            "machine",
            remedy="unset them, or give a key with CARWRIGHT_SIGN__KEY_FILE",
        )
    open_signers(settings)
    files: dict[str, str] = {}
    for path in sorted(settings.folder.expanduser().iterdir()) if settings.folder is not None else ():
        if path.suffix in {".key", ".password"}:
            files[path.name] = read_text(path)
    given = [settings.key.get_secret_value()] if settings.key is not None else []
    given += [read_text(settings.key_file)] if settings.key_file is not None else []
    for number, text in enumerate(given, start=1):
        files[f"key-{number}.key"] = text
        if settings.password is not None:
            files[f"key-{number}.password"] = settings.password.get_secret_value()
    return files


def _in_folder(folder: Path) -> list[PrivateKey]:
    """The keys of a folder, as a mounted Secret has them (cosign's: cosign.key and cosign.password); at least one."""
    found: list[PrivateKey] = []
    for path in sorted(folder.expanduser().glob("*.key")):
        password = path.with_suffix(".password")
        secret = read_text(password).rstrip("\r\n") if password.exists() else None
        found += PrivateKey.parse_all(read_text(path), secret, str(path))
    if not found:
        raise BadInput(
            f"{folder} holds no key",
            remedy="put a file NAME.key there, and its password into NAME.password; see CARWRIGHT_SIGN__FOLDER",
        )
    return found


def signature_of(signer: Signer, message: bytes) -> bytes:
    """A signature, checked: raises BadInput when the signer signs with another key than it says."""
    made = signer.sign(message)
    if not signer.public.verifies(made, message):
        raise BadInput(
            f"what the signer made is not a signature of the key {signer.public.fingerprint.short}",
            remedy="it signs with another key than the public key that is given for it, or in another way",
        )
    return made


def public_key(text: str, what: str) -> PublicKey:
    """A public key given as PEM text or as the name of a file with it."""
    return PublicKey.parse(pem_text(text), what)
