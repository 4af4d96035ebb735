"""Packaging side by side: `python -m tests.bench.push [--gb 2.1] [--without docker buildah] [--large 20]`.

The same checkpoint (four shards of random bytes and some small files) goes to a registry of its own (Debian's
docker-registry, empty at the start) with Carwright, with olot and skopeo, with docker build and push, and with buildah
build and push, one after the other in one run. Times are wall clock of the commands, the start of Python included. Memory
is the highest resident set of a command (getrusage). `--large` pushes one sparse shard of that many GB out of the
embedded store and watches both processes' memory, and the disk.

Needs the programs docker-registry, skopeo, buildah, dockerd and docker, and the package olot; what is missing is left out
and said so. Run as root for docker and buildah.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import struct
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rich.console import Console

from containers.contract import Kind, StoreLocation
from containers.digest import Digest
from containers.errors import NotReady
from containers.oci.access import open_push_cache, open_repository
from containers.oci.base import empty_base
from containers.oci.busybox import base_layer, find_binary
from containers.oci.layer import LayerHasher
from containers.oci.modelcar import Push
from containers.oci.plan import make_plan
from containers.oci.reference import Reference
from containers.oci.source import StoredCheckpoint
from containers.process import Child, inherited, run
from containers.store import FileEntry, Manifest, Store
from infra.objectstore import EmbeddedStore
from infra.settings import Settings
from tests.support.local_registry import LocalRegistry

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MB: Final = 1 << 20
_SHARDS: Final = 4
_EVERY: Final = 0.02  # seconds between two samples of memory
_HERE: Final = Path(__file__).resolve().parents[2]
_CARWRIGHT: Final = (sys.executable, "-c", "from flows.cli.modelcars import app; app()")


@dataclass
class Row:
    """What one contestant needed: seconds, and the highest resident set of its commands in MB."""

    name: str
    cold: float
    unchanged: float
    one_changed: float
    peak: float
    note: str = ""


@dataclass
class Bench:
    """A checkpoint, and a folder for everything that the contestants make."""

    checkpoint: Path
    work: Path

    def timed(self, *commands: Sequence[str | Path], env: dict[str, str] | None = None) -> tuple[float, float]:
        """Seconds of the commands one after the other, and the peak memory of the largest, in MB."""
        os.sync()
        started = time.monotonic()
        peak = 0.0
        for command in commands:
            before = _children_peak(command, self.work, {**inherited(), **(env or {})})
            peak = max(peak, before)
        return time.monotonic() - started, peak


def _children_peak(command: Sequence[str | Path], work: Path, env: dict[str, str]) -> float:
    """Run a command to its end; its highest resident set in MB. A small Python between us takes the measure."""
    code = (
        "import os, resource, sys, json;"
        "pid = os.spawnvp(os.P_NOWAIT, sys.argv[2], sys.argv[2:]);"
        "status = os.waitpid(pid, 0)[1];"
        "open(sys.argv[1], 'w').write(str(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss));"
        "sys.exit(os.waitstatus_to_exitcode(status))"
    )
    said = work / "peak"
    run([sys.executable, "-I", "-S", "-c", code, str(said), *map(str, command)], env=env, cwd=_HERE, timeout=1800)
    return int(said.read_text()) / 1024


def write_checkpoint(folder: Path, size: int) -> None:
    """Shards of random bytes with valid headers, so that no tool gains by compression."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "LICENSE").write_text("Apache License 2.0\n")
    each = size // _SHARDS // MB * MB
    header = json.dumps({"weight": {"dtype": "U8", "shape": [each], "data_offsets": [0, each]}}).encode()
    names = [f"model-{number:05}-of-{_SHARDS:05}.safetensors" for number in range(1, _SHARDS + 1)]
    for name in names:
        with (folder / name).open("wb") as file:
            file.write(struct.pack("<Q", len(header)) + header)
            for _ in range(each // MB):
                file.write(os.urandom(MB))
    index = {"weight_map": {f"weight.{number}": name for number, name in enumerate(names)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@contextmanager
def touched(checkpoint: Path) -> Iterator[None]:
    """The checkpoint with another tokenizer.json."""
    path = checkpoint / "tokenizer.json"
    before = path.read_bytes()
    path.write_text(json.dumps({"changed": time.time()}))
    try:
        yield
    finally:
        path.write_bytes(before)


def carwright(bench: Bench) -> Row:
    env = {"CARWRIGHT_CACHE": str(bench.work / "cache")}
    with LocalRegistry(bench.work / "registry") as registry:
        command = (*_CARWRIGHT, "push", bench.checkpoint, f"{registry}/bench/car:v1")
        cold, peak = bench.timed(command, env=env)
        unchanged, _ = bench.timed(command, env=env)
        with touched(bench.checkpoint):
            changed, _ = bench.timed(command, env=env)
    made = sum(path.stat().st_size for path in (bench.work / "cache").rglob("*") if path.is_file())
    return Row("carwright push", cold, unchanged, changed, peak, f"{made / MB:.1f} MB of other disk")


def olot(bench: Bench) -> Row:
    """The base is our own, as a layout that olot puts its layers on."""
    (bench.work / "base.tar").write_bytes(base_layer(find_binary("amd64", Settings())))
    run(["umoci", "init", "--layout", str(bench.work / "base")])
    run(["umoci", "new", "--image", f"{bench.work}/base:latest"])
    run(["umoci", "raw", "add-layer", "--image", f"{bench.work}/base:latest", str(bench.work / "base.tar")])
    files = [path for path in sorted(bench.checkpoint.rglob("*")) if path.is_file()]
    layout = bench.work / "layout"
    with LocalRegistry(bench.work / "registry") as registry:

        def build() -> tuple[float, float]:
            shutil.rmtree(layout, ignore_errors=True)
            shutil.copytree(bench.work / "base", layout)
            return bench.timed(
                (sys.executable, "-c", "from olot.cli import cli; cli()", layout, *files),
                (
                    *("skopeo", "copy", "--quiet", "--dest-tls-verify=false"),
                    *(f"oci:{layout}:latest", f"docker://{registry}/bench/car:v1"),
                ),
            )

        cold, peak = build()
        unchanged, _ = build()
        with touched(bench.checkpoint):
            changed, _ = build()
    return Row("olot + skopeo", cold, unchanged, changed, peak, f"{_size(layout) / 1e9:.1f} GB of other disk")


def _containerfile(bench: Bench) -> Path:
    """One layer a file, like the others'."""
    lines = ["FROM scratch"]
    lines += [f"COPY {path.name} /models/{path.name}" for path in sorted(bench.checkpoint.iterdir())]
    path = bench.work / "Containerfile"
    path.write_text("\n".join(lines) + "\n")
    return path


def docker(bench: Bench) -> Row:
    root = bench.work / "docker"
    root.mkdir()
    host = f"unix://{root}/socket"
    argv = ["dockerd", "--data-root", f"{root}/data", "--exec-root", f"{root}/exec", "--pidfile", f"{root}/pid"]
    argv += ["--host", host, "--iptables=false", "--ip6tables=false", "--bridge=none"]
    client = ["docker", "--host", host]
    with LocalRegistry(bench.work / "registry") as registry, Child(argv, inherited(), log_file=root / "log"):
        _wait_for([*client, "version"])
        image = f"{registry}/bench/car:v1"
        file = _containerfile(bench)
        commands: tuple[Sequence[str | Path], ...] = (
            (*client, "build", "--quiet", "--tag", image, "--file", file, bench.checkpoint),
            (*client, "push", "--quiet", image),
        )
        cold, peak = bench.timed(*commands)
        unchanged, _ = bench.timed(*commands)
        with touched(bench.checkpoint):
            changed, _ = bench.timed(*commands)
        disk = _size(root / "data")
    return Row(
        "docker build + push", cold, unchanged, changed, peak, f"{disk / 1e9:.1f} GB of other disk, without dockerd"
    )


def buildah(bench: Bench) -> Row:
    root = bench.work / "buildah"
    base = ["buildah", "--root", f"{root}/root", "--runroot", f"{root}/run", "--storage-driver", "overlay"]
    with LocalRegistry(bench.work / "registry") as registry:
        image = f"{registry}/bench/car:v1"
        file = _containerfile(bench)
        commands: tuple[Sequence[str | Path], ...] = (
            (*base, "build", "--quiet", "--layers", "--tag", image, "--file", file, bench.checkpoint),
            (*base, "push", "--quiet", "--tls-verify=false", image),
        )
        cold, peak = bench.timed(*commands)
        unchanged, _ = bench.timed(*commands)
        with touched(bench.checkpoint):
            changed, _ = bench.timed(*commands)
        disk = _size(root)
    return Row("buildah build + push", cold, unchanged, changed, peak, f"{disk / 1e9:.1f} GB of other disk")


def many_files(bench: Bench) -> float:
    """Seconds that 1,000 small files more add to a push of a small checkpoint."""
    seconds = []
    for count in (0, 1000):
        folder = bench.work / f"many-{count}"
        write_checkpoint(folder, _SHARDS * MB)
        for number in range(count):
            (folder / f"file-{number:04}.json").write_text(json.dumps({"number": number}))
        env = {"CARWRIGHT_CACHE": str(bench.work / f"cache-{count}")}
        with LocalRegistry(bench.work / f"registry-{count}") as registry:
            took, _ = bench.timed((*_CARWRIGHT, "push", folder, f"{registry}/bench/many"), env=env)
            seconds.append(took)
    return seconds[1] - seconds[0]


def large(work: Path, size: int) -> str:
    """A sparse shard out of the embedded store: the memory of both processes, and whether the disk fills."""
    settings = Settings(cache=work / "cache")
    path = "model.safetensors"
    whole, layer = hashlib.sha256(), LayerHasher(path, size)
    block = bytes(64 * MB)
    for start in range(0, size, len(block)):
        piece = block[: size - start]
        whole.update(piece)
        layer.update(piece)
    digest = Digest(whole.hexdigest())
    blob = work / "store" / "carwright" / "blobs" / "sha256" / digest.hex
    blob.parent.mkdir(parents=True)
    with blob.open("wb") as file:
        file.truncate(size)  # sparse, and put there by hand: to send 20 GB of nothing would tell nothing
    with ExitStack() as stack:
        served = stack.enter_context(EmbeddedStore(work / "store", work / "store.log", bucket="carwright"))
        store = Store.open(StoreLocation(endpoint=served.endpoint, bucket=served.bucket), served)
        small = b'{"architectures": ["LlamaForCausalLM"]}'
        entries = (
            FileEntry(path="config.json", size=len(small), sha256=store.put_bytes(small)),
            FileEntry(path=path, size=size, sha256=digest, layer=layer.digest()),
        )
        manifest = Manifest(kind=Kind.CHECKPOINT, fingerprint="0" * 64, files=entries)
        registry = stack.enter_context(LocalRegistry(work / "registry"))
        servers = [pid for pid in _below(os.getpid()) if "rclone" in _command(pid)]
        memory = open_push_cache(settings)
        reference = Reference.parse(f"{registry}/bench/large")
        repository = stack.enter_context(open_repository(reference, settings, cache=memory, write=True))
        plan = make_plan(StoredCheckpoint(store, manifest), (empty_base("linux/amd64"),), memory)
        peaks = stack.enter_context(_watching(servers))
        started = time.monotonic()
        pushed = Push(plan, repository, memory).run()
        seconds = time.monotonic() - started
    return (
        f"{size / 1e9:.0f} GB shard from the embedded store: {seconds:.0f} s, peak {peaks[0] / MB:.0f} MB of ours and "
        f"{peaks[1] / MB:.0f} MB of the store ({peaks[2] / MB:.0f} MB together; aim 200 and 700), "
        f"{pushed.pushed_bytes / 1e9:.1f} GB sent, {_size(work / 'cache') / MB:.1f} MB of other disk"
    )


@contextmanager
def _watching(servers: list[int]) -> Iterator[list[int]]:
    """Highest resident bytes: of this process, of the servers, of both at one moment."""
    peaks, done = [0, 0, 0], threading.Event()

    def sample() -> None:
        while not done.wait(_EVERY):
            ours, theirs = _resident(os.getpid()), sum(map(_resident, servers))
            peaks[:] = [max(peaks[0], ours), max(peaks[1], theirs), max(peaks[2], ours + theirs)]

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield peaks
    finally:
        done.set()
        thread.join()


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def _below(pid: int) -> list[int]:
    found: list[int] = []
    for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, tasks.read_text().split()):
            found += [child, *_below(child)]
    return found


def _command(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode(errors="replace").rpartition("/")[2]


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def _wait_for(command: Sequence[str]) -> None:
    deadline = time.monotonic() + 60
    while run(command, check=False, timeout=30).code != 0:
        if time.monotonic() > deadline:
            raise NotReady(f"{command[0]} did not become ready")
        time.sleep(0.2)


def main() -> None:
    contestants = {"carwright": carwright, "olot": olot, "docker": docker, "buildah": buildah}
    needs = {"olot": ("skopeo", "umoci"), "docker": ("docker", "dockerd"), "buildah": ("buildah",)}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--gb", type=float, default=2.1)
    parser.add_argument("--without", nargs="*", default=[], choices=list(contestants))
    parser.add_argument("--large", type=float, default=0.0, help="GB of the sparse shard; 0 leaves it out")
    parser.add_argument("--work", type=Path, default=None, help="folder to work in; needs four times the size free")
    arguments = parser.parse_args()
    console = Console()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="carwright-bench-", dir=arguments.work) as scratch:
        checkpoint = Path(scratch) / "checkpoint"
        write_checkpoint(checkpoint, int(arguments.gb * 1e9))
        time.sleep(2.5)  # younger files are not trusted to stay as they are
        for name, contestant in contestants.items():
            missing = [program for program in needs.get(name, ()) if shutil.which(program) is None]
            if name in arguments.without or missing:
                console.print(f"{name}: left out{', without ' + ', '.join(missing) if missing else ''}")
                continue
            work = Path(scratch) / name
            work.mkdir()
            rows.append(contestant(Bench(checkpoint, work)))
            shutil.rmtree(work, ignore_errors=True)
        more = many_files(Bench(checkpoint, Path(scratch)))
        said = []
        if arguments.large:
            work = Path(scratch) / "large"
            work.mkdir()
            said.append(large(work, int(arguments.large * 1e9)))
    _show(rows, arguments.gb)
    console.print(f"1,000 small files more: {more:+.1f} s (aim: less than 10 s)")
    for line in said:
        console.print(line)


def _show(rows: list[Row], gb: float) -> None:
    columns = (
        f"{gb:g} GB, {_SHARDS} shards",
        "cold",
        "ratio",
        "unchanged",
        "one small file changed",
        "peak memory",
        "",
    )
    lines = [columns, ("---",) * len(columns)]
    for row in rows:
        ratio = f"{rows[0].cold / row.cold:.2f}" if row is not rows[0] else ""
        seconds = (f"{row.cold:.1f} s", ratio, f"{row.unchanged:.1f} s", f"{row.one_changed:.1f} s")
        lines.append((row.name, *seconds, f"{row.peak:.0f} MB", row.note))
    sys.stdout.write("".join(f"| {' | '.join(line)} |\n" for line in lines))


if __name__ == "__main__":
    main()
