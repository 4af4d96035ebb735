"""Step environments: made once from a lock, complete or absent, with one clear error when they cannot be made.

The index is a folder with one small wheel, written here; nothing is fetched.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr

from containers.contract import Step
from containers.errors import BadInput, DiskFull, Error, Temporary
from containers.process import run, start_time
from infra.environments import environment, pip_configuration, pip_indexes, uv
from infra.environments.environment import Environment, key, lock_of
from infra.environments.pip_indexes import PipIndexes, build_tools, split
from infra.environments.pip_output import PipOutput, failure
from infra.images.locked import read_packages
from infra.images.wheels import Wheelhouse
from tests.support.environment_desk import Desk
from tests.support.package_index import Index, build_tool, pin, serving, source, wheel

if TYPE_CHECKING:
    from collections.abc import Iterator

    from containers.events import Event


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    return Desk.at(tmp_path, monkeypatch)


@pytest.fixture(params=["uv", "pip"])
def installer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Which of the two makes the environment."""
    if request.param == "pip":
        monkeypatch.setattr(uv, "program", lambda: None)
    return str(request.param)


def test_an_environment_holds_its_lock_and_nothing_of_the_flow(desk: Desk, installer: str) -> None:
    environment = desk.make()
    script = """if True:
        import importlib.util, sys, tiny, containers.errors
        print(tiny.VERSION, importlib.util.find_spec("prefect"), importlib.util.find_spec("flows"), sys.prefix)
    """
    argv = [str(environment.python), "-c", script]
    done = run(argv, env={"PATH": os.environ["PATH"]} | environment.environment(), cwd=desk.folder)
    assert done.stdout.split() == ["1.0", "None", "None", str(environment.folder)]
    assert [entry.name for entry in environment.modules.iterdir()] == ["containers"]
    (record,) = (environment.folder / "lib").glob("python*/site-packages/tiny-1.0.dist-info/INSTALLER")
    assert record.read_text().strip() == installer
    said_progress = {event.task for event in desk.said if event.event == "progress"}
    assert said_progress >= ({"fetch packages for paint"} if installer == "pip" else set())


def test_it_is_made_once(desk: Desk) -> None:
    """The second time needs neither pip nor an index."""
    first = desk.make()
    shutil.rmtree(desk.index)
    assert desk.make() == first
    assert desk.built() == 1


def test_another_lock_is_another_environment(desk: Desk) -> None:
    first = desk.make()
    desk.lock.write_text(pin(wheel(desk.index, version="2.0")))
    assert desk.make().folder != first.folder
    assert first.python.exists()


def test_the_key_is_of_lock_python_and_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    r"""printf 'lock\0CPython 3.11.7 linux-x86_64' | sha256sum | cut -c-12."""
    monkeypatch.setattr(environment.platform, "python_version", lambda: "3.11.7")
    monkeypatch.setattr(environment.sysconfig, "get_platform", lambda: "linux-x86_64")
    assert key(b"lock") == "871411580d08"
    monkeypatch.setattr(environment.platform, "python_version", lambda: "3.11.8")
    assert key(b"lock") != "871411580d08"


def test_an_interpreter_that_went_away_is_replaced(desk: Desk) -> None:
    environment = desk.make()
    environment.python.unlink()
    environment.python.symlink_to("/no/such/python")
    assert desk.make().python.exists()
    assert desk.built() == 2


