"""Creates the work pools of a dry run and registers the deployments; a service of infra/compose.yaml runs it once.

    python -m infra.with_login python -m flows.local.dry_run.deployments

It reads the variables of infra/compose.yaml, PREFECT_API_URL and the login from its environment, and finds the group of the
container engine's socket by looking at it. Safe to repeat.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import infra
from containers.errors import Error, Temporary
from containers.process import inherited, run
from flows.local.dry_run.site import Site
from flows.orchestrator.prefect_import import import_prefect
from infra.socket_user import SOCKET, group_of

if TYPE_CHECKING:
    from collections.abc import Callable

_PREFECT_YAML: Final = Path(infra.__file__).parent / "prefect.yaml"
_PATIENCE: Final = 180.0  # seconds
_DEPLOY: Final = 300.0  # seconds for `prefect deploy`, which imports every flow


def register(site: Site, socket_group: int, log: Callable[[str], None]) -> None:
    """On the server of PREFECT_API_URL. Raises Temporary if it cannot be reached within three minutes.

    Compose starts this when the server is healthy; podman before 4.6 does not wait for that.
    """
    import_prefect()
    from flows.orchestrator.child_runs import check_server
    from flows.orchestrator.work_pools import prepare

    began = time.monotonic()
    while True:
        try:
            check_server()
            break
        except Temporary:
            if time.monotonic() - began > _PATIENCE:
                raise
            time.sleep(1)
    prepare(site.host(socket_group), log)
    argv = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(_PREFECT_YAML)]
    run(argv, env=inherited("PREFECT_"), cwd=_PREFECT_YAML.parent, timeout=_DEPLOY)
    log("deployments are registered")


def main() -> None:
    try:
        register(Site.read(), group_of(SOCKET), lambda line: print(line, flush=True))
    except Error as error:
        print(f"{error.message}\n{error.remedy}".rstrip(), file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
