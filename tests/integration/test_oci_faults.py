"""A registry that fails: what is temporary is tried again, what is not is one clear message, and nothing half is published."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr

from containers.errors import BadInput, Temporary
from containers.oci import referrers
from containers.oci.access import open_push_cache, open_repository, resolve
from containers.oci.candidates import find_candidates, mark_pushed
from containers.oci.referrers import Attachment
from containers.oci.unpack import unpack
from containers.oci.verify import verify
from containers.settings import RegistrySettings, StepSettings
from tests.support.modelcars import push_folder, settle, write_checkpoint
from tests.support.registry_double import Fault, RegistryDouble, registry_double
from tests.support.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.integration

MB = 1 << 20


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "checkpoint", size=4 * MB)


@pytest.fixture
def settings(tmp_path: Path) -> StepSettings:
    return StepSettings(
        cache=tmp_path / "cache", docker_config=tmp_path / "docker", registry=RegistrySettings(attempts=3, timeout=10)
    )


@pytest.mark.parametrize(
    ("fault", "error", "says"),
    [
        (Fault("POST", "uploads", status=401), BadInput, "answered 401.*log in"),
        (Fault("POST", "uploads", status=403, times=99), BadInput, "answered 403.*not allowed"),
        (Fault("POST", "uploads", status=404, times=99), BadInput, "answered 404.*check the name"),
        (Fault("PATCH", "uploads", status=413, times=99), BadInput, "answered 413.*smaller shards"),
        (Fault("PUT", "manifests", status=400, times=99), BadInput, "answered 400.*as told"),
        (Fault("POST", "uploads", status=429, times=99), Temporary, "answered 429"),
        (Fault("PATCH", "uploads", status=500, times=99), Temporary, "answered 500"),
        (Fault("PUT", "manifests", status=503, times=99), Temporary, "answered 503"),
        (Fault("PATCH", "uploads", reset_after=0, times=99), Temporary, "was lost"),
        (Fault("PUT", "uploads", lie=True, times=99), BadInput, "stored .* as sha256:0000"),
        (Fault("PUT", "manifests", lie=True, times=99), BadInput, "stored the manifest .* as sha256:0000"),
    ],
    ids=lambda value: (
        f"{value.method}-{value.status or value.reset_after}-{value.path}" if isinstance(value, Fault) else ""
    ),
)
def test_failures_that_stay(
    checkpoint: Path, settings: StepSettings, fault: Fault, error: type[Exception], says: str
) -> None:
    """The error names the registry and what to do; no tag and no manifest is there afterwards."""
    with registry_double(faults=[fault]) as registry:
        with pytest.raises(error, match=f"(?s){says}"):
            push_folder(checkpoint, f"{registry.address}/org/car:v1", settings)
        if "manifests" not in fault.path:
            assert not registry.manifests
        assert not registry.tags or fault.lie


@pytest.mark.parametrize(
    "fault",
    [
        Fault("HEAD", "blobs", status=502, times=2),
        Fault("POST", "uploads", status=429, headers={"Retry-After": "1"}),
        Fault("PATCH", "uploads", status=500, times=2),
        Fault("PATCH", "uploads", status=401),
        Fault("PATCH", "uploads", status=404),
        Fault("PUT", "uploads", status=503),
        Fault("PUT", "manifests", status=500, times=2),
        Fault("PATCH", "uploads", reset_after=1 << 20, times=2),
    ],
    ids=lambda fault: f"{fault.method}-{fault.status or 'reset'}",
)
def test_failures_that_pass(checkpoint: Path, settings: StepSettings, fault: Fault) -> None:
    """After a temporary error the push goes on, and the image is the right one."""
    expected = push_folder(checkpoint, f"oci:{checkpoint.parent}/car", settings).digest
    with registry_double(faults=[fault], auth="bearer") as registry:
        _log_in(settings, registry)
        started = time.monotonic()
        pushed = push_folder(checkpoint, f"{registry.address}/org/car:v1", settings)
        assert pushed.digest == expected
        assert registry.tags["org/car", "v1"] == str(expected)
        assert not fault.times, "the fault was met"
        if fault.headers:
            assert time.monotonic() - started >= 1.0


def test_goes_on_where_a_blob_broke_off(checkpoint: Path, settings: StepSettings) -> None:
    """A reset in mid-blob costs what was on its way and not the blob: the next PATCH begins where the registry is."""
    fault = Fault("PATCH", "uploads", reset_after=3 * MB, times=1)
    with registry_double(faults=[fault]) as registry:
        pushed = push_folder(checkpoint, f"{registry.address}/org/car", settings)
        total = sum(len(content) for content in registry.blobs.values())
        assert registry.received <= total + MB
        assert any(method == "GET" and "uploads" in path for method, path in registry.requests)
        assert not verify(
            f"{registry.address}/org/car@{pushed.digest}", settings, open_push_cache(settings)
        ).differences


def test_goes_on_after_a_kill(checkpoint: Path, settings: StepSettings, root: Path, tmp_path: Path) -> None:
    """A push killed in mid-blob is taken up by the next process at the byte that it had reached."""
    with registry_double() as registry:
        settle()
        push_folder(checkpoint, f"oci:{tmp_path}/known", settings)
        code = (
            "import sys, time; from pathlib import Path; from containers.settings import StepSettings;"
            "from containers.oci import source; from tests.support.modelcars import push_folder;"
            "opened = source.CheckpointFolder.open;"
            "slow = type('Slow', (), {'__init__': lambda s, f: setattr(s, 'f', f), 'close': lambda s: s.f.close(),"
            "'read': lambda s, n=-1: (time.sleep(0.1), s.f.read(1 << 18))[1]});"
            "source.CheckpointFolder.open = lambda s, p, o=0, **_: slow(opened(s, p, o)) if p.endswith('safetensors')"
            " else opened(s, p, o);"
            "push_folder(Path(sys.argv[1]), sys.argv[2], StepSettings(cache=Path(sys.argv[3])))"
        )
        argv = [sys.executable, "-c", code, str(checkpoint), f"{registry.address}/org/car", str(settings.cache)]
        child = subprocess.Popen(argv, cwd=root, env={"PATH": os.environ["PATH"]})
        until(lambda: max((len(one) for one in registry.uploads.values()), default=0) >= 2 * MB, "half a blob is there")
        child.kill()
        child.wait()
        until(lambda: registry.connections == 0, "the registry has noticed")
        assert not registry.tags
        before = registry.received
        reached = sum(len(one) for one in registry.uploads.values())
        pushed = push_folder(checkpoint, f"{registry.address}/org/car", settings)
        total = sum(len(content) for content in registry.blobs.values())
        assert registry.received - before <= total - reached + MB // 4
        assert registry.tags["org/car", pushed.candidate_tag] == str(pushed.digest)


def test_a_body_limit_is_worked_around(tmp_path: Path, settings: StepSettings) -> None:
    """A proxy that takes no large body (413) gets the blob in pieces that it takes."""
    checkpoint = write_checkpoint(tmp_path / "large", shards=1, size=40 * MB)
    with registry_double(faults=[Fault("PATCH", "uploads", status=413, times=1000, over=35 * MB)]) as registry:
        pushed = push_folder(checkpoint, f"{registry.address}/org/car", settings)
        assert registry.tags["org/car", pushed.candidate_tag] == str(pushed.digest)


def test_a_registry_that_lies_when_read(checkpoint: Path, settings: StepSettings, tmp_path: Path) -> None:
    """Other bytes than the digest names are noticed, in a manifest and in a layer, and nothing is unpacked."""
    with registry_double() as registry:
        pushed = push_folder(checkpoint, f"{registry.address}/org/car", settings)
        reference = f"{registry.address}/org/car@{pushed.digest}"
        registry.faults = [Fault("GET", "manifests", lie=True)]
        with pytest.raises(BadInput, match="gave a manifest"):
            resolve(reference, settings)
        biggest = max(registry.blobs, key=lambda key: len(registry.blobs[key]))[1]
        registry.faults = [Fault("GET", biggest, lie=True)]
        with pytest.raises(BadInput, match="other bytes than"):
            unpack(reference, tmp_path / "model", settings)
        assert not (tmp_path / "model").exists()
        registry.faults = [Fault("GET", biggest, lie=True)]
        found = verify(reference, settings, open_push_cache(settings)).differences
        assert [(one.kind, one.path) for one in found] == [("damaged", found[0].path)]
        assert found[0].path.endswith(".safetensors")


def test_unpacking_goes_on(checkpoint: Path, settings: StepSettings, tmp_path: Path) -> None:
    """A download that is cut goes on with a range; layers that were unpacked are not read again."""
    with registry_double() as registry:
        pushed = push_folder(checkpoint, f"{registry.address}/org/car", settings)
        reference = f"{registry.address}/org/car@{pushed.digest}"
        registry.faults = [Fault("GET", "blobs", reset_after=1000, times=2)]
        unpack(reference, tmp_path / "model", settings)
        for path in checkpoint.rglob("*.safetensors"):
            assert (tmp_path / "model" / path.relative_to(checkpoint)).read_bytes() == path.read_bytes()
        registry.requests.clear()
        unpack(reference, tmp_path / "model", settings)
        assert not [path for _, path in registry.requests if "/blobs/" in path]


def _log_in(settings: StepSettings, registry: RegistryDouble, **entry: str) -> None:
    assert settings.docker_config is not None
    settings.docker_config.mkdir(exist_ok=True)
    login = entry or {"auth": base64.b64encode(b"ann:secret").decode()}
    (settings.docker_config / "config.json").write_text(json.dumps({"auths": {registry.address: login}}))


@pytest.mark.parametrize("auth", ["basic", "bearer"])
def test_login_from_dockers_file(checkpoint: Path, settings: StepSettings, auth: str) -> None:
    """The login of `docker login` is used; without it the message says how to log in."""
    with registry_double(auth=auth) as registry:
        with pytest.raises(BadInput, match="docker login"):
            push_folder(checkpoint, f"{registry.address}/org/car", settings)
        _log_in(settings, registry)
        pushed = push_folder(checkpoint, f"{registry.address}/org/car", settings)
        assert registry.tags["org/car", pushed.candidate_tag] == str(pushed.digest)
        if auth == "bearer":
            assert registry.tokens[-1]["scope"] == ["repository:org/car:pull,push"]
            assert registry.tokens[-1]["service"] == ["test"]


def test_login_by_refresh_token(checkpoint: Path, settings: StepSettings) -> None:
    """An identity token is exchanged with a POST, as Docker's token specification says."""
    with registry_double(auth="bearer") as registry:
        _log_in(settings, registry, identitytoken="refresh")
        push_folder(checkpoint, f"{registry.address}/org/car", settings)
        assert registry.tokens[-1]["method"] == "POST"