def test_two_runs_that_want_the_same_wait_for_each_other(desk: Desk) -> None:
    """Only one builds; the other says that it waits, or comes when all is done."""
    made: list[Environment] = []
    threads = [threading.Thread(target=lambda: made.append(desk.make())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 3
    assert len(set(made)) == 1
    assert desk.built() == 1


def test_a_file_with_another_hash_is_refused(desk: Desk) -> None:
    desk.lock.write_text("tiny==1.0 \\\n    --hash=sha256:" + "0" * 64 + "\n")
    with pytest.raises(BadInput, match=r"tiny==1\.0 .*is not the locked file"):
        desk.make()
    assert not [path for path in desk.envs.iterdir() if path.is_dir()]


def test_a_package_that_no_index_has_is_named(desk: Desk) -> None:
    desk.lock.write_text("absent==1.0 \\\n    --hash=sha256:" + "0" * 64 + "\n")
    with pytest.raises(BadInput, match=r"no index offers absent==1\.0") as caught:
        desk.make()
    assert "CARWRIGHT_PIP_EXTRA_INDEX_URL" in caught.value.remedy


def test_an_index_that_does_not_answer_is_temporary(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{port}/simple")
    shutil.rmtree(desk.index)
    with pytest.raises(Temporary, match=rf"the package index at 127.0.0.1:{port} cannot be reached"):
        desk.make()


def test_a_python_without_a_wheel_is_refused_before_anything_is_fetched(desk: Desk) -> None:
    """Where this Python has one, the lock is installed."""
    python = f"cp3{sys.version_info.minor}"
    wheels = [f"{python}-{python}-manylinux_2_99_x86_64", "cp39-cp39-manylinux_2_17_x86_64"]
    desk.lock.write_text(f"# wheels of tiny: {' '.join(wheels)}\n{pin(wheel(desk.index))}")
    with pytest.raises(
        BadInput, match=rf"environment of paint .* tiny 1\.0 has no wheel for .*, only {', '.join(wheels)}"
    ) as caught:
        desk.make()
    assert "CARWRIGHT_LAUNCHER=docker" in caught.value.remedy
    assert not (desk.folder / "cache").exists()
    desk.lock.write_text(f"# wheels of tiny: {' '.join(wheels)} py3-none-any\n{pin(wheel(desk.index))}")
    desk.make()


def test_what_a_marker_leaves_out_is_not_counted(desk: Desk, installer: str) -> None:
    """Nor installed."""
    first, _, rest = pin(wheel(desk.index, "old")).partition(" \\")
    desk.lock.write_text(f"{pin(wheel(desk.index))}{first} ; python_version < '3.11' \\{rest}")
    environment = desk.make()
    assert json.loads((environment.folder / "environment.json").read_text())["packages"] == 1
    assert not list(environment.folder.glob("lib/python*/site-packages/old.py"))
    assert PipOutput("paint", desk.lock.read_text(), desk.said.append).total == 1


def test_a_lock_that_is_not_there_is_named(desk: Desk) -> None:
    desk.lock.unlink()
    with pytest.raises(BadInput, match=r"cannot read the lock .*requirements\.lock"):
        desk.make()


def test_a_cache_that_cannot_be_written_is_named(desk: Desk) -> None:
    (desk.folder / "cache").write_text("a file")
    with pytest.raises(BadInput, match="CARWRIGHT_CACHE"):
        desk.make()


def test_a_killed_build_leaves_nothing_that_counts(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGKILL while pip waits for an index that accepts and never answers: pip ends too, and the next run builds."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/simple"
        script = (
            "import sys; from pathlib import Path; from infra.environments.environment import ensure\n"
            "ensure('paint', Path(sys.argv[1]), Path(sys.argv[2]), on_event=lambda event: None)\n"
        )
        variables = {name: value for name, value in os.environ.items() if name != "PIP_NO_INDEX"} | {
            "PIP_INDEX_URL": url
        }
        argv = [sys.executable, "-c", script, str(desk.lock), str(desk.folder / "cache")]
        builder = subprocess.Popen(argv, env=variables)
        connection, _ = silent.accept()
        (folder,) = (path for path in desk.envs.iterdir() if path.is_dir())
        (supervisor,) = Path(f"/proc/{builder.pid}/task/{builder.pid}/children").read_text().split()
        builder.kill()
        builder.wait()
        with connection:
            while connection.recv(4096):  # ends when pip, the last to hold the other end, is gone
                pass
    assert folder.exists()
    assert start_time(builder.pid) is None
    environment = desk.make()
    assert environment.folder == folder
    assert desk.built() == 1
    assert start_time(int(supervisor)) is None


def test_an_index_with_a_password_is_used_and_kept_secret(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, installer: str
) -> None:
    """It appears in no command line, where every user of the machine could read it."""
    content = next(desk.index.iterdir()).read_bytes()
    seen: list[str | None] = []

    class Index(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.headers["Authorization"])
            page = b'<a href="tiny-1.0-py3-none-any.whl">tiny</a>'
            self.send_response(200)
            self.send_header("Content-Type", "text/html" if self.path.endswith("/") else "application/zip")
            self.end_headers()
            self.wfile.write(page if self.path.endswith("/") else content)

        def log_message(self, *_: object) -> None:
            pass

    commands: list[list[str]] = []
    original = pip_indexes.Child

    def child(argv: list[str], *rest: object, **named: object) -> object:
        commands.append(argv)
        return original(argv, *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(uv if installer == "uv" else pip_indexes, "Child", child)
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Index)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        host = f"127.0.0.1:{server.server_port}"
        monkeypatch.setenv("PIP_INDEX_URL", f"http://{host}/other/simple")
        desk.make(indexes=PipIndexes(SecretStr(f"http://user:pass_word@{host}/simple")))
    finally:
        server.shutdown()
        server.server_close()
    assert "Basic " + base64.b64encode(b"user:pass_word").decode() in seen
    assert commands
    assert "pass_word" not in str(commands)
    assert not any("pass_word" in event.model_dump_json() for event in desk.said)


@pytest.fixture
def general(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    """The one index that pip is configured with: no local builds, as the public index has none."""
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    with serving(desk.folder / "general") as index:
        monkeypatch.setenv("PIP_INDEX_URL", index.url)
        yield index


@pytest.fixture
def pytorch(desk: Desk) -> Iterator[Index]:
    """A stand-in for PyTorch's index: it offers everything, newer and other files of the same names, too."""
    with serving(desk.folder / "pytorch") as index:
        yield index


def test_a_local_build_comes_from_pytorchs_index_and_nothing_else_does(
    desk: Desk, general: Index, pytorch: Index, installer: str
) -> None:
    lock = pin(wheel(general.folder)) + pin(wheel(pytorch.folder, "torch", "2.0+cpu"))
    wheel(general.folder, "torch", "2.0")
    wheel(pytorch.folder, "tiny", "1.0").write_bytes(b"not what was locked")
    desk.lock.write_text(f"# a comment\n{lock}")
    environment = desk.make(indexes=PipIndexes(pytorch=SecretStr(pytorch.url.replace("//", "//user:pass_word@"))))
    done = run([str(environment.python), "-c", "import tiny, torch; print(tiny.VERSION, torch.VERSION)"], env={})
    assert done.stdout.split() == ["1.0", "2.0+cpu"]
    assert pytorch.projects == {"torch"}
    assert general.projects == {"tiny", "torch"}
    assert [event.message for event in desk.said if "taking" in event.message] == [
        f"paint: taking torch==2.0+cpu from {pytorch.url}"
    ]
    fetched = [event.done for event in desk.said if event.task == "fetch packages for paint"]
    assert fetched == ([1, 2] if installer == "pip" else [])
    assert split(lock) == ({"torch==2.0+cpu": lock[lock.index("torch") :]}, lock[: lock.index("torch")])


@pytest.mark.parametrize("how", ["PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "extra"])
def test_what_is_configured_wins_over_pytorchs_index(
    desk: Desk, general: Index, pytorch: Index, monkeypatch: pytest.MonkeyPatch, how: str, installer: str
) -> None:
    desk.lock.write_text(pin(wheel(general.folder)) + pin(wheel(desk.folder / "own", "torch", "2.0+cpu")))
    with serving(desk.folder / "own") as own:
        extra = SecretStr(own.url) if how == "extra" else None
        if how == "PIP_INDEX_URL":
            wheel(desk.folder / "own")
        if how != "extra":
            monkeypatch.setenv(how, str(own.folder) if how == "PIP_FIND_LINKS" else own.url)
        desk.make(indexes=PipIndexes(extra, SecretStr(pytorch.url)))
    assert pytorch.asked == []


def test_what_uv_does_not_understand_is_left_to_pip(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_KEYRING_PROVIDER", "disabled")
    assert list(desk.make().folder.glob("lib/python*/site-packages/tiny-1.0.dist-info/INSTALLER"))
    (record,) = desk.envs.glob("*/lib/python*/site-packages/tiny-1.0.dist-info/INSTALLER")
    assert record.read_text().strip() == "pip"


def test_pips_configuration_is_read_for_uv(desk: Desk, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The environment before the section of `install`, and that before `global`; values may run over lines."""
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_FIND_LINKS", "/wheels /more")
    (tmp_path / "pip.conf").write_text(
        "[global]\nindex-url = https://a/simple\nextra-index-url = https://b/simple\n    file:///c\n    https://d/\n"
        "find-links = /other\ncert = /ca.pem\n[install]\nindex-url = https://e/simple\n[list]\nformat = json\n"
    )
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    options = pip_configuration.read()
    assert pip_configuration.is_understood(options)
    assert pip_configuration.variables(options, SecretStr("https://user:pass_word@f/")) == {
        "UV_DEFAULT_INDEX": "https://e/simple",
        "UV_INDEX": "https://b/simple https://d/ https://user:pass_word@f/",
        "UV_FIND_LINKS": "/wheels,/more",
        "SSL_CERT_FILE": "/ca.pem",
    }
    no_index = pip_configuration.variables(options | {"no-index": "1"}, None)
    assert no_index == {"UV_NO_INDEX": "1", "UV_FIND_LINKS": "/wheels,/more", "SSL_CERT_FILE": "/ca.pem"}


def test_each_package_is_asked_for_where_it_may_be(desk: Desk, general: Index, pytorch: Index, installer: str) -> None:
    """Another local label is no build of PyTorch's, and a CPU build that is configured is not asked for once more."""
    here, there = wheel(general.folder, "vision", "1.0+cpu"), wheel(pytorch.folder, "torch", "2.0+cpu")
    wheel(pytorch.folder, "vision", "1.0+cpu").write_bytes(b"not what was locked")
    desk.lock.write_text(pin(here) + pin(there))
    desk.make(indexes=PipIndexes(pytorch=SecretStr(pytorch.url)))
    assert pytorch.projects == {"torch"}
    desk.lock.write_text(pin(wheel(pytorch.folder, "own", "1.0+house")))
    with pytest.raises(BadInput, match=r"no index offers own==1\.0\+house"):
        desk.make(indexes=PipIndexes(pytorch=SecretStr(pytorch.url)))
    assert pytorch.projects == {"torch"}


def test_a_full_disk_is_not_blamed_on_pytorchs_index(
    desk: Desk, general: Index, pytorch: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pip of this test fails as pip does; the first call finds nothing, the second has no room."""
    pip = desk.folder / "modules" / "pip"
    pip.mkdir(parents=True)
    (pip / "__init__.py").touch()
    (pip / "__main__.py").write_text(
        "import pathlib, sys\n"
        "first = '--index-url' not in pathlib.Path(sys.argv[-1]).read_text()\n"
        f"sys.exit('ERROR: No matching distribution found for torch==2.0+cpu' if first else {FULL!r})\n"
    )
    lock = pin(wheel(pytorch.folder, "torch", "2.0+cpu"))
    argv = [sys.executable, "-m", "pip"]
    with pytest.raises(DiskFull, match="no space left"):
        PipIndexes(pytorch=SecretStr(pytorch.url)).run(
            argv, lock, {"PYTHONPATH": str(pip.parent)}, PipOutput("paint", lock, desk.said.append)
        )


def test_pytorchs_index_is_held_to_the_hash(desk: Desk, general: Index, pytorch: Index) -> None:
    locked = pin(wheel(pytorch.folder, "torch", "2.0+cpu"))
    with zipfile.ZipFile(pytorch.folder / "torch-2.0+cpu-py3-none-any.whl", "a") as archive:
        archive.writestr("evil.py", "")
    desk.lock.write_text(locked)
    with pytest.raises(BadInput, match=r"torch==2\.0\+cpu .*is not the locked file"):
        desk.make(indexes=PipIndexes(pytorch=SecretStr(pytorch.url)))
    assert not [path for path in desk.envs.iterdir() if path.is_dir()]


def test_pytorchs_index_that_does_not_answer_is_named(desk: Desk, general: Index) -> None:
    desk.lock.write_text(pin(wheel(general.folder)) + pin(wheel(desk.folder / "own", "torch", "2.0+cpu")))
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/whl/cpu"
    with pytest.raises(Temporary, match=f"{url} cannot be reached, and no other index offers torch==2.0.cpu") as caught:
        desk.make(indexes=PipIndexes(pytorch=SecretStr(url.replace("//", "//user:pass_word@"))))
    assert "pass_word" not in str(caught.value)
    assert "CARWRIGHT_PIP_PYTORCH_INDEX_URL" in caught.value.remedy


def test_without_indexes_pytorchs_is_not_asked(desk: Desk, pytorch: Index) -> None:
    """PIP_NO_INDEX is set for the desk: whoever sets it wants none."""
    desk.lock.write_text(pin(wheel(pytorch.folder, "torch", "2.0+cpu")))
    with pytest.raises(BadInput, match=r"no index offers torch==2\.0\+cpu"):
        desk.make(indexes=PipIndexes(pytorch=SecretStr(pytorch.url)))
    assert pytorch.asked == []


# What a source package may ask for, to have something else run while it is built than what is locked.
ATTACKS = {
    "an old package, which asks for nothing": "",
    "any setuptools": '[build-system]\nrequires = ["setuptools", "wheel"]\nbuild-backend = "setuptools.build_meta"\n',
    "a newer setuptools": '[build-system]\nrequires = ["setuptools>=2"]\nbuild-backend = "setuptools.build_meta"\n',
    "no backend": '[build-system]\nrequires = ["setuptools"]\n',
    "a helper besides": '[build-system]\nrequires = ["setuptools", "evil"]\nbuild-backend = "setuptools.build_meta"\n',
}


@pytest.fixture
def evil(desk: Desk, general: Index) -> Path:
    """An index with a locked tool of old and newer ones, which leave this file when they run."""
    mark = desk.folder / "evil-was-here"
    for tool in ("setuptools", "wheel", "evil"):
        build_tool(general.folder, tool, "9.0", at_import=f"open({str(mark)!r}, 'w')")
    return mark


def test_source_packages_are_built_with_what_is_locked(desk: Desk, general: Index, evil: Path) -> None:
    """Whatever they ask for, and whatever their tool asks for; so they are where images are made."""
    lock = pin(build_tool(general.folder, "setuptools", "1.0", asks=("evil", "setuptools>=2")))
    for number, pyproject in enumerate(ATTACKS.values()):
        lock += pin(source(general.folder, f"old{number}", pyproject))
    desk.lock.write_text(lock)
    built = sorted(desk.make().folder.glob("lib/python*/site-packages/old?.py"))
    assert [path.read_text() for path in built] == ["BUILT_BY = '1.0'"] * len(ATTACKS)
    house = Wheelhouse(desk.folder / "wheels")
    assert house.fetch("evaluate", read_packages(lock), lambda _: None) == 1 + len(ATTACKS)
    assert not evil.exists()
    assert not any("9.0" in path for path in general.asked)


@pytest.mark.parametrize(
    ("pyproject", "tool"),
    [("", "setuptools"), ('[build-system]\nrequires = ["evil"]\nbuild-backend = "evil.build_meta"\n', "evil")],
)
def test_what_a_lock_has_no_tool_for_is_not_built(
    desk: Desk, general: Index, evil: Path, pyproject: str, tool: str
) -> None:
    desk.lock.write_text(pin(source(general.folder, "old", pyproject)))
    with pytest.raises(BadInput, match=f"{tool}, which builds it, is not in the lock"):
        desk.make()
    assert not evil.exists()


def test_the_lock_with_source_packages_pins_what_builds_them() -> None:
    """langdetect and rouge-score have no wheels."""
    lock = lock_of(Step.EVALUATE).read_text()
    assert "langdetect==" in lock
    assert build_tools(lock).startswith("setuptools==")


def test_variables_that_send_packages_elsewhere_are_left_out(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_TARGET", str(desk.folder / "elsewhere"))
    monkeypatch.setenv("PIP_USER", "1")
    environment = desk.make()
    assert list(environment.folder.glob("lib/python*/site-packages/tiny.py"))


def test_what_is_configured_for_other_environments_does_not_count(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In pip's own file: a constraint that contradicts the lock, and a place for packages of the user."""
    (tmp_path / "constraints.txt").write_text("tiny<1\n")
    (tmp_path / "pip.conf").write_text(
        f"[global]\nconstraint = {tmp_path}/constraints.txt\nrequire-virtualenv = true\n[install]\nuser = true\n"
    )
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    assert list(desk.make().folder.glob("lib/python*/site-packages/tiny.py"))


def test_a_python_that_cannot_make_environments_says_so(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    python = desk.folder / "python"
    python.write_text("#!/bin/sh\necho 'No module named venv' >&2\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr(environment.sys, "executable", str(python))
    with pytest.raises(BadInput, match="it has no module venv") as caught:
        desk.make()
    assert "python3-venv" in caught.value.remedy


def test_every_step_has_a_lock_that_ships(root: Path) -> None:
    """Beside the step's code."""
    assert [lock_of(step) for step in Step] == [root / "containers" / step / "requirements.lock" for step in Step]
    assert all(lock_of(step).is_file() for step in Step)


FULL = "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device"
MISMATCH = """ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE. If you have updated the package...
    numpy==2.4.6 from https://files.example/numpy.whl (from -r requirements.lock (line 30)):
        Expected sha256 00
             Got        11"""


@pytest.mark.parametrize(
    ("text", "kind", "named"),
    [
        (FULL, DiskFull, "no space left"),
        (MISMATCH, BadInput, "numpy==2.4.6"),
        (
            "ERROR: Could not find a version\nERROR: No matching distribution found for torch==2.13.0+cpu",
            BadInput,
            "torch",
        ),
        (
            "WARNING: NewConnectionError\nERROR: No matching distribution found for torch==2",
            Temporary,
            "the package index cannot be reached",
        ),
        ("ERROR: something new", Error, "pip ended with code 9:\nERROR: something new"),
    ],
)
def test_what_pip_says_becomes_one_error(text: str, kind: type[Error], named: str) -> None:
    error = failure("quantize", 9, text.splitlines())
    assert type(error) is kind
    assert named in error.message


def test_progress_counts_packages() -> None:
    said: list[Event] = []
    output = PipOutput("quantize", "a==1 \\\n    --hash=x\nb==2 \\\nc[x]==3 \\\n", said.append)
    output.installed(2)
    assert said == []
    for line in (
        "Collecting a==1 (from -r x)",
        "  Downloading a.whl (2 MB)",
        "Processing /wheels/b.whl",
        "Collecting c==3",
    ):
        output.line(line)
    output.line("Installing collected packages: a, b, c")
    output.installed(2)
    assert [(event.task, event.done, event.total) for event in said] == [
        ("fetch packages for quantize", 1, 3),
        ("fetch packages for quantize", 2, 3),
        ("fetch packages for quantize", 3, 3),
        ("install packages for quantize", 2, 3),
    ]


def test_a_second_call_of_pip_fetches_before_it_installs() -> None:
    """What the first call installed is not shown as progress while the second one fetches."""
    said: list[Event] = []
    output = PipOutput("quantize", "a==1+cpu \\\n    --hash=x\nb==2 \\\n", said.append)
    for line in ("Collecting a==1+cpu", "Installing collected packages: a"):
        output.line(line)
    output.begin()
    output.installed(1)
    output.line("Collecting b==2")
    output.line("Installing collected packages: b")
    output.installed(2)
    assert list(output.lines) == ["Collecting b==2", "Installing collected packages: b"]
    assert [(event.task, event.done) for event in said] == [
        ("fetch packages for quantize", 1),
        ("fetch packages for quantize", 2),
        ("install packages for quantize", 2),
    ]
