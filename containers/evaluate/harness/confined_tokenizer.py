"""The tokenizer of what is measured, in a child with limits and without secrets (`containers.evaluate.confined.tokenizer`).

A chat template is a program that came with the model, and so are a tokenizer's regular expressions: a loop must not hang the
step, a product of two numbers not take its memory, and neither may see its environment.
"""

from __future__ import annotations

import json
import sys
import unicodedata
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

from pydantic import ConfigDict, TypeAdapter, ValidationError

from containers.contract import Frozen
from containers.conversation import Conversation, Ended
from containers.errors import BadInput
from containers.pipes import TooMuchOutput

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_ROOT: Final = Path(__file__).parents[3]
_START: Final = "import sys; sys.path[:] = {paths!r}; from containers.evaluate.confined.tokenizer import main; main()"
_SYSTEM: Final = ("/usr", "/lib", "/lib32", "/lib64", "/bin", "/etc/ld.so.cache", "/dev/null", "/dev/urandom")
# No hub, no thread, and nothing of this process's environment.
_ENVIRONMENT: Final = {
    "PATH": "/usr/bin:/bin",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
}


class TokenizerLimits(Frozen):
    """`memory` in bytes; `cpu` and `wall`, in seconds, for one answer; `answer` in bytes; `start` in seconds."""

    memory: int = 4 << 30
    cpu: int = 30
    wall: float = 120.0
    answer: int = 64 << 20
    start: float = 300.0


class Special(Frozen):
    """What the child says of a tokenizer; `chat_template` may be several, by name."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    bos_token: str | None
    bos_token_id: int | None
    eos_token: str | None
    eos_token_id: int | None
    pad_token: str | None
    pad_token_id: int | None
    chat_template: str | dict[str, str] | None


_TOKENS: Final = TypeAdapter(list[list[int]], config=ConfigDict(strict=True))


class ConfinedTokenizer:
    """The part of a transformers tokenizer that the harness uses. Made by `confined_tokenizer`."""

    def __init__(self, conversation: Conversation, folder: Path, limits: TokenizerLimits) -> None:
        """Load the tokenizer in the child; raises BadInput when that fails."""
        self._conversation, self._folder, self._limits = conversation, folder, limits
        order = {
            "folder": str(folder),
            "readable": [*_readable(), str(folder)],
            "memory": limits.memory,
            "cpu": limits.cpu,
        }
        try:
            known = Special.model_validate(self._ask(order, _TOKENIZER, limits.start))
        except ValidationError as error:
            raise _broken(_TOKENIZER) from error
        self.bos_token, self.bos_token_id = known.bos_token, known.bos_token_id
        self.eos_token, self.eos_token_id = known.eos_token, known.eos_token_id
        self.pad_token, self.pad_token_id = known.pad_token, known.pad_token_id
        self.chat_template = known.chat_template

    def __call__(self, text: str | Sequence[str], *, add_special_tokens: bool, **_: Any) -> Any:
        """The tokens of one text or of several as `input_ids`; nothing is cut."""
        texts = [text] if isinstance(text, str) else list(text)
        try:
            found = _TOKENS.validate_python(
                self._ask({"encode": texts, "special": add_special_tokens}, _TOKENIZER, self._limits.wall)
            )
        except ValidationError as error:
            raise _broken(_TOKENIZER) from error
        if len(found) != len(texts):
            raise _broken(_TOKENIZER)
        return SimpleNamespace(input_ids=found[0] if isinstance(text, str) else found)

    def apply_chat_template(self, messages: list[dict[str, str]], *, tokenize: bool = False, **options: Any) -> str:
        """The text of a conversation; raises BadInput, which names the template, when it fails or breaks a limit."""
        assert not tokenize
        what = f"the chat template of the model ({_template_file(self._folder)})"
        text = self._ask({"render": messages, "options": options}, what, self._limits.wall)
        if not isinstance(text, str):
            raise _broken(what)
        return text

    def _ask(self, question: dict[str, Any], what: str, wall: float) -> Any:
        limits = self._limits
        try:
            line = self._conversation.ask(json.dumps(question).encode(), timeout=wall, most=limits.answer)
            answer = json.loads(line)
        except TimeoutError:
            raise BadInput(f"{what} did not answer within {wall:g} s", remedy=_REMEDY) from None
        except TooMuchOutput:
            raise BadInput(f"{what} gives more than {limits.answer} bytes", remedy=_REMEDY) from None
        except (ValueError, RecursionError):
            raise _broken(what) from None
        except Ended as error:
            raise BadInput(
                f"{what} took more than {limits.cpu} s of processor time or {limits.memory >> 20} MiB of memory, or broke "
                f"its process: {_plain(error.message)}",
                remedy=_REMEDY,
            ) from None
        if not isinstance(answer, dict) or len(answer) != 1:
            raise _broken(what)
        if "error" in answer:
            raise BadInput(f"{what} does not work: {_plain(str(answer['error']))}", remedy=_REMEDY)
        return answer.get("value")


_TOKENIZER: Final = "the tokenizer of the model"
_REMEDY: Final = "correct the file in the checkpoint, or measure another revision"


def _broken(what: str) -> BadInput:
    return BadInput(f"{what} broke its process, which answers something else than it was asked", remedy=_REMEDY)


@contextmanager
def confined_tokenizer(folder: Path, limits: TokenizerLimits | None = None) -> Iterator[ConfinedTokenizer]:
    """The tokenizer of a folder, for as long as the block runs. Raises BadInput when it cannot be loaded."""
    start = _START.format(paths=[*(path for path in sys.path if path.startswith("/")), str(_ROOT)])
    with Conversation([sys.executable, "-I", "-c", start], _ENVIRONMENT) as conversation:
        yield ConfinedTokenizer(conversation, folder.resolve(), limits or TokenizerLimits())


def _readable() -> list[str]:
    """Where Python and its packages are; of the folder with this project, which may be a checkout, only what is needed."""
    places = [*_SYSTEM, str(_ROOT / "containers"), sys.prefix, sys.base_prefix]
    places += [path for path in sys.path if path.startswith("/") and path != str(_ROOT)]
    if (_ROOT / "transformers").is_dir():  # an image: the project lies among its packages
        places.append(str(_ROOT))
    return [place for place in dict.fromkeys(places) if Path(place).exists()]


def _template_file(folder: Path) -> str:
    found = folder / "chat_template.jinja"
    return found.name if found.is_file() else "tokenizer_config.json"


def _plain(text: str) -> str:
    """Without control characters, which a terminal would obey."""
    return "".join(" " if unicodedata.category(letter).startswith("C") else letter for letter in text)
