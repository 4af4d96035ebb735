"""The base "minimal": its bytes, its layer, and what its shell runs and refuses."""

from __future__ import annotations

import hashlib
import io
import platform
import random
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from containers.errors import BadInput
from containers.oci import minimal
from containers.oci.access import open_push_cache, open_repository
from containers.oci.base import minimal_base
from containers.oci.lint import lint
from containers.oci.modelcar import Push
from containers.oci.plan import make_plan
from containers.oci.prepare import open_bases
from containers.oci.reference import Reference
from containers.oci.repository import image
from containers.oci.source import CheckpointFolder
from infra.settings import Settings
from tests.support.modelcar_commands import KSERVE_LOOKS, KUBEFLOW_WAITS, LINKS
from tests.support.modelcars import write_checkpoint
from tests.support.waiting import until

NATIVE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), "")
EMULATORS = {"amd64": "qemu-x86_64-static", "arm64": "qemu-aarch64-static"}
HERE = {NATIVE: ()} | {
    architecture: (found,) for architecture, name in EMULATORS.items() if (found := shutil.which(name))
}
MACHINES = {"amd64": 62, "arm64": 183}  # e_machine
LAYERS = {
    "amd64": "54cbb5a4a854d3da0ab32062a9c67314f22cbdf85fcfe3177ce7f9b71c12cc3e",
    "arm64": "37752866dcd3312bb37a7f3eb4e5d0adb28290206048d13714f9114c5fec0ff7",
}
WHOLE = "sha256:ab02ace2851fbb5ed7169339e0b0866de5f6a3ccd34fbb99657c9c48afa242c4"


@dataclass(frozen=True)
class Segment:
    """One program header of an ELF file."""

    kind: int
    flags: int
    align: int


def segments(program: bytes) -> list[Segment]:
    offset, size, count = (
        struct.unpack_from(form, program, at)[0] for form, at in (("<Q", 32), ("<H", 54), ("<H", 56))
    )
    found = []
    for at in range(offset, offset + size * count, size):
        kind, flags = struct.unpack_from("<II", program, at)
        found.append(Segment(kind, flags, struct.unpack_from("<Q", program, at + 48)[0]))
    return found


@pytest.mark.parametrize("architecture", minimal.SHELLS)
def test_the_programs_are_static_and_for_their_architecture(architecture: str) -> None:
    """Nothing to load, nothing both writable and executable, and segments that fit pages of 64 KiB where arm64 has them."""
    load, dynamic, interpreter, stack = 1, 2, 3, 0x6474E551
    executable, writable = 1, 2
    program = minimal.shell(architecture)
    assert program[:7] == b"\x7fELF\x02\x01\x01"
    assert struct.unpack_from("<HH", program, 16) == (2, MACHINES[architecture])
    assert len(program) < 32 << 10
    found = segments(program)
    assert not {one.kind for one in found} & {dynamic, interpreter}
    assert not [one for one in found if one.flags & executable and one.flags & writable]
    assert [one.flags & executable for one in found if one.kind == stack] == [0]
    page = {"amd64": 4096, "arm64": 65536}[architecture]
    assert {one.align for one in found if one.kind == load} == {page}
    assert b"/work" not in program
    assert b"/tmp" not in program


def test_the_programs_are_compiled_from_the_source_that_lies_beside_them() -> None:
    """`make shell`, which a campaign runs, says so by compiling; this says that it was run after the last change."""
    assert hashlib.sha256(Path(minimal.__file__).with_name("sh.zig").read_bytes()).hexdigest() == minimal.SOURCE


def test_another_program_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(minimal, "path_of", lambda architecture: tmp_path / architecture)
    with pytest.raises(BadInput, match="cannot read"):
        minimal.shell("amd64")
    (tmp_path / "amd64").write_bytes(b"\x7fELF")
    with pytest.raises(BadInput, match="not the program that modelcars are made with"):
        minimal.shell("amd64")
    with pytest.raises(BadInput, match=r"no minimal base for riscv64, only for amd64, arm64"):
        minimal_base("linux/riscv64")