def test_login_from_settings(checkpoint: Path, settings: StepSettings) -> None:
    """User name and password of the settings come first; a wrong one is a clear message and no retry."""
    with registry_double(auth="basic") as registry:
        wrong = settings.model_copy(
            update={
                "registry": RegistrySettings(
                    host=registry.address, username="ann", password=SecretStr("wrong"), attempts=3
                )
            }
        )
        with pytest.raises(BadInput, match="answered 401") as caught:
            push_folder(checkpoint, f"{registry.address}/org/car", wrong)
        assert "wrong" not in str(caught.value).replace("UNAUTHORIZED", "")
        right = settings.model_copy(
            update={"registry": RegistrySettings(host=registry.address, username="ann", password=SecretStr("secret"))}
        )
        assert push_folder(checkpoint, f"{registry.address}/org/car", right).pushed_bytes > 0


def test_login_from_a_helper(
    checkpoint: Path, settings: StepSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A credential helper is asked with the registry's name on its standard input."""
    helper = tmp_path / "bin" / "docker-credential-test"
    helper.parent.mkdir()
    helper.write_text('#!/bin/sh\nread server\necho "{\\"Username\\":\\"ann\\",\\"Secret\\":\\"secret\\"}"\n')
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{helper.parent}:{os.environ['PATH']}")
    with registry_double(auth="basic") as registry:
        assert settings.docker_config is not None
        settings.docker_config.mkdir()
        login = {"credHelpers": {registry.address: "test"}}
        (settings.docker_config / "config.json").write_text(json.dumps(login))
        assert push_folder(checkpoint, f"{registry.address}/org/car", settings).pushed_bytes > 0


def test_mounts_from_another_repository(checkpoint: Path, settings: StepSettings) -> None:
    """What another repository of the registry has is not sent again."""
    with registry_double() as registry:
        settle()
        push_folder(checkpoint, f"{registry.address}/org/one", settings)
        before = registry.received
        pushed = push_folder(checkpoint, f"{registry.address}/org/two", settings)
        assert registry.received == before
        assert pushed.pushed_bytes == 0
        assert registry.tags["org/two", pushed.candidate_tag] == str(pushed.digest)


@pytest.mark.parametrize("api", [True, False])
def test_referrers(checkpoint: Path, settings: StepSettings, *, api: bool) -> None:
    """What is attached is listed and fetched again, by the API and by the fallback tag; twice is once."""
    with registry_double(referrers_api=api) as registry:
        pushed = push_folder(checkpoint, f"{registry.address}/org/car", settings)
        with open_repository(f"{registry.address}/org/car", settings, write=True) as repository:
            files = (Attachment("verdict.json", "application/json", b'{"decision":"pass"}'),)
            digest, there = referrers.attach(repository, pushed.digest, referrers.EVALUATION, files)
            assert not there
            assert referrers.attach(repository, pushed.digest, referrers.EVALUATION, files) == (digest, True)
            found = referrers.attached(repository, pushed.digest, referrers.EVALUATION)
            assert [one.digest for one in found] == [digest]
            assert referrers.fetch(repository, found[0]) == files
        assert (("org/car", f"sha256-{pushed.digest.hex}") in registry.tags) is not api


def test_two_attach_at_once(checkpoint: Path, settings: StepSettings) -> None:
    """Eight clients attach to one image at once by the fallback tag: all eight are listed."""
    with registry_double() as registry:
        pushed = push_folder(checkpoint, f"{registry.address}/org/car", settings)

        def attach(number: int) -> None:
            with open_repository(f"{registry.address}/org/car", settings, write=True) as repository:
                files = (Attachment("report.json", "application/json", str(number).encode()),)
                referrers.attach(repository, pushed.digest, referrers.EVALUATION, files)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(attach, range(8)))
        with open_repository(f"{registry.address}/org/car", settings) as repository:
            assert len(referrers.attached(repository, pushed.digest)) == 8


