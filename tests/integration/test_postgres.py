"""PostgreSQL for the Prefect server, from our image: who gets in, what stays, and that a storm of events is answered."""

from __future__ import annotations

import asyncio
import secrets
import subprocess
import sys
import time
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import asyncpg
import httpx
import pytest
import yaml

from containers.errors import BadInput
from containers.process import Child, inherited, run
from flows.local import embedded
from flows.orchestrator import postgres
from tests.support.api_client import logged_in
from tests.support.dry_run_world import SITE, docker, need_images, until
from tests.support.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.integration

STORM = 300


@dataclass(frozen=True)
class Database:
    name: str
    port: int
    password: str
    file: Path

    def ask(self, sql: str, password: str = "") -> Any:
        async def fetch() -> Any:
            connection = await asyncpg.connect(
                host="127.0.0.1", port=self.port, user=postgres.USER, database=postgres.NAME,
                password=password or self.password, timeout=30,
            )  # fmt: skip
            try:
                return await connection.fetchval(sql)
            finally:
                await connection.close()

        return asyncio.run(fetch())


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """As infra/compose.yaml starts it, and with a port on loopback."""
    need_images("postgres")
    name, port, folder = f"postgres-{secrets.token_hex(4)}", free_port(), tmp_path_factory.mktemp("database")
    file = folder / postgres.PASSWORD_FILE.name
    file.write_text(secrets.token_urlsafe(32))
    file.chmod(0o444)  # another user's in the container
    folder.chmod(0o755)
    mounts = [f"--volume={file}:{postgres.PASSWORD_FILE}:ro", f"--volume={name}:/var/lib/carwright", "--tmpfs=/tmp"]
    limits = ["--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--shm-size=256m"]
    try:
        published = f"--publish=127.0.0.1:{port}:5432"
        docker("run", "--detach", f"--name={name}", *mounts, *limits, published, SITE.image("postgres"))
        given = Database(name, port, file.read_text(), file)
        postgres.wait("127.0.0.1", port, given.password)
        yield given
    finally:
        subprocess.run(["docker", "rm", "--force", name], check=False, capture_output=True)
        subprocess.run(["docker", "volume", "rm", name], check=False, capture_output=True)


def test_without_the_password_nobody_gets_in(database: Database) -> None:
    with pytest.raises(asyncpg.InvalidPasswordError):
        database.ask("select 1", password="another")
    with pytest.raises(BadInput, match="refuses the password"):
        postgres.wait("127.0.0.1", database.port, "another")
    locally = "/usr/lib/postgresql/15/bin/pg_dump"
    dumped = subprocess.run(
        ["docker", "exec", database.name, locally, "--host=/tmp", "--username=carwright", "--no-password", "postgres"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert dumped.returncode != 0
    assert "password" in dumped.stderr


def test_what_it_holds_outlives_its_container(database: Database) -> None:
    database.ask("create table kept as select 7 as number")
    docker("restart", "--time=60", database.name)
    postgres.wait("127.0.0.1", database.port, database.password)
    assert database.ask("select number from kept") == 7
    assert database.ask("show data_checksums") == "on"


@contextmanager
def prefect_server(database: Database, folder: Path) -> Iterator[tuple[str, str]]:
    """The address of the API of a server on the database, and its login."""
    login, port = f"carwright:{secrets.token_urlsafe(16)}", free_port()
    (folder / "login").write_text(login)
    argv = [sys.executable, "-m", "flows.orchestrator.prefect_server", "--login", str(folder / "login")]
    argv += ["--port", str(port), "--database", "postgres", "--database-host", f"127.0.0.1:{database.port}"]
    argv += ["--database-password", str(database.file)]
    with Child(argv, inherited() | embedded.prefect_environment(folder), log_file=folder / "prefect.log") as child:
        api = f"http://127.0.0.1:{port}/api"

        def healthy() -> bool:
            try:
                return httpx.get(f"{api}/health", timeout=10).is_success
            except httpx.HTTPError:
                return False

        assert until(lambda: healthy() or child.poll() is not None, 180)
        assert child.poll() is None, child.tail
        yield api, login


@pytest.mark.campaign
@pytest.mark.timeout(1200)
def test_a_storm_of_events_is_answered_once_each(database: Database, tmp_path: Path, root: Path) -> None:
    """300 announcements at the same moment, each by a request of its own: the trigger starts one run for each.

    On SQLite 25 at once were answered late, twice or not at all (docs/measurements/watching.md).
    """
    declared = yaml.safe_load((root / "infra" / "prefect.yaml").read_text())
    (local,) = [one for one in declared["deployments"] if one["name"] == "local" and "triggers" in one]
    chosen = {key: local[key] for key in ("name", "entrypoint", "triggers")}
    file = tmp_path / "prefect.yaml"
    file.write_text(yaml.safe_dump({"deployments": [{**chosen, "work_pool": {"name": "nobody"}}], "pull": []}))
    with prefect_server(database, tmp_path) as (api, login):
        client = logged_in(api, login, timeout=120)
        client.post("/work_pools/", json={"name": "nobody", "type": "process"}).raise_for_status()
        environment = inherited() | embedded.prefect_environment(tmp_path)
        environment |= {"PREFECT_API_URL": api, "PREFECT_API_AUTH_STRING": login}
        argv = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(file)]
        run(argv, env=environment, cwd=root, timeout=300)

        def announce(number: int) -> None:
            event = {
                "id": str(uuid.uuid4()),
                "occurred": datetime.now(UTC).isoformat(),
                "event": "carwright.model.changed",
                "resource": {
                    "prefect.resource.id": f"carwright.model.{number}",
                    "carwright.deployment": "quantize-and-ship/local",
                },
                "payload": {
                    "parameters": {"model": f"hf://org/{number}", "to": f"oci:{number}", "change": str(number)}
                },
            }
            client.post("/events", json=[event]).raise_for_status()

        with ThreadPoolExecutor(64) as pool:
            list(pool.map(announce, range(STORM)))
        assert until(lambda: len(runs(client)) == STORM, 600), Counter(runs(client))
        time.sleep(75)  # Prefect repeats what it believes unanswered after a minute
        assert Counter(runs(client)) == Counter(str(number) for number in range(STORM))


def runs(client: httpx.Client) -> list[str]:
    """The change that each run was started for."""
    found: list[str] = []
    while True:
        asked = {"limit": 200, "offset": len(found), "sort": "ID_DESC"}
        page = client.post("/flow_runs/filter", json=asked).raise_for_status().json()
        found += [one["parameters"]["change"] for one in page]
        if not page:
            return found