@pytest.mark.parametrize("architecture", minimal.SHELLS)
def test_the_layer_is_the_same_everywhere(architecture: str) -> None:
    """To the byte; a program, its other names, its licences, and the folder for the link."""
    content = minimal.base_layer(architecture)
    assert hashlib.sha256(content).hexdigest() == LAYERS[architecture]
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        members = {one.name: one for one in tar}
    assert {one.mtime for one in members.values()} == {0}
    assert {(one.uid, one.gid, one.uname, one.gname) for one in members.values()} == {(0, 0, "", "")}
    assert {name: one.linkname for name, one in members.items() if one.issym()} == dict.fromkeys(
        ("bin/ln", "bin/ls", "bin/sleep"), "sh"
    )
    assert {name: one.mode for name, one in members.items() if one.isfile()} == {
        "bin/sh": 0o755,
        "usr/share/doc/carwright/NOTICE": 0o644,
    }
    assert {one.mode for name, one in members.items() if one.isdir() and name != "mnt"} == {0o755}
    assert members["mnt"].mode == 0o1777


@dataclass(frozen=True)
class Programs:
    """/bin of the base, unpacked."""

    emulator: tuple[str, ...]
    folder: Path

    def argv(self, *words: str | bytes) -> list[str | bytes]:
        return [*self.emulator, str(self.folder / str(words[0])), *words[1:]]

    def __call__(self, *words: str | bytes, cwd: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.argv(*words), cwd=cwd, env={}, capture_output=True, text=True, check=False, timeout=60
        )


@pytest.fixture(scope="module", params=HERE)
def programs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Programs:
    """On this machine's own architecture, and on those that an emulator is at hand for."""
    folder = tmp_path_factory.mktemp("base")
    with tarfile.open(fileobj=io.BytesIO(minimal.base_layer(request.param))) as tar:
        tar.extractall(folder, filter="tar")
    return Programs(HERE[request.param], folder / "bin")


@pytest.fixture
def models(tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "config.json").touch()
    (tmp_path / "models" / ".hidden").touch()
    (tmp_path / "empty").mkdir()
    return tmp_path


def ended(child: subprocess.Popen[Any]) -> int:
    child.kill()
    with child:
        return child.wait()


@pytest.mark.parametrize("line", LINKS)
def test_kserves_sidecar(programs: Programs, models: Path, line: str) -> None:
    """The link leads to the root of the very process that then sleeps, also after a start before; SIGTERM ends it."""
    link = models / "link"
    if "-sf" in line:
        link.symlink_to(models / "models")  # of the process before: the link is replaced, and not followed
    line = line.replace("/mnt/models", "link")
    child = subprocess.Popen(programs.argv("sh", "-c", line), cwd=models, env={})
    try:
        wanted = f"/proc/{child.pid}/root/models"
        until(lambda: link.is_symlink() and str(link.readlink()) == wanted, "the link is there")
        child.send_signal(signal.SIGTERM)
        assert child.wait(timeout=30) == 128 + signal.SIGTERM
    finally:
        ended(child)
    assert {one.name for one in (models / "models").iterdir()} == {".hidden", "config.json"}


@pytest.mark.parametrize("line", KSERVE_LOOKS)
def test_kserves_look_at_the_model(programs: Programs, models: Path, line: str) -> None:
    """As its init container does: 0 with files, 1 without, 1 without the folder."""
    good = programs("sh", "-c", line.replace("/models", "models"), cwd=models)
    assert (good.returncode, good.stderr) == (0, "")
    assert good.stdout.splitlines()[1:] == ["OK ... Prefetched and valid (models exists)"]
    for absent in ("empty", "nowhere"):
        bad = programs("sh", "-c", line.replace("/models", absent), cwd=models)
        assert bad.returncode == 1
        assert bad.stdout.splitlines()[1:] == [
            f"NOK ... Prefetched but modelcar is invalid ({absent} does not exist or is empty)"
        ]


