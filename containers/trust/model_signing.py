"""The files of a model signed by themselves (OpenSSF Model Signing 1.0, ossf/model-signing-spec).

The statement lists every file with its digest, so a checkpoint stays provable when it has left the registry. It is a bundle
like the others: attached to the modelcar and to the raw artifact, and in a folder the file `model.sig`, as the specification's
own tool names it.
"""

from __future__ import annotations

import hashlib
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from containers import private
from containers.digest import Digest
from containers.errors import BadInput, NotTrusted
from containers.foreign_json import read_at_most
from containers.foreign_values import shown
from containers.trust.dsse import IN_TOTO, LIMITS, pae, read_bundle
from containers.trust.evidence import identities_of, not_trusted, signer_of, trusted_identity
from containers.trust.statement import MODEL, ForeignStatement, write

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from containers.trust.attach import StatementSigner
    from containers.trust.dsse import Envelope
    from containers.trust.policy import Policy

SIGNATURE_FILE: Final = "model.sig"
_IGNORED: Final = (
    ".git",
    ".gitattributes",
    ".github",
    ".gitignore",
)  # as the specification's tool leaves out by itself
_CHUNK: Final = 1 << 20
_AT_ONCE: Final = 8  # files


def statement(name: str, files: Mapping[str, Digest]) -> bytes:
    """The statement about a model's files, given by their paths; the same for the same files."""
    listed = dict(sorted(signable(files).items()))
    for path in listed:
        if not path.isprintable() and not _is_utf8(path):
            raise BadInput(
                f"the name of {shown(path)} cannot be written into a signature: it is not UTF-8",
                remedy="rename the file",
            )
    root = hashlib.sha256(b"".join(bytes.fromhex(digest.hex) for digest in listed.values()))
    return write(
        [(name, Digest(root.hexdigest()))],
        MODEL,
        {
            "resources": [
                {"name": path, "algorithm": "sha256", "digest": digest.hex} for path, digest in listed.items()
            ],
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": False,
                "ignore_paths": list(_IGNORED),
            },
        },
    )


def signable(files: Mapping[str, Digest]) -> dict[str, Digest]:
    """Without what a signature leaves out: git's own files, and a signature of the folder that the model came from."""
    return {path: digest for path, digest in files.items() if not _is_left_out(path)}


def _is_left_out(path: str) -> bool:
    return path == SIGNATURE_FILE or path.partition("/")[0] in _IGNORED


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def listed_in(told: ForeignStatement, what: str) -> dict[str, Digest]:
    """The files that a statement lists; raises BadInput for one that contradicts itself or is made in another way."""
    if told.predicate_type != MODEL:
        raise BadInput(f"{what} is a statement of another kind ({shown(told.predicate_type)})")
    serialization, resources = told.predicate.get("serialization"), told.predicate.get("resources")
    if not isinstance(serialization, dict) or not isinstance(resources, list) or not resources:
        raise BadInput(f"{what} lists no files", remedy="sign the model again")
    if serialization.get("method") != "files" or serialization.get("hash_type") != "sha256":
        raise BadInput(
            f"{what} is made by {shown(str(serialization.get('method')))} and {shown(str(serialization.get('hash_type')))}",
            remedy="signatures over whole files with sha256 are read here; the tool model_signing reads the others",
        )
    found = dict(_resource(one, what) for one in resources)
    root = hashlib.sha256(b"".join(bytes.fromhex(digest.hex) for digest in found.values())).hexdigest()
    if len(found) != len(resources) or [one.digest.get("sha256") for one in told.subject] != [root]:
        raise BadInput(f"{what} contradicts itself: its digest is not that of the files that it lists")
    return found


def _resource(value: Any, what: str) -> tuple[str, Digest]:
    if isinstance(value, dict) and value.get("algorithm") == "sha256":
        name, digest = value.get("name"), value.get("digest")
        if isinstance(name, str) and isinstance(digest, str):
            return name, Digest(digest)
    raise BadInput(f"{what} lists something that is not a file with a sha256 digest", remedy="sign the model again")


def sign_folder(folder: Path, signer: StatementSigner) -> bool:
    """Write `model.sig` over the files in a folder; False when it holds just that signature already.

    Raises BadInput for a folder that cannot be read, and for links and other things in it that are no files.
    """
    files = hash_folder(folder)
    if not files:
        raise BadInput(f"{folder} holds no files to sign", remedy="give the folder with the checkpoint")
    payload = statement(folder.resolve().name, files)
    message = pae(IN_TOTO, payload)
    path = folder / SIGNATURE_FILE
    if path.exists():
        held = read_bundle(_content(path), str(path))
        if held.message == message and signer.made(held, str(path)):
            return False
    bundle = signer.bundle(payload)
    try:
        private.write(path, bundle.decode())
        path.chmod(0o644)
    except OSError as error:
        raise BadInput(f"cannot write {path}: {error.strerror}") from error
    return True


