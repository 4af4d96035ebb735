"""A support bundle: what somebody who helps from afar asks for, in one file without secrets.

Every text goes through the same sieve: the values of the settings that are secret, of variables that look like secrets and of
the logins in the folder, as they are and as JSON, URLs and HTTP's Basic scheme write them; then what any message is masked of.
"""

from __future__ import annotations

import base64
import json
import platform
import re
import sys
import zipfile
from importlib.metadata import distributions
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from containers import private
from containers.errors import BadInput
from containers.foreign_text import MASK, clean
from containers.process import inherited

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

_RUNS: Final = 3  # the newest ones
_TAIL: Final = 1 << 20  # bytes of the end of a log
_FILES: Final = 200  # of one run
_TEXT: Final = frozenset({".log", ".json", ".jsonl", ".txt", ".yaml"})
_SHORTEST: Final = 4  # characters: what is shorter is a word of many texts
# Of what runs are configured by, those that sign among them.
_PREFIXES: Final = (
    *("CARWRIGHT_", "HF_", "AWS_", "PREFECT_", "PIP_", "UV_", "DOCKER_"),
    *("AZURE_", "GOOGLE_", "VAULT_", "SIGSTORE_"),
)
_SECRET_NAME: Final = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|API_?KEY|ACCESS_KEY|AUTH|LOGIN|WEBHOOK", re.IGNORECASE)


def write(path: Path, home: Path, contents: Mapping[str, str], secrets: Iterable[str]) -> tuple[str, ...]:
    """Write a zip file that only its owner may read; the names in it.

    `contents` are texts by name; the versions of this machine and the newest runs of the folder `home` are added. Raises
    BadInput for a file that is there already or cannot be written.
    """
    hidden = _forms({*secrets, *_of_variables(inherited(*_PREFIXES)), *_of_folder(home)})
    names: list[str] = []
    try:
        with (
            open(path, "xb", opener=private.opener) as file,
            zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as bundle,
        ):
            for name, text in (*contents.items(), ("versions.json", _versions()), *_runs(home)):
                bundle.writestr(name, _without(hidden, text))
                names.append(name)
    except OSError as error:
        raise BadInput(
            f"the bundle {path} cannot be written: {error.strerror}", remedy="give a new file in a folder that exists"
        ) from error
    return tuple(names)


def _without(hidden: re.Pattern[str] | None, text: str) -> str:
    return clean(hidden.sub(MASK, text) if hidden is not None else text)


def _forms(secrets: set[str]) -> re.Pattern[str] | None:
    """All spellings of the secrets, the longest first."""
    forms: set[str] = set()
    for secret in secrets:
        parts = secret.split()
        # The variables of `sign.client` are lines NAME=VALUE.
        values = [value for name, _, value in (part.partition("=") for part in parts) if name.isidentifier()]
        for one in {secret, secret.strip(), *parts, *values}:
            if len(one) >= _SHORTEST:
                escaped = json.dumps(one)[1:-1]
                forms |= {one, escaped, json.dumps(escaped)[1:-1], quote(one), quote(one, safe="")}
                # Of `user:secret` in base64 the end is that of the secret, from the first whole group on.
                forms |= {base64.b64encode(one.encode()[skip:]).decode().rstrip("=")[:-1] for skip in range(3)}
    kept = sorted((one for one in forms if len(one) >= _SHORTEST), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, kept))) if kept else None


def _of_variables(variables: Mapping[str, str]) -> Iterator[str]:
    return (value for name, value in variables.items() if _SECRET_NAME.search(name))


def _of_folder(home: Path) -> Iterator[str]:
    """The login of the Prefect server that runs of this folder start, and its two parts."""
    file = home / "prefect" / "login"
    if file.is_file():
        text = file.read_text(errors="replace").strip()
        yield from (text, text.partition(":")[2])


def _versions() -> str:
    packages = sorted({f"{one.metadata['Name']} {one.version}" for one in distributions()}, key=str.lower)
    return json.dumps({"python": sys.version, "platform": platform.platform(), "packages": packages}, indent=2)


def _runs(home: Path) -> Iterator[tuple[str, str]]:
    """The records, requests and logs of the newest runs, and the log of Prefect's server: of each the end."""
    for folder in (*sorted((home / "runs").glob("*"), reverse=True)[:_RUNS], home / "logs"):
        found = sorted(
            one for one in folder.rglob("*") if one.suffix in _TEXT and one.is_file() and not one.is_symlink()
        )
        for path in found[:_FILES]:
            with path.open("rb") as file:
                file.seek(max(0, path.stat().st_size - _TAIL))
                yield path.relative_to(home).as_posix(), file.read().decode(errors="replace")
