"""Finds a task's data set: in the suite's own files, a local folder, or the hub.

A local folder holds data sets as the hub has them: `FOLDER/openai/gsm8k` is what
`hf download --repo-type dataset openai/gsm8k --local-dir FOLDER/openai/gsm8k` makes.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from containers.errors import BadInput, Error, Temporary
from containers.process import export, inherited

if TYPE_CHECKING:
    from collections.abc import Iterator

    from containers.settings import StepSettings

_NLTK = "nltk_data"


@dataclass(frozen=True)
class Places:
    """`suite` is the folder with the suite's own files, `folder` the local data sets, `scratch` is for converted ones."""

    name: str
    suite: Path
    folder: Path | None
    scratch: Path

    def local(self, data_set: str) -> Path | None:
        """Where the data set lies on this machine; None leaves it to the hub."""
        if self.folder is None or not (self.folder / data_set).is_dir():
            return None
        return self.folder / data_set


def configure(settings: StepSettings, scratch: Path) -> None:
    """Configure the hub's libraries, which read their variables once, when they are imported.

    They cache files under the user's home, or in `scratch` if that is not writable, as in a container.
    """
    variables = {
        "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",  # the token of the machine's user is for downloads (docs/security.md)
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TQDM_DISABLE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
    }
    if "HF_HOME" not in inherited() and not os.access(Path("~").expanduser(), os.W_OK):
        variables["HF_HOME"] = str(scratch / "hub")
    if settings.hub_endpoint:
        variables["HF_ENDPOINT"] = settings.hub_endpoint
    if settings.evaluate.data is not None:
        variables["NLTK_DATA"] = str(settings.evaluate.data.expanduser() / _NLTK)
    export(variables)


@contextmanager
def data_from(places: Places) -> Iterator[None]:
    """Make the harness read data from these places inside the block.

    Raises BadInput, which names the suite and the data set, if there is no such data set, and Temporary if the hub does not
    answer.
    """
    from lm_eval.api.task import ConfigurableTask

    original = ConfigurableTask.download

    def download(task: Any, dataset_kwargs: dict[str, Any] | None = None, **more: Any) -> None:
        data_set, wanted = str(task.DATASET_PATH), dict(dataset_kwargs or {})
        if "data_files" in wanted:
            data_set = "of its own"
            wanted["data_files"] = _absolute(wanted["data_files"], places.suite)
            wanted["cache_dir"] = str(places.scratch)
        elif (here := places.local(data_set)) is not None:
            task.DATASET_PATH = str(here)
            wanted["cache_dir"] = str(places.scratch)
        try:
            original(task, wanted, **more)
        except Error:
            raise
        except Exception as error:
            raise _missing(places, data_set, error) from error

    ConfigurableTask.download = download
    try:
        yield
    finally:
        ConfigurableTask.download = original


def check_sentences(places: Places) -> None:
    """Raises BadInput without NLTK's `punkt_tab`. IFEval would only fail for it when it scores, hours later."""
    import nltk

    try:
        nltk.data.find("tokenizers/punkt_tab")
    except LookupError as error:
        raise BadInput(
            f"the suite {places.name} needs the data set punkt_tab of NLTK, which is missing",
            remedy=f"unpack it as {_NLTK}/tokenizers/punkt_tab in the folder of the setting evaluate.data",
        ) from error


def _missing(places: Places, data_set: str, error: Exception) -> Error:
    what = f"the suite {places.name} needs the data set {data_set}, which cannot be read: {_first_line(error)}"
    remedy = (
        f"put it into the folder of the setting evaluate.data as {data_set}, or set hub_endpoint to a hub that has it"
    )
    if isinstance(error, ConnectionError) and "offline" not in str(error).lower():
        return Temporary(what, remedy=remedy)
    return BadInput(what, remedy=remedy)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def _absolute(files: Any, folder: Path) -> Any:
    """The same structure with every relative path inside the suite's folder."""
    if isinstance(files, dict):
        return {split: _absolute(one, folder) for split, one in files.items()}
    if isinstance(files, list):
        return [_absolute(one, folder) for one in files]
    return str(folder / files)