def check_folder(folder: Path, policy: Policy, signature: Path | None = None, now: datetime | None = None) -> str:
    """Who signed exactly the files in a folder; raises NotTrusted, naming the first file that differs."""
    key, listed = read_signature(signature or folder / SIGNATURE_FILE, policy, now)
    compare(hash_folder(folder), listed, str(folder))
    return key


def read_signature(path: Path, policy: Policy, now: datetime | None = None) -> tuple[str, dict[str, Digest]]:
    """Who signed, and the files; raises NotTrusted for a signature that is missing or by nobody whom the policy trusts."""
    if not path.is_file():
        raise NotTrusted(f"there is no signature {path}", remedy="sign the model: `carwright sign FOLDER`")
    what = str(path)
    envelope = read_bundle(_content(path), what)
    who, payload = _trusted(envelope, policy, what, now or datetime.now(UTC))
    return who, listed_in(ForeignStatement.parse(payload, what), what)


def _trusted(envelope: Envelope, policy: Policy, what: str, now: datetime) -> tuple[str, bytes]:
    """Who signed a bundle, and what; raises NotTrusted unless the policy trusts them for a model."""
    if policy.require.signers > 1:
        raise NotTrusted(
            f"{what} has one signature, and {policy.require.signers} signers are wanted",
            remedy="check the image, which more can sign, or give a policy for folders",
        )
    if envelope.certified:
        known, found = identities_of(envelope, what, policy)
        identity = trusted_identity(known, found, MODEL)
        if isinstance(identity, str):
            raise NotTrusted(
                f"{what}: {identity}", remedy="get the model with a signature by an identity that is trusted"
            )
        return f"{identity.name}: {found.who}", found.payload
    key = signer_of(envelope.message, envelope.signature, policy)
    if key is None or envelope.payload_type != IN_TOTO:
        raise NotTrusted(
            f"{what} has no good signature by any key of the policy", remedy="get the model from who signs it"
        )
    if fault := not_trusted(key, policy, now.date(), MODEL):
        raise NotTrusted(f"{what}: {fault}", remedy="get the model with a signature by a key that is trusted")
    return key.name, envelope.payload


def compare(found: Mapping[str, Digest], signed: Mapping[str, Digest], what: str, *, whole: bool = True) -> None:
    """Raises NotTrusted for the first file that differs from what was signed; with `whole` also for one that is missing."""
    for path, digest in sorted(found.items()):
        if path not in signed:
            raise _differs(what, path, "was not signed")
        if signed[path] != digest:
            raise _differs(what, path, f"is {digest}, and {signed[path]} was signed")
    for path in sorted(signed.keys() - found.keys()) if whole else ():
        raise _differs(what, path, "is missing")


def _differs(what: str, path: str, how: str) -> NotTrusted:
    return NotTrusted(
        f"{what}: {shown(path)} {how}", remedy="the files are damaged or were tampered with: fetch the model again"
    )


def hash_folder(folder: Path, *, links: bool = False, whole: bool = False) -> dict[str, Digest]:
    """The digest of every file under a folder by its path; unless it is the `whole`, the signature and git's own files left out.

    Raises BadInput for a link, unless `links` has them followed, and for anything else that is neither file nor folder.
    """
    if not folder.is_dir():
        raise BadInput(f"{folder} is not a folder", remedy="give the folder with the checkpoint")
    names = {path.relative_to(folder).as_posix(): path for path in _walk(folder)}
    kept = {name: path for name, path in sorted(names.items()) if whole or not _is_left_out(name)}
    with ThreadPoolExecutor(_AT_ONCE) as pool:  # hashing leaves Python to other threads
        return dict(zip(kept, pool.map(lambda path: _digest(path, links=links), kept.values()), strict=True))


def _walk(folder: Path) -> Iterator[Path]:
    for at, folders, files in os.walk(folder, onerror=_unreadable):
        yield from (Path(at, name) for name in files)
        yield from (path for name in folders if (path := Path(at, name)).is_symlink())


def _unreadable(error: OSError) -> None:
    raise BadInput(f"cannot read {error.filename}: {error.strerror}") from error


def _digest(path: Path, *, links: bool) -> Digest:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if links else os.O_NOFOLLOW))
        with os.fdopen(handle, "rb", buffering=0) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise BadInput(f"{path} is neither a file nor a folder", remedy="a model is made of plain files")
            digest = hashlib.sha256()
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise BadInput(
            f"cannot read {path}: it is a link" if path.is_symlink() else f"cannot read {path}: {error.strerror}",
            remedy="a model is made of plain files",
        ) from error
    return Digest(digest.hexdigest())


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return read_at_most(LIMITS, file.read)
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}") from error