def test_a_hidden_file_is_a_file(programs: Programs, models: Path) -> None:
    """-A counts it, and a model of many files is no problem."""
    (models / "models" / "config.json").unlink()
    assert programs("sh", "-c", '[ "$(ls -A models)" ]', cwd=models).returncode == 0
    assert programs("sh", "-c", '[ "$(ls models)" ]', cwd=models).returncode == 1
    for number in range(2000):
        (models / "empty" / f"{number:0100}").touch()
    assert programs("sh", "-c", '[ "$(ls -A empty)" ]', cwd=models).returncode == 0
    assert len(set(programs("ls", "empty", cwd=models).stdout.split())) == 2000


def test_kubeflows_sidecar(programs: Programs, models: Path) -> None:
    """It ends when the launcher says so, with 0."""
    line = KUBEFLOW_WAITS.replace("/oci", str(models))
    child = subprocess.Popen(programs.argv("sh", "-c", line), cwd=models, env={}, stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "Running Modelcar container...\n"
        assert child.poll() is None
        (models / "launcher-complete").touch()
        assert child.wait(timeout=30) == 0
    finally:
        ended(child)


@pytest.mark.parametrize("sent", [signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM])
@pytest.mark.parametrize("line", ["echo ready && sleep infinity", "echo ready; until [ -f x ]; do [ x ]; done"])
def test_signals_end_it(programs: Programs, models: Path, line: str, sent: signal.Signals) -> None:
    """While it sleeps, before that, and in a loop that never sleeps: a signal waits until somebody looks."""
    child = subprocess.Popen(programs.argv("sh", "-c", line), cwd=models, env={}, stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        child.send_signal(sent)
        assert child.wait(timeout=30) == 128 + sent
    finally:
        ended(child)


def test_the_programs_by_their_names(programs: Programs, models: Path) -> None:
    """As `kubectl exec` and our own targets start them."""
    assert programs("ls", "models", cwd=models).stdout == "config.json\n"
    assert sorted(programs("ls", "-A", "models", cwd=models).stdout.split()) == [".hidden", "config.json"]
    assert programs("ls", cwd=models).stdout.split().count("models") == 1
    assert programs("ls", "models/config.json", cwd=models).stdout == "models/config.json\n"
    assert programs("ln", "-s", "target", "made", cwd=models).returncode == 0
    assert str((models / "made").readlink()) == "target"
    assert programs("sleep", "0", cwd=models).returncode == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("ls", "nowhere"), "ls: nowhere: no such file or folder\n"),
        (("ln", "-s", "x", "link"), "ln: link: it is there already\n"),
        (("ln", "-sf", "x", "empty"), "ln: empty: it is a folder, and only a link is replaced\n"),
        (("ln", "-sf", "x", "no/link"), "ln: no/link: no such file or folder\n"),
        (
            ("ln", "-sf", "x", "models/config.json/link"),
            "ln: models/config.json/link: a part of the path is not a folder\n",
        ),
        (("ln", "-s", "x", "a" * 300), f"ln: {'a' * 300}: error 36\n"),
    ],
    ids=lambda value: " ".join(value)[:20] if isinstance(value, tuple) else "",
)
def test_what_fails_says_why(programs: Programs, models: Path, words: tuple[str, ...], said: str) -> None:
    (models / "link").symlink_to("y")
    done = programs(*words, cwd=models)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", said)
    assert str((models / "link").readlink()) == "y"


