"""The whole chain on this machine's Docker engine, under a real Prefect server.

    python -m flows.local.dry_run up [-p NAME=VALUE ...]   bring everything up, deploy, ship the demo model and follow it
    python -m flows.local.dry_run up --no-run              the same without a run
    python -m flows.local.dry_run login                    print the shell lines that log in: eval "$(python -m flows.local.dry_run login)"
    python -m flows.local.dry_run down [--volumes]         take it away; what was made stays, unless the volumes go, too

`up` may be repeated: what runs stays, what is stored stays, and an unchanged model is answered from the store.
Exit codes as everywhere: 0 shipped, 2 bad input, 3 refused by the gate, 4 not decided, 75 temporary, 130 interrupted.
"""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import infra
from containers.errors import BadInput, Error, Interrupted
from containers.process import export, inherited, run
from flows.cli import terminal
from flows.local.dry_run import compose
from flows.local.dry_run.site import Site
from flows.orchestrator.prefect_import import import_prefect
from infra.credentials import LOGIN

if TYPE_CHECKING:
    from types import FrameType

    from flows.local.dry_run.compose import Stack

_DEPLOY: Final = 300.0  # seconds for `prefect deploy`, which imports every flow
_LOGIN: Final = ".venv/bin/python -m flows.local.dry_run login"
_PREFECT_YAML: Final = Path(infra.__file__).parent / "prefect.yaml"


def up(site: Site) -> None:
    """Services up and healthy, pools made, deployments registered; safe to repeat.

    Raises BadInput without an engine, Compose or images, and for a port that is taken; NotReady for a service that does
    not come up.
    """
    if absent := compose.missing(site.images()):
        raise BadInput(
            f"the engine has no image {', '.join(absent)}",
            remedy="`make images` builds them, `carwright images load` brings in what was built",
        )
    group = compose.socket_group(site.image("flow"), site.socket)
    stack = site.stack(group)
    began = time.monotonic()
    _say("starting the services")
    stack.compose("up", "-d", "--remove-orphans")
    stack.wait(_say, but="worker")  # which comes up while the deployments are registered

    # Prefect reads its settings once, when it is imported.
    environment = _prefect(site, stack)
    export(environment)
    import_prefect()
    from flows.orchestrator import follow
    from flows.orchestrator.work_pools import prepare

    follow.server()
    prepare(site.host(group), _say)
    run([sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(_PREFECT_YAML)],
        env=inherited() | environment, cwd=_PREFECT_YAML.parent, timeout=_DEPLOY)  # fmt: skip
    stack.wait(lambda _: None)
    _say(f"deployments are registered; everything was up after {time.monotonic() - began:.0f} s")


def down(site: Site, *, volumes: bool) -> None:
    """Stop and remove every container of the project, flow runs and steps included, and with `volumes` its data."""
    if runs := compose.labelled(compose.FLOW_RUNS, site.project):
        _say(f"ending {len(runs)} flow runs")
        compose.docker("stop", "--time", "30", *runs, timeout=120)
    if left := compose.labelled(compose.FLOW_RUNS, site.project) + compose.labelled(compose.STEPS, site.project):
        compose.docker("rm", "--force", "--volumes", *left)
    site.stack(0).compose("down", "--remove-orphans", *(["--volumes"] if volumes else []))
    _say(
        "everything is gone" if volumes else "the containers are gone; --volumes removes store, registry and runs, too"
    )


def login(site: Site) -> None:
    """Print what a shell exports to use the API: the login is a secret, and goes nowhere else than to standard output."""
    for name, value in _api(site, site.stack(0)).items():
        print(f"export {name}={shlex.quote(value)}")


def _api(site: Site, stack: Stack) -> dict[str, str]:
    return {"PREFECT_API_URL": f"{site.url}/api", LOGIN: stack.login()}


def _prefect(site: Site, stack: Stack) -> dict[str, str]:
    return {
        **_api(site, stack),
        "PREFECT_UI_URL": site.url,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_LOGGING_LEVEL": "WARNING",
    }


def _say(text: str) -> None:
    terminal.err.print(f"{'dry run':>9}  {text}", soft_wrap=True)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        prog="python -m flows.local.dry_run",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("action", choices=("up", "login", "down"))
    parser.add_argument("--no-run", action="store_true", help="up: start no run")
    parser.add_argument("-p", "--param", action="append", default=[], metavar="NAME=VALUE", help="up: of the run")
    parser.add_argument("--json", action="store_true", help="up: the summary as JSON on standard output")
    parser.add_argument("--volumes", action="store_true", help="down: remove what was stored, too")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        site = Site.read()
        if arguments.action == "down":
            down(site, volumes=arguments.volumes)
            return
        if arguments.action == "login":
            login(site)
            return
        up(site)
        if not arguments.no_run:
            from flows.cli import server

            server.start(server.LOCAL, server.parameters(arguments.param), as_json=arguments.json)
        _say(f"Prefect UI: {site.url}   registry: 127.0.0.1:{site.registry_port}")
        _say(f'{_LOGIN} prints the login, which the UI asks for; for this shell: eval "$({_LOGIN})"')
        _say("another run: .venv/bin/prefect deployment run quantize-and-ship/local")
    except Error as error:
        terminal.show_error(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        terminal.show_error(Interrupted("interrupted", remedy="`make dry-run-down` takes the services away"))
        sys.exit(Interrupted.exit_code)


if __name__ == "__main__":
    main()