def test_two_pushes_of_one_reference(checkpoint: Path, settings: StepSettings, tmp_path: Path) -> None:
    """Four pushes of one image at once, each with a memory of its own: one image, right, under one tag."""
    with registry_double() as registry:

        def push(number: int) -> str:
            own = settings.model_copy(update={"cache": tmp_path / f"cache{number % 2}"})
            return str(push_folder(checkpoint, f"{registry.address}/org/car:v1", own).digest)

        with ThreadPoolExecutor(4) as pool:
            digests = set(pool.map(push, range(4)))
        assert digests == {registry.tags["org/car", "v1"]}
        found = verify(f"{registry.address}/org/car:v1", settings, open_push_cache(settings), against=str(checkpoint))
        assert found.ok


def test_pages_of_tags(checkpoint: Path, settings: StepSettings) -> None:
    """A listing in pages is followed to its end."""
    with registry_double() as registry:
        pushed = push_folder(checkpoint, f"{registry.address}/org/car", settings)
        with open_repository(f"{registry.address}/org/car", settings, write=True) as repository:
            stored = repository.get(str(pushed.digest))
            assert stored is not None
            for number in range(8):
                repository.put(stored.content, stored.media_type, f"v{number}")
            assert len(repository.tags()) == 9
            assert find_candidates(repository, older=timedelta(0)) == ()


