"""`carwright keys` and `sign`, and what `verify` says about signatures."""

from __future__ import annotations

import getpass
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from containers import private
from containers.errors import BadInput
from containers.signing_settings import read_text
from containers.trust.policy import Policy, Requirements
from containers.trust.statement import MODEL, SIGNATURE, name_of
from flows.cli import terminal
from flows.cli.options import Json  # noqa: TC001 -- typer reads the annotation
from infra.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from containers.digest import Digest
    from containers.store import Manifest
    from containers.trust.keyless import KeylessSigner
    from containers.trust.signers import Signer
    from containers.trust.verify import Trusted

app = typer.Typer()
keys = typer.Typer(name="keys", help="Make keys that sign models.", no_args_is_help=True)

PolicyFile = Annotated[
    Path | None,
    typer.Option("--policy", help="Policy file that the model must pass.", show_default="the setting trust.policy"),
]


@keys.command()
def new(
    prefix: Annotated[
        str, typer.Option("--output", "-o", help="Write PREFIX.key, the private key, and PREFIX.pub.")
    ] = "carwright",
    json_: Json = False,
) -> None:
    """Make a key pair: ECDSA on P-256, the private key encrypted as cosign does it.

    The password is asked for, or taken from CARWRIGHT_SIGN__PASSWORD.
    """
    from containers.trust.keys import new_key

    secret, public = Path(f"{prefix}.key"), Path(f"{prefix}.pub")
    for path in (secret, public):
        if path.exists():
            raise BadInput(
                f"{path} is there already", remedy="give another --output: a key that is lost cannot be made again"
            )
    text, key = new_key(_password())
    try:
        private.write(secret, text)
        public.write_text(key.pem)
    except OSError as error:
        raise BadInput(f"cannot write {prefix}.key: {error.strerror}", remedy="give another --output") from error
    if json_:
        terminal.document({"private": str(secret), "public": str(public), "fingerprint": str(key.fingerprint)})
        return
    terminal.line(f"{secret}  the private key, encrypted: keep it away from everything but the promote step")
    terminal.line(f"{public}  the public key, for policies: {key.fingerprint}")


@keys.command()
def show() -> None:
    """Print the public keys that belong to the signing settings (sign.key_file, sign.uri and the like), for policies.

    A token or a key management service is asked for its own.
    """
    from containers.trust.signers import open_signers

    signers = open_signers(Settings().sign)
    if not signers:
        raise BadInput(
            "there is no key to sign with", remedy="set CARWRIGHT_SIGN__KEY_FILE; `carwright keys new` makes a key"
        )
    for one in signers:
        terminal.err.print(str(one.public.fingerprint))
        print(one.public.pem, end="")
    _notes(signers)


def _notes(signers: Sequence[Signer | KeylessSigner]) -> None:
    from containers.trust.signing import notes

    for note in notes(signers):
        terminal.err.print(f"note: {note}")


def _password() -> str:
    set_ = Settings().sign.password
    if set_ is not None:
        return set_.get_secret_value()
    if not sys.stdin.isatty():
        raise BadInput("there is no terminal to ask for a password at", remedy="set CARWRIGHT_SIGN__PASSWORD")
    first = getpass.getpass("Password for the private key: ")
    if getpass.getpass("Again: ") != first:
        raise BadInput("the two passwords differ", remedy="start again; nothing was written")
    return first


@app.command()
def sign(
    what: Annotated[str, typer.Argument(help="A modelcar or other image by reference, or a folder with a checkpoint.")],
    statement: Annotated[
        list[Path] | None,
        typer.Option(help="File with an in-toto statement about it, to sign and attach; may be repeated."),
    ] = None,
    renew: Annotated[bool, typer.Option("--renew", help="Sign again what is signed, with the date of today.")] = False,
    json_: Json = False,
) -> None:
    """Sign an image, or the files of a folder, with the keys in the settings (sign.key_file and its like).

    With sign.keyless, a CI job's OIDC token signs: with a certificate that is valid for minutes, and an entry in a transparency
    log. What is signed already is left alone. Promotion does the same by itself.
    """
    from containers.oci.access import open_repository, read_manifest
    from containers.trust import signing

    settings = Settings()
    signers = signing.open_all(settings.sign)
    if not signers:
        raise BadInput(
            "there is nothing to sign with",
            remedy="set CARWRIGHT_SIGN__KEY_FILE (`carwright keys new` makes a key), or CARWRIGHT_SIGN__KEYLESS",
        )
    _notes(signers)
    if Path(what).is_dir():
        _sign_folder(Path(what), signers, as_json=json_)
        return
    with open_repository(what, settings, write=True) as repository:
        digest = read_manifest(repository).digest
        contents = [read_text(path).encode() for path in statement or ()]
        made = signing.sign(repository, digest, contents, signers, renew=renew)
    if json_:
        told = {name: {"digest": str(one.digest), "already_there": one.there} for name, one in made}
        print(json.dumps({"reference": what, "digest": str(digest), "attached": told}, indent=2))
        return
    for name, one in made:
        terminal.line(f"{name}: {one.digest} {'was' if one.there else 'is now'} attached")
    terminal.line(f"{digest} is signed by {', '.join(signing.statement_signer(one).name for one in signers)}")


