"""Every way of tests/support/tampering.py to tamper with a signed model is found before vLLM reads a byte of it.

What runs is the product's own way from a reference to the folder that vLLM is given: the policy on the flow's side, the
policy in the serve step, the unpacking, and the comparison of the files.
"""

from __future__ import annotations

import re
import shutil
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import StringIO
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from containers.contract import Step, StepRequest
from containers.errors import BadInput, NotTrusted
from containers.events import Reporter
from containers.oci.reference import Reference
from containers.parameters import ServeOptions, ServeParameters
from containers.serve.models import unpacked
from containers.serve.trust import check_files, check_image
from containers.step import Context
from flows.admission import admit
from infra.settings import Settings
from tests.support.keyless_tampering import KEYLESS, SUBJECT, KeylessScene, signer_of
from tests.support.local_registry import LocalRegistry
from tests.support.local_sigstore import LocalSigstore
from tests.support.tampering import AT_REST, HOST, IN_FLIGHT, REGISTRY, Scene, Tampering
from tests.support.trust_world import KEYS, push, sign

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.integration


def rows(table: tuple[Tampering, ...]) -> list[Any]:
    """The table as parameters: every fourth row is tried each time, and the others by `make test-all`."""
    return [
        pytest.param(one, id=one.what, marks=[pytest.mark.campaign] if number % 4 else [])
        for number, one in enumerate(table)
    ]


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """A registry with two signed models; another file in the other one's checkpoint makes it another model."""
    folder = tmp_path_factory.mktemp("shelf")
    with LocalRegistry(folder / "registry") as address:
        yield _shelf(folder, f"{address}/trust/model:1", f"{address}/trust/other:1", folder / "registry" / "data")


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    folder = tmp_path_factory.mktemp("layout")
    return _shelf(folder, f"oci:{folder}/image:1", f"oci:{folder}/other:1", folder / "image")


def _shelf(folder: Path, place: str, another: str, storage: Path) -> Scene:
    settings = Settings(registry={"attempts": 1})
    model = push(place, folder / "checkpoint", settings)
    shutil.copytree(folder / "checkpoint", folder / "changed")
    (folder / "changed" / "tokenizer.json").write_text('{"another": true}')
    other = push(another, folder / "changed", settings)
    for one in (model, other):
        sign(one, settings)
    shutil.copytree(storage, folder / "untouched")
    return Scene(model, other, settings, storage)


@pytest.fixture(scope="module")
def keyless_shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KeylessScene]:
    """A registry with two models that one build has signed, without a key."""
    folder = tmp_path_factory.mktemp("keyless")
    settings, storage = Settings(registry={"attempts": 1}), folder / "registry" / "data"
    with LocalSigstore() as sigstore, LocalRegistry(folder / "registry") as address:
        places = {name: f"{address}/trust/{name}:1" for name in "ab"}
        models = [push(place, folder / name, settings, tokenizer=f'"{name}"') for name, place in places.items()]
        for one in models:
            sign(one, settings, [signer_of(sigstore)])
        shutil.copytree(storage, folder / "untouched")
        yield KeylessScene(*models, settings, storage, sigstore=sigstore)


@pytest.fixture
def keyless(keyless_shelf: KeylessScene) -> Iterator[KeylessScene]:
    whole = keyless_shelf
    yield KeylessScene(whole.model, whole.other, whole.settings, whole.storage, sigstore=whole.sigstore)
    whole.sigstore.log_delay, whole.sigstore.issues = 0, ""
    _put_back(whole)


@pytest.fixture
def scene(shelf: Scene) -> Iterator[Scene]:
    yield from _restored(shelf)


@pytest.fixture
def at_rest(request: pytest.FixtureRequest) -> Iterator[Scene]:
    yield from _restored(request.getfixturevalue(request.param))


def _restored(whole: Scene) -> Iterator[Scene]:
    """A scene of its own; the storage is put back afterwards."""
    yield Scene(whole.model, whole.other, whole.settings, whole.storage)
    _put_back(whole)


def _put_back(whole: Scene) -> None:
    shutil.rmtree(whole.storage)
    untouched = next(one for parent in whole.storage.parents if (one := parent / "untouched").exists())
    shutil.copytree(untouched, whole.storage)


