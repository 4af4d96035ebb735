"""A local hub, a store and checkpoints to send from one to the other: what the tests of download stand on."""

from __future__ import annotations

import io
import json
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from containers.contract import Step, StepRequest, StoreLocation
from containers.download.work import work
from containers.events import Event, Reporter
from containers.parameters import DownloadOptions, DownloadParameters, ResolvedSource
from containers.process import inherited
from containers.step import Context
from containers.store import Manifest, Store
from infra.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic import SecretStr

    from containers.contract import StepResult
    from containers.settings import SourceSettings, StoreSettings
    from infra.hub import Hub

REPO = "acme/tiny"


def safetensors(tensors: dict[str, tuple[str, list[int], bytes]]) -> bytes:
    """A safetensors file, laid out by hand: name -> (dtype, shape, bytes)."""
    header: dict[str, Any] = {}
    place = 0
    for name, (dtype, shape, content) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [place, place + len(content)]}
        place += len(content)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + b"".join(content for _, _, content in tensors.values())


def shard(seed: int, size: int) -> bytes:
    """A shard with one tensor of `size` bytes."""
    return safetensors({f"w{seed}": ("U8", [size], random.Random(seed).randbytes(size))})


def checkpoint(folder: Path, *, shards: int = 2, size: int = 200_000) -> Path:
    """Write a whole checkpoint with `shards` shards of about `size` bytes, and things that do not belong to it."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"model-{number:05}-of-{shards:05}.safetensors" for number in range(1, shards + 1)]
    for number, name in enumerate(names):
        (folder / name).write_bytes(shard(number, size))
    index = {"metadata": {}, "weight_map": {f"w{number}": name for number, name in enumerate(names)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    (folder / "tokenizer.json").write_text('{"version": "1.0"}')
    (folder / "LICENSE").write_text("do as you like\n")
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# tiny\n")
    (folder / "original").mkdir(exist_ok=True)
    (folder / "original" / "consolidated.00.pth").write_bytes(b"\x80\x04pickle")
    (folder / "original" / "params.json").write_text("{}")
    (folder / "modeling_tiny.py").write_text("import os\n")
    (folder / ".gitattributes").write_text("*.safetensors filter=lfs\n")
    return folder


TAKEN = [
    "LICENSE",
    "README.md",
    "config.json",
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
    "model.safetensors.index.json",
    "original/params.json",
    "tokenizer.json",
]


@dataclass
class World:
    """Where a test downloads from and to. `said` is every line that the step wrote."""

    home: Path
    store_settings: StoreSettings
    hub: Hub | None = None
    token: SecretStr | None = None
    source: SourceSettings | None = None
    said: io.StringIO = field(default_factory=io.StringIO)

    @property
    def location(self) -> StoreLocation:
        return StoreLocation(endpoint=self.store_settings.endpoint, bucket=self.store_settings.bucket)

    @property
    def settings(self) -> Settings:
        update: dict[str, Any] = {
            "home": self.home,
            "store": self.store_settings,
            "hub_endpoint": self.hub.endpoint if self.hub else "http://127.0.0.1:1",
            "hub_token": self.token,
        }
        if self.source is not None:
            update["source"] = self.source
        return Settings().model_copy(update=update)

    @property
    def environment(self) -> dict[str, str]:
        """Of the step as a process, with these settings."""
        store, settings = self.store_settings, self.settings
        return inherited() | {
            "CARWRIGHT_HOME": str(self.home),
            "CARWRIGHT_HUB_ENDPOINT": str(settings.hub_endpoint),
            "CARWRIGHT_STORE__ACCESS_KEY_ID": store.access_key_id.get_secret_value(),
            "CARWRIGHT_STORE__SECRET_ACCESS_KEY": store.secret_access_key.get_secret_value(),
            "CARWRIGHT_STORE__FOLDER": str(store.folder),
            "CARWRIGHT_STORE__DIRECT": str(store.direct),
        }

    @property
    def store(self) -> Store:
        return Store.open(self.location, self.store_settings)

    @property
    def events(self) -> list[Event]:
        return [Event.parse(line) for line in self.said.getvalue().splitlines()]

    def request(self, action: str, source: str, **options: Any) -> StepRequest:
        parameters = DownloadParameters.model_validate({"action": action, "source": source})
        return StepRequest(
            step=Step.DOWNLOAD,
            run="test",
            parameters=parameters.dump(),
            options=DownloadOptions(**options).dump(),
            store=self.location,
        )

    def run(self, request: StepRequest) -> StepResult:
        report = Reporter(self.said, structured=True)
        return work(request, Context(self.settings, report, self.home / "scratch", self.home / "result.json"))

    def resolve(self, source: str) -> ResolvedSource:
        return ResolvedSource.read(self.run(self.request("resolve", source)).values)

    def download(self, source: str, **options: Any) -> StepResult:
        """Resolve and download."""
        return self.run(self.request("download", self.resolve(source).pinned, **options))

    def manifest(self, result: StepResult) -> Manifest:
        return self.store.load(result.outputs["checkpoint"])
