"""The quantization config is made once for a recipe, and again for another one or when what is remembered is damaged."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from containers.contract import StoreLocation
from containers.quantize import config_cache
from containers.quantize.config_cache import remembered_config
from containers.settings import StoreSettings
from containers.store import Store

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def job(*ignore: str, scheme: str = "FP8_DYNAMIC", library: str = "1") -> Any:
    recipe = SimpleNamespace(scheme=SimpleNamespace(name=scheme))
    return SimpleNamespace(recipe=recipe, ignore=ignore, fingerprint_inputs={"compressed-tensors": library})


def test_a_config_is_made_once_for_a_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "store").mkdir()
    location = StoreLocation(endpoint="http://127.0.0.1:9")
    store = Store.open(location, StoreSettings(folder=tmp_path / "store", direct=True))
    made: list[dict[str, Any]] = []

    def make(scheme: Any, ignore: tuple[str, ...]) -> dict[str, Any]:
        made.append({"scheme": scheme.name, "ignore": list(ignore), "half": 0.5, "none": None})
        return made[-1]

    monkeypatch.setattr(config_cache, "quantization_config", make)
    jobs = (job("lm_head"), job(), job(scheme="W8A8"), job(library="2"))
    first = [remembered_config(one, store) for one in jobs]
    assert first == made
    assert len(made) == len(jobs)
    assert [remembered_config(one, store) for one in jobs] == first
    assert len(made) == len(jobs)
    for key in store.keys("results/quantization-configs"):
        store.write_key(key, b"{")
    assert [remembered_config(one, store) for one in jobs] == first
    assert len(made) == 2 * len(jobs)