def test_the_age_of_a_candidate_is_counted_by_the_registry_s_clock(
    checkpoint: Path, settings: StepSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the clocks of the machine that pushed and of the one that cleans say; by their own it was pushed just now."""
    hour = 3600.0

    def there(date: str) -> None:
        monkeypatch.setattr(BaseHTTPRequestHandler, "date_time_string", lambda *_: date)

    with registry_double() as registry:
        pushed = push_folder(checkpoint, f"{registry.address}/org/car", settings)
        with open_repository(f"{registry.address}/org/car", settings, write=True) as repository:
            there("Sat, 01 Jan 2000 00:00:00 GMT")
            mark_pushed(repository, pushed.digest)
            there("Sat, 01 Jan 2000 03:00:00 GMT")
            assert find_candidates(repository, timedelta(hours=4)) == ()
            (found,) = find_candidates(repository, timedelta(hours=2))
            assert found.pushed == datetime(2000, 1, 1, tzinfo=UTC)
            for odd in ("", "yesterday", "Sat, 01 Jan 2000 03:00:00 -0000"):
                there(odd)
                assert abs(repository.now().timestamp() - time.time()) < hour


def test_no_registry_there(checkpoint: Path, settings: StepSettings) -> None:
    """A port where nothing listens is temporary, and says that it cannot connect."""
    with pytest.raises(Temporary, match="cannot connect"):
        push_folder(checkpoint, "127.0.0.1:1/org/car", settings)