def _sign_folder(folder: Path, signers: Sequence[Signer | KeylessSigner], *, as_json: bool) -> None:
    from containers.trust.attach import KeySigner
    from containers.trust.model_signing import SIGNATURE_FILE, sign_folder
    from containers.trust.signing import statement_signer

    if len(signers) != 1:
        raise BadInput(f"{SIGNATURE_FILE} has one signature, and there are {len(signers)} signers", remedy="give one")
    signer = statement_signer(signers[0])
    done = sign_folder(folder, signer)
    if as_json:
        whose = str(signer.key.public.fingerprint) if isinstance(signer, KeySigner) else signer.name
        terminal.document(
            {"folder": str(folder), "signature": SIGNATURE_FILE, "signed_by": whose, "already_there": not done}
        )
        return
    word = "is now" if done else "was already"
    terminal.line(f"{folder / SIGNATURE_FILE}: the folder {word} signed by {signer.name}")


def policy_of(policy: Path | None, key: list[Path] | None, settings: Settings) -> Policy | None:
    """The policy of the options, else that of the settings; of keys alone, one that wants a signature by one of them."""
    if key:
        if policy is not None:
            raise BadInput("--policy and --key exclude each other", remedy="put the keys into the policy")
        named: list[dict[str, Any]] = [{"name": str(path), "pem": read_text(path)} for path in key]
        return Policy.load(json.dumps({"keys": named, "require": Requirements(statements=(SIGNATURE,)).model_dump()}))
    chosen = policy or settings.trust.policy
    return Policy.read(chosen) if chosen is not None else None


def show_trusted(trusted: Trusted) -> None:
    for name, by in trusted.signed.items():
        terminal.line(f"{name}: signed by {', '.join(by)}")
    for note in trusted.notes:
        terminal.err.print(f"note: {note}")


def verify_folder(folder: Path, policy: Policy | None, *, as_json: bool) -> None:
    """Check the signature of a folder's files."""
    from containers.trust.model_signing import check_folder

    if policy is None:
        raise BadInput(f"{folder} is a folder, and its signature needs a key", remedy="give --key or --policy")
    signer = check_folder(folder, policy)
    _say_not_asked(policy)
    if as_json:
        terminal.document({"folder": str(folder), "signed_by": signer})
    else:
        terminal.line(f"{folder}: every file is what {signer} signed")


def _say_not_asked(policy: Policy) -> None:
    """Files have no more than a signature: a rule of the policy about anything else is not a rule about them."""
    rules = ("repositories", "base", "recipe", "gate", "max_age_days", "deny")
    unasked = [name_of(one) for one in policy.require.statements if one not in {SIGNATURE, MODEL}]
    unasked += [name for name in rules if getattr(policy, name)]
    if unasked:
        terminal.err.print(
            f"note: a signature of files does not answer the policy's {', '.join(unasked)}: `carwright verify REFERENCE` does"
        )


def signed_files(
    source: str, policy: Path | None, key: list[Path] | None, signature: Path | None
) -> dict[str, Digest] | None:
    """The files that a download must consist of, by the signature that was asked for; None if none was.

    Raises NotTrusted for a signature by nobody who is trusted.
    """
    from containers.trust.model_signing import SIGNATURE_FILE, read_signature

    if not key and policy is None and signature is None:
        return None
    rules = policy_of(policy, key, Settings())
    if rules is None:
        raise BadInput("a signature is checked by a key, and none is given", remedy="give --key or --policy")
    if signature is None and not source.startswith("file://"):
        raise BadInput(f"where is the signature of {source}?", remedy=f"give its {SIGNATURE_FILE} with --signature")
    path = signature or Path(source.removeprefix("file://")) / SIGNATURE_FILE
    signer, files = read_signature(path, rules)
    _say_not_asked(rules)
    terminal.err.print(f"{path}: {len(files)} files, signed by {signer}")
    return files


def check_signed(manifest: Manifest, wanted: dict[str, Digest], what: str) -> None:
    """Raises NotTrusted unless everything that was downloaded was signed, and all is there that a download takes of what was signed."""
    from containers.checkpoint_parts import why_left
    from containers.trust.model_signing import compare

    found = {one.path: one.sha256 for one in manifest.files}
    taken = {path: digest for path, digest in wanted.items() if path in found or why_left(path, wanted) is None}
    compare(found, taken, what)