def serve(scene: Scene, tmp_path: Path) -> str:
    """From the reference to the folder that vLLM would read; what the step has said."""
    (tmp_path / "policy.yaml").write_text(scene.policy)
    for key in KEYS.glob("*.pub"):
        shutil.copy(key, tmp_path)
    for name, text in scene.beside.items():
        (tmp_path / name).write_text(text)
    reference = scene.reference or scene.model.reference
    admitted = admit(reference, tmp_path / "policy.yaml", scene.settings, lambda _: None)
    assert admitted is not None
    said = StringIO()
    settings = scene.settings.model_copy(update={"home": tmp_path / "home"})
    context = Context(settings, Reporter(said, structured=True), tmp_path / "scratch", tmp_path / "result.json")
    pinned = admitted.reference
    parameters = ServeParameters(reference=pinned, served_model_name="m")
    options = ServeOptions(policy=admitted.policy.dump(), files=admitted.trusted.files)
    check_image(parameters, options, context)
    with unpacked(pinned, StepRequest(step=Step.SERVE, run="r"), context) as folder:
        scene.at_rest(folder)
        check_files(folder, options, context)
    return said.getvalue()


def found(scene: Scene, tampering: Tampering, tmp_path: Path) -> None:
    tampering.act(scene)
    with pytest.raises((NotTrusted, BadInput)) as caught:
        serve(scene, tmp_path)
    assert re.search(tampering.found, caught.value.message), caught.value.message


def test_what_nobody_touched_is_served(scene: Scene, layout: Scene, keyless: KeylessScene, tmp_path: Path) -> None:
    """The table would else be full of models that never pass."""
    for one, who in ((scene, "release"), (layout, "release"), (keyless, f"ci: {SUBJECT}")):
        folder = tmp_path / str(id(one))
        folder.mkdir()
        said = serve(one, folder)
        assert "7 files are what was signed" in said
        assert f"provenance: signed by {who}" in said


@pytest.mark.parametrize("tampering", rows(REGISTRY))
def test_in_the_registry(scene: Scene, tampering: Tampering, tmp_path: Path) -> None:
    found(scene, tampering, tmp_path)


@pytest.mark.parametrize("tampering", rows(KEYLESS))
def test_without_a_key(keyless: KeylessScene, tampering: Tampering, tmp_path: Path) -> None:
    found(keyless, tampering, tmp_path)


@pytest.mark.parametrize("at_rest", ["shelf", "layout"], indirect=True)
@pytest.mark.parametrize("tampering", rows(AT_REST))
def test_where_it_lies(at_rest: Scene, tampering: Tampering, tmp_path: Path) -> None:
    found(at_rest, tampering, tmp_path)


@pytest.mark.parametrize("tampering", rows(HOST))
def test_on_the_serving_host(scene: Scene, tampering: Tampering, tmp_path: Path) -> None:
    found(scene, tampering, tmp_path)


@pytest.mark.parametrize("tampering", rows(IN_FLIGHT))
def test_in_flight(scene: Scene, tampering: Tampering, tmp_path: Path) -> None:
    with _proxy(Reference.parse(scene.model.reference).registry, scene) as address:
        there = Reference.parse(scene.model.reference)
        scene.reference = f"{address}/{there.repository}@{there.digest}"
        serve(scene, tmp_path)  # until somebody changes what passes, it is served through there, too
        shutil.rmtree(tmp_path / "home")
        found(scene, tampering, tmp_path)


@contextmanager
def _proxy(registry: str, scene: Scene) -> Iterator[str]:
    """Passes answers of the registry on, changed as the scene says."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            """Tests look at what comes of it."""

        def do_GET(self) -> None:
            headers = {name: value for name, value in self.headers.items() if name.lower() in {"accept", "range"}}
            answer = httpx.get(f"http://{registry}{self.path}", headers=headers)
            content = answer.content
            for part, change in scene.in_flight:
                content = change(content) if part in self.path and answer.is_success else content
            self.send_response(answer.status_code)
            self.send_header("Content-Type", answer.headers.get("Content-Type", "application/octet-stream"))
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def test_no_signed_model_is_needed_without_a_policy(scene: Scene, tmp_path: Path) -> None:
    """It says so, and serves."""
    said: list[str] = []
    assert admit(scene.model.reference, None, scene.settings, said.append) is None
    assert said == [
        "no policy is set: served without looking at signatures (--policy FILE, or the setting trust.policy)"
    ]
    (tmp_path / "p.yaml").write_text("keys: [{name: a, file: a.pub}]\n")
    shutil.copy(KEYS / "other.pub", tmp_path / "a.pub")
    with pytest.raises(NotTrusted, match="not an image that could be signed"):
        admit("hf://org/model", tmp_path / "p.yaml", scene.settings, said.append)


def test_the_table_is_the_docs(root: Path) -> None:
    """Each tampering is a row of docs/trust.md."""
    page = (root / "docs" / "trust.md").read_text()
    for one in (*REGISTRY, *KEYLESS, *AT_REST, *IN_FLIGHT, *HOST):
        assert f"| {one.place} | {one.what} |" in page
