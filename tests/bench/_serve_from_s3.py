"""A baseline straight from S3 against fetching it first: `python -m tests.bench._serve_from_s3 STREAMER [--gb 2] [--runs 2]`.

STREAMER is a folder with runai-model-streamer and runai-model-streamer-s3 (`pip install --target STREAMER --no-deps ...`
and humanize), which Carwright's environments do not have. A checkpoint of a Llama's shape lies in the local S3 server, as
blobs and manifest of a store and, because vLLM's streamer asks for files by their names, under these a second time.

First both ways of reading are timed alone. Then, in turn: the store is read into a folder, verified, and vLLM loads that; vLLM is
given `s3://` and the credentials. Prints the lines of a table. Needs the demo model's tokenizer, which is made if it is not there.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import tempfile
import time
from contextlib import ExitStack
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Final

from containers.contract import Kind, Step, StoreLocation
from containers.digest import Digest
from containers.events import Reporter
from containers.parameters import ServeOptions, ServeParameters
from containers.ports import claimed
from containers.process import inherited, run
from containers.serve.server import VllmServer
from containers.serve.vllm_command import SOCKET, command, environment, installed, sockets_folder
from containers.store import FileEntry, Manifest, Store
from infra.environments.environment import prepare
from infra.objectstore import EmbeddedStore
from infra.settings import Settings
from tests.bench._vllm_checkpoint import make

if TYPE_CHECKING:
    from collections.abc import Mapping

    from containers.contract import ArtifactRef

_READ: Final = """
import sys, time
from runai_model_streamer import SafetensorsStreamer
started = time.monotonic()
with SafetensorsStreamer() as streamer:
    streamer.stream_files(sys.argv[1:])
    size = sum(tensor.nbytes for _, tensor in streamer.get_tensors())
print(size, time.monotonic() - started)
"""
_LOADED: Final = re.compile(r"Model loading took .*? ([\d.]+) seconds|Loading weights took ([\d.]+) seconds")


def stored(store: Store, folder: Path) -> ArtifactRef:
    files = [
        FileEntry(path=path.name, size=path.stat().st_size, sha256=store.put_file(path))
        for path in sorted(folder.iterdir())
    ]
    return store.commit(
        Manifest(kind=Kind.CHECKPOINT, fingerprint=Digest.of(str(files).encode()).hex, files=tuple(files))
    )


def serve(
    model: str, settings: Settings, python: Path, more: tuple[str, ...], env: Mapping[str, str]
) -> tuple[float, str]:
    """Seconds until vLLM is ready, and what it says that loading took."""
    parameters = ServeParameters(served_model_name="model")
    vllm = installed(python)
    with ExitStack() as stack:
        port = stack.enter_context(claimed(0))
        socket = stack.enter_context(sockets_folder(Path("/tmp"))) / SOCKET
        argv = command(vllm, parameters, Path("MODEL"), socket, python=python)
        server = VllmServer(
            argv=[*(model if word == "MODEL" else word for word in argv), *more],
            env={**environment(vllm, parameters, settings), **env},
            socket=socket,
            port=port,
            served_model_name="model",
            options=ServeOptions(),
            report=Reporter(StringIO(), structured=True),
        )
        started = time.monotonic()
        child = stack.enter_context(server.child())
        server.wait_ready(child)
        ready = time.monotonic() - started
        said = [match for line in server.log if (match := _LOADED.search(line))]
    return ready, ", ".join(sorted({one[1] or one[2] for one in said}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("streamer", type=Path)
    parser.add_argument("--gb", type=float, default=2.0)
    parser.add_argument("--runs", type=int, default=2, help="of vLLM each way, in turn; 0 reads alone")
    given = parser.parse_args()
    settings = Settings()
    environment_ = prepare(Step.SERVE, settings, lambda _: None)
    rows: list[tuple[str, ...]] = []
    with tempfile.TemporaryDirectory(prefix="carwright-bench-") as scratch, ExitStack() as stack:
        top = Path(scratch)
        make(top / "model", given.gb, 4, settings)
        reached = stack.enter_context(EmbeddedStore(top / "store", top / "store.log"))
        store = Store.open(StoreLocation(endpoint=reached.endpoint, bucket=reached.bucket), reached)
        ref = stored(store, top / "model")
        named = top / "store" / reached.bucket / "named"  # rclone serves folders: links cost nothing
        named.mkdir(parents=True)
        for path in (top / "model").iterdir():
            (named / path.name).hardlink_to(path)
        assert reached.access_key_id is not None
        assert reached.secret_access_key is not None
        keys = {
            "AWS_ACCESS_KEY_ID": reached.access_key_id.get_secret_value(),
            "AWS_SECRET_ACCESS_KEY": reached.secret_access_key.get_secret_value(),
            "AWS_ENDPOINT_URL": str(reached.endpoint),
            "RUNAI_STREAMER_S3_ENDPOINT": str(reached.endpoint),
            "RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING": "0",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_REGION": "us-east-1",
        }
        plugin = environment(installed(environment_.python), ServeParameters(served_model_name="m"), settings)[
            "PYTHONPATH"
        ]
        env = {**keys, "PYTHONPATH": f"{plugin}:{given.streamer.absolute()}"}
        objects = [f"s3://{reached.bucket}/named/{path.name}" for path in sorted(named.glob("*.safetensors"))]
        for number in range(max(given.runs, 2)):
            started = time.monotonic()
            store.materialize(ref, top / f"read-{number}")
            rows.append(("fetched into a folder, verified", f"{time.monotonic() - started:.1f}", "", "", ""))
            shutil.rmtree(top / f"read-{number}")
            print(rows[-1], flush=True)
            done = run([str(environment_.python), "-c", _READ, *objects], env={**inherited(), **env}, timeout=600)
            rows.append(("read into memory by the streamer", f"{float(done.stdout.split()[-1]):.1f}", "", "", ""))
            print(rows[-1], flush=True)
        for number in range(given.runs):
            started = time.monotonic()
            store.materialize(ref, top / f"out-{number}")
            fetched = time.monotonic() - started
            ready, took = serve(str(top / f"out-{number}"), settings, environment_.python, (), {})
            shutil.rmtree(top / f"out-{number}")
            rows.append(
                ("fetched and verified, then loaded", f"{fetched:.1f}", f"{ready:.1f}", took, f"{fetched + ready:.1f}")
            )
            print(rows[-1], flush=True)
            ready, took = serve(
                f"s3://{reached.bucket}/named/", settings, environment_.python, ("--load-format", "runai_streamer"), env
            )
            rows.append(("straight from S3", "", f"{ready:.1f}", took, f"{ready:.1f}"))
            print(rows[-1], flush=True)
    headings = ("", "fetching, s", "vLLM until ready, s", "of it loading, s", "in all, s")
    for row in (headings, ("---",) * len(headings), *rows):
        sys.stdout.write(f"| {' | '.join(row)} |\n")


if __name__ == "__main__":
    main()
