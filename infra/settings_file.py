"""What carwright.toml may not decide: to whom credentials go, and what runs with them.

The file lies in the folder that a person stands in, and that may be somebody else's: a cloned repository, an unpacked model.
An endpoint in it would receive the hub's token or the store's keys from the person's own environment, and a folder of
environments in it would be run. So such a setting counts only if it comes from where the credentials come from: as a
variable or a file under /run/secrets, or, for an endpoint, together with its own credentials in the file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from containers.errors import BadInput
from containers.setting_names import PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from containers.setting_names import GivenName

FILE: Final = "carwright.toml"

# Endpoints, and the credentials that must stand beside them in the file.
WITH: Final[Mapping[str, tuple[str, ...]]] = {
    "CARWRIGHT_HUB_ENDPOINT": ("CARWRIGHT_HUB_TOKEN",),
    "CARWRIGHT_STORE__ENDPOINT": ("CARWRIGHT_STORE__ACCESS_KEY_ID", "CARWRIGHT_STORE__SECRET_ACCESS_KEY"),
    "CARWRIGHT_STORE__PUBLIC_ENDPOINT": ("CARWRIGHT_STORE__ACCESS_KEY_ID", "CARWRIGHT_STORE__SECRET_ACCESS_KEY"),
    "CARWRIGHT_SOURCE__ENDPOINT": ("CARWRIGHT_SOURCE__ACCESS_KEY_ID", "CARWRIGHT_SOURCE__SECRET_ACCESS_KEY"),
    "CARWRIGHT_EVALUATE__API_KEY_FOR": ("CARWRIGHT_EVALUATE__API_KEY",),
    "CARWRIGHT_REGISTRY__HOST": ("CARWRIGHT_REGISTRY__USERNAME", "CARWRIGHT_REGISTRY__PASSWORD"),
}
# What never comes from the file, and why.
NEVER: Final[Mapping[str, str]] = {
    "CARWRIGHT_CACHE": "the environments in it are run",
    "CARWRIGHT_DOCKER_CONFIG": "it names the programs that know logins",
    "CARWRIGHT_REGISTRY__AUTH_FILE": "it names the programs that know logins",
    "CARWRIGHT_REGISTRY__PLAIN_HTTP": "logins would be sent there without TLS",
    "CARWRIGHT_DOCKER__HOST": "the container engine there gets the steps' secrets",
    "CARWRIGHT_DOCKER__IMAGE": "these images run with the steps' secrets",
    "CARWRIGHT_DOCKER__EXTRA_HOSTS": "it decides who answers for the store and the hub",
    "CARWRIGHT_DOCKER__REGISTRY_ALIASES": "it decides who answers for a registry",
    "CARWRIGHT_KUBERNETES__KUBECONFIG": "it names programs that are run, and the cluster that gets the steps' secrets",
    "CARWRIGHT_KUBERNETES__IMAGE": "these images run with the steps' secrets",
    "CARWRIGHT_QUANTIZE__PYTHON": "it is a program that is run",
    "CARWRIGHT_SIGN__COMMAND": "it is a program that is run",
    "CARWRIGHT_SIGN__CLIENT": "it may name programs that are run, and decides who is asked to sign",
    "CARWRIGHT_SIGN__PKCS11_MODULE": "it is a library that is run, and gets the PIN",
    "CARWRIGHT_SIGN__KEYLESS": "it says who gets your identity token",
    "CARWRIGHT_SIGN__IDENTITY_TOKEN_FILE": "whatever is in that file would be sent",
    "CARWRIGHT_SERVE__PYTHON": "it is a program that is run",
    "CARWRIGHT_EVALUATE__LOAD_PYTHON": "it is a program that is run",
}
_TABLES: Final = frozenset({"CARWRIGHT_DOCKER__EXTRA_HOSTS", "CARWRIGHT_DOCKER__REGISTRY_ALIASES"})


def refuse_from_file(given: Iterable[GivenName]) -> None:
    """Raises BadInput for the first setting that the file may not decide. `given` are all names that are set, from everywhere.

    What a variable or a secret sets, too, is not decided by the file; of a table they would only replace entries.
    """
    names = list(given)
    in_file = {one.variable for one in names if one.where == FILE}
    elsewhere = {one.variable for one in names if one.where != FILE} - _TABLES
    for name in sorted(in_file - elsewhere):
        # Of a table the file's name may be one of its entries.
        table = next((one for one in NEVER if name == one or name.startswith(f"{one}__")), None)
        if table is not None:
            raise BadInput(
                f"{FILE} in this folder sets {_spelt(name)}: {NEVER[table]}, and the folder may not be yours",
                remedy=f"take it out of the file, and set the variable {table} instead",
            )
        missing = [one for one in WITH.get(name, ()) if one not in in_file]
        if missing:
            raise BadInput(
                f"{FILE} in this folder sets {_spelt(name)}, and the credentials for it come from elsewhere: whoever wrote "
                "the file would decide who gets yours",
                remedy=f"take it out of the file and set the variable {name}; or put {' and '.join(map(_spelt, missing))} "
                "beside it",
            )


def _spelt(variable: str) -> str:
    return variable.removeprefix(PREFIX).replace("__", ".").lower()