REFUSED: list[tuple[str | bytes, str]] = [
    ("", "ends too early"),
    ("   ", "ends too early"),
    ("ls models | cat", "does not understand | cat"),
    ("ls models > out", "does not understand > out"),
    ("ls < models", "does not understand < models"),
    ("ls 2>&1", "does not understand >&1"),
    ("sleep infinity &", "does not understand &"),
    ("rm -rf /", "no command rm"),
    ("ln -s a MARK && rm MARK", "no command rm"),
    ("echo $(ls)", "does not understand $(ls)"),
    ('echo "$(ls "$(ls)")"', "does not understand $(ls"),
    ("echo `ls`", "does not understand `ls`"),
    ('echo "`ls`"', "does not understand `ls`"),
    ("echo $HOME", "does not understand $HOME"),
    ('echo "$HOME"', "does not understand $HOME"),
    ("echo ${HOME}", "does not understand ${HOME}"),
    ("echo $((1 + 1))", "does not understand $((1"),
    ("echo 'a", "a quote is not closed"),
    ('echo "a', "a quote is not closed"),
    ('[ "$(ls models', "ends too early"),
    ("echo *", "does not understand *"),
    ("echo a?", "does not understand ?"),
    ("ls mod[e]ls", "does not understand [e]ls"),
    ("ls ~", "does not understand ~"),
    ("echo a\\ b", "does not understand \\ b"),
    ("ls # all", "does not understand # all"),
    ("! ls", "does not understand ! ls"),
    ("{ ls; }", "does not understand { ls"),
    ("ls\nls", "does not understand \nls"),
    ("if ls; then ls; fi", "no command if"),
    ("while ls; do ls; done", "no command while"),
    ("for i in a; do ls; done", "no command for"),
    ("exec sleep 1", "no command exec"),
    ("A=1 ls", "no command A=1"),
    ("/bin/ls", "no command /bin/ls"),
    ("f() ls", "no command f"),
    ("ls ()", "does not understand ()"),
    ("ls && ", "ends too early"),
    ("&& ls", "does not understand && ls"),
    ("ls ;; ls", "does not understand ; ls"),
    ("(ls", "ends too early"),
    ("ls)", "does not understand )"),
    ("()", "does not understand )"),
    ("(ls) ls", "does not understand ls"),
    ("until ls; done", "does not understand done"),
    ("until ls do ls done", "ls takes -A or no option, and one path"),
    ("until ls; do ls", "ends too early"),
    ("until; do ls; done", "does not understand ; do"),
    ("[ -d models", "a [ is not closed"),
    ("[ ]", "[ takes a text"),
    ("[ a = b ]", "[ takes a text"),
    ("[ -e models ]", "[ takes a text"),
    ("[[ -d models ]]", "does not understand [[ -d"),
    ("test -d models", "no command test"),
    ("echo -n a", "echo takes no options"),
    ("exit", "exit takes one number"),
    ("exit 256", "exit takes one number"),
    ("exit -1", "exit takes one number"),
    ("sleep", "sleep takes"),
    ("sleep 1.5", "sleep takes"),
    ("sleep 1m", "sleep takes"),
    ("sleep 1 2", "sleep takes"),
    ("sleep 99999999999", "sleep takes"),
    ("ls -l models", "ls takes -A"),
    ("ls a b", "ls takes -A"),
    ("ln a b", "ln takes -s"),
    ("ln -s a", "ln takes -s"),
    ("ln -sf a b c", "ln takes -s"),
    ("ln -sn a b", "ln takes -s"),
    (b"echo \xff", "is not UTF-8"),
    (b"echo '\xc3\x28'", "is not UTF-8"),
    ("echo " + "a" * 20_000, "is too long"),
    ("echo " + "a " * 40, "too many words"),
    ("(" * 40 + "ls" + ")" * 40, "nested too deeply"),
    ("(" * 15_000, "nested too deeply"),
]


@pytest.mark.parametrize(("line", "why"), REFUSED, ids=[str(number) for number in range(len(REFUSED))])
def test_what_it_does_not_know_is_refused_before_anything_runs(
    programs: Programs, models: Path, line: str | bytes, why: str
) -> None:
    """The whole line is looked at first: what stands before the part that is refused does not happen either."""
    before = sorted(models.iterdir())
    done = programs("sh", "-c", line, cwd=models)
    assert (done.returncode, done.stdout) == (2, "")
    assert why in done.stderr
    assert done.stderr.startswith("sh: refused: ")
    assert "understands only what KServe runs" in done.stderr
    if isinstance(line, str) and line.strip():
        early = programs("sh", "-c", f"ln -s a early && echo early; {line}", cwd=models)
        assert (early.returncode, early.stdout) == (2, "")
    assert sorted(models.iterdir()) == before


@pytest.mark.parametrize(
    "words",
    [("sh",), ("sh", "-c"), ("sh", "ls"), ("sh", "-ec", "ls"), ("sh", "-c", "ls", "name"), ("sh", "-c", *["a"] * 60)],
    ids=["nothing", "no line", "a script", "options", "a name", "many"],
)
def test_other_ways_to_call_a_shell_are_refused(programs: Programs, models: Path, words: tuple[str, ...]) -> None:
    done = programs(*words, cwd=models)
    assert (done.returncode, done.stdout) == (2, "")
    assert "sh: refused: " in done.stderr


