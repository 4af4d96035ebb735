"""Where pip is configured to look, as variables of uv, which reads no pip.conf."""

from __future__ import annotations

import ast
import sys
from typing import TYPE_CHECKING, Final

from containers.process import inherited, run

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import SecretStr

_TRUE: Final = frozenset({"1", "y", "yes", "t", "true", "on"})  # as pip reads a switch
# What is translated, and what says nothing about where a locked file comes from or how it is installed.
_UNDERSTOOD: Final = frozenset(
    {
        *("index-url", "extra-index-url", "find-links", "no-index", "cert"),
        *(
            "break-system-packages",
            "cache-dir",
            "config-file",
            "constraint",
            "default-timeout",
            "disable-pip-version-check",
            "log",
        ),
        *("no-cache-dir", "no-color", "no-input", "no-warn-script-location", "prefer-binary", "progress-bar", "quiet"),
        *("require-virtualenv", "retries", "root-user-action", "timeout", "user", "verbose"),
    }
)


def read() -> dict[str, str]:
    """pip's options from its files and variables, by name, for `pip install`."""
    said = run([sys.executable, "-m", "pip", "config", "list"], env=inherited("PIP_", "XDG_CONFIG_")).stdout
    listed = dict(line.split("=", 1) for line in said.splitlines() if "=" in line)
    options = dict[str, str]()
    for section in ("global", "install", ":env:"):  # what counts more comes later
        mine = {
            key.removeprefix(f"{section}."): value for key, value in listed.items() if key.startswith(f"{section}.")
        }
        options |= {key.lstrip("."): str(ast.literal_eval(value)) for key, value in mine.items()}
    return options


def is_understood(options: Mapping[str, str]) -> bool:
    """Whether uv, with the variables made of these options, does what pip would do."""
    return all(name in _UNDERSTOOD for name in options)


def variables(options: Mapping[str, str], extra: SecretStr | None = None) -> dict[str, str]:
    """The variables for uv; `extra` is one more index. In the environment, as a URL may hold a password."""
    indexes = [url for url in options.get("extra-index-url", "").split() if not url.startswith("file:")]
    if extra is not None:
        indexes.append(extra.get_secret_value())
    found = {"UV_FIND_LINKS": ",".join(options.get("find-links", "").split()), "SSL_CERT_FILE": options.get("cert", "")}
    if options.get("no-index", "").lower() in _TRUE:
        found["UV_NO_INDEX"] = "1"
    else:
        found |= {"UV_DEFAULT_INDEX": options.get("index-url", ""), "UV_INDEX": " ".join(indexes)}
    return {name: value for name, value in found.items() if value}