def test_another_name_is_refused(programs: Programs, models: Path) -> None:
    (models / "cat").symlink_to(programs.folder / "sh")
    done = subprocess.run([*programs.emulator, str(models / "cat")], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "it is not called sh, ln, ls or sleep, but cat" in done.stderr


_PIECES = (
    "echo a", "echo 'b  c'", 'echo "d $(echo e; echo f)"', "exit 3", "exit 0", "[ x ]", "[ '' ]", "[ -d models ]",
    "[ -f models ]", "[ -f models/config.json ]", "ls models", '[ "$(ls empty)" ]', '[ "$(exit 1)" ]', "ls nowhere",
    "sleep 0", "until [ x ]; do echo no; done", "until echo g; do exit 5; done", "until exit 6; do echo h; done",
    "until [ '' ]; do exit 7; done", "echo it''\"s\"", "echo done do until", 'echo "$(exit 4)" i',
)  # fmt: skip


def _line(chance: random.Random, depth: int = 0) -> str:
    parts = []
    for _ in range(chance.randint(1, 4)):
        inner = depth < 3 and chance.random() < 0.3
        parts.append(f"({_line(chance, depth + 1)})" if inner else chance.choice(_PIECES))
    joined = parts[0]
    for part in parts[1:]:
        joined += chance.choice([" && ", " || ", "; ", "&&", "||", ";"]) + part
    return joined + chance.choice(["", "", " ", ";"])


def test_it_means_what_every_other_shell_means(programs: Programs, models: Path) -> None:
    """100 lines of what it understands, put together by chance: the output and the exit code of this machine's shell."""
    chance = random.Random(20261127)
    for _ in range(100):
        line = _line(chance)
        ours = programs("sh", "-c", line, cwd=models)
        theirs = subprocess.run(["/bin/sh", "-c", line], cwd=models, capture_output=True, text=True, check=False)
        failed = {1, 2}  # what other people's `ls` says of a folder that is not there
        same = ours.returncode == theirs.returncode or {ours.returncode, theirs.returncode} <= failed
        assert (same, ours.stdout) == (True, theirs.stdout), line


def test_a_push_needs_no_other_program(root: Path, tmp_path: Path) -> None:
    """With nothing on the PATH, a home that is empty and no cache: the digest that it has everywhere."""
    write_checkpoint(tmp_path / "checkpoint")
    (tmp_path / "empty").mkdir()
    argv = ["-m", "flows.cli.main", "push", str(tmp_path / "checkpoint"), f"oci:{tmp_path}/car"]
    done = subprocess.run(
        [sys.executable, *argv],
        cwd=root,
        env={"PATH": str(tmp_path / "empty"), "HOME": str(tmp_path / "home"), "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == f"oci:{tmp_path}/car@{WHOLE}"


def test_lint_finds_nothing_wrong_in_an_index_of_both_architectures(tmp_path: Path) -> None:
    """Each image has the program of its architecture, and the layers of the model are the same."""
    settings = Settings(cache=tmp_path / "cache", home=tmp_path / "home")
    cache, target = open_push_cache(settings), Reference.parse(f"oci:{tmp_path}/car")
    source = CheckpointFolder(write_checkpoint(tmp_path / "checkpoint"), cache)
    platforms = [f"linux/{architecture}" for architecture in minimal.SHELLS]
    with (
        open_bases("minimal", platforms, settings) as bases,
        open_repository(target, settings, cache=cache, write=True) as repository,
    ):
        pushed = Push(make_plan(source, bases, cache), repository, cache).run()
        layers = {
            platform: [layer.digest.hex for layer in image(repository, str(pushed.digest), platform)[1].layers]
            for platform in platforms
        }
    assert {one.level for one in lint(str(target.at(pushed.digest)), settings)} == {"ok"}
    assert {platform.partition("/")[2]: found[0] for platform, found in layers.items()} == LAYERS
    assert layers["linux/amd64"][1:] == layers["linux/arm64"][1:]
