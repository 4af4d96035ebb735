"""A model's chat template runs in a child without secrets and with limits: none hangs the step, takes its memory or sees it.

The child is the real one; transformers is a stand-in with its sandbox of Jinja (the real one is in the integration tests).
"""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

import pytest

from containers.errors import BadInput
from containers.evaluate.harness.confined_tokenizer import ConfinedTokenizer, TokenizerLimits, confined_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

STAND_IN = """
import json
from types import SimpleNamespace
from jinja2.sandbox import ImmutableSandboxedEnvironment


class AutoTokenizer:
    @classmethod
    def from_pretrained(cls, folder, trust_remote_code):
        assert not trust_remote_code
        one = cls()
        vars(one).update(json.load(open(f"{folder}/tokenizer_config.json")))
        exec(getattr(one, "load", ""))  # what a fault of a library would let a file do
        return one

    def __call__(self, texts, add_special_tokens, truncation, return_attention_mask):
        exec(getattr(self, "encode", ""))
        return SimpleNamespace(input_ids=[list(text.encode()) for text in texts])

    def apply_chat_template(self, messages, tokenize, **options):
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        return environment.from_string(self.chat_template).render(messages=messages, **options)
"""
LIMITS = TokenizerLimits(memory=256 << 20, cpu=1, wall=30.0, answer=1 << 20)
MESSAGES = [{"role": "user", "content": "hi"}]

# A template, and what is said of it.
TEMPLATES = {
    "a loop": (
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "1 s of processor time",
    ),
    "a product": ("{{ 'a' * 10**9 }}", "memory"),
    "a large product": ("{{ 'a' * 10**15 }}", "memory"),
    "a long answer": ("{{ 'a' * 2000000 }}", "more than 1048576 bytes"),
    "a long answer, bit by bit": ("{% for a in range(99999) %}{{ 'a' * 99 }}{% endfor %}", "more than 1048576 bytes"),
    "a list": ("{{ [[0] * 10**8] * 10**2 | length }}", ""),
    "a power": ("{{ 10 ** (10 ** 9) }}", "processor time"),
    "a macro that calls itself": ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "RecursionError"),
    "a recursive loop": ("{% for a in [1] recursive %}{{ loop([1]) }}{% endfor %}", "RecursionError"),
    "a format": ("{{ '%1000000000d' % 1 }}", ""),
    "another format": ("{{ '{:>1000000000}'.format(1) }}", ""),
    "a filter": ("{{ 'a' | center(1000000000) }}", "memory"),
    "a join": ("{{ (['a' * 9999] * 99999) | join('b' * 9999) }}", "memory"),
    "a replacement": ("{{ ('a' * 99999).replace('', 'b' * 99999) }}", "memory"),
    "attributes of Python": ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "SecurityError"),
    "attributes by a filter": ("{{ messages | attr('__class__') }}{{ (messages | attr('__class__')).x.y }}", ""),
    "globals": ("{{ cycler.__init__.__globals__.os.environ }}", ""),
    "a file": ("{% include '/etc/passwd' %}", "does not work"),
    "an import": ("{% import 'os' as os %}", "does not work"),
    "brackets": ("{{ " + "(" * 3000 + ")" * 3000 + " }}", "does not work"),
    "many opened": ("{" * 20_000, "does not work"),
    "no template": ("{% for %}", "TemplateSyntaxError"),
    "an escape sequence in its error": ("{{ messages['\x1b]0;x\x07'].y.z }}", "does not work"),
    "no text": (None, "does not work"),
}
# What a file might do once it could run code in the child.
CODE = {
    "an end": ("import os; os._exit(0)", "broke its process"),
    "a fault": ("import ctypes; ctypes.string_at(0)", "broke its process"),
    "output on both": ("import os\nwhile True: os.write(1, b'x' * 65536)", "more than"),
    "errors without end": ("import os\nwhile True: os.write(2, b'x' * 65536)", "does not work"),
    "an answer that is no JSON": ("import os; os.write(1, b'x\\n')", "broke its process"),
    "an answer that is another": ("import os; os.write(1, b'[]\\n')", "broke its process"),
    "sleep": ("import time; time.sleep(600)", "did not answer within 2 s"),
    "a process": ("import os; os.fork()", "Operation not permitted"),
    "a program": ("import os; os.execv('/bin/true', ['true'])", "Operation not permitted"),
    "a socket": ("import socket; socket.socket()", "Operation not permitted"),
    "a signal to its parent": ("import os; os.kill(os.getppid(), 9)", "Operation not permitted"),
    "its parent's environment": ("import os; open(f'/proc/{os.getppid()}/environ').read()", "Permission denied"),
    "its parent's files": ("open({secret!r}).read()", "Permission denied"),
    "its variables": ("import os; assert any('canary' in one for one in os.environ.values()), sorted(os.environ)", "AssertionError"),
    "a file": ("open('/tmp/carwright-evil', 'w')", "Permission denied"),
}  # fmt: skip
ATTACKS = [
    *({"id": name, "chat_template": template, "said": said} for name, (template, said) in TEMPLATES.items()),
    *({"id": f"{name}, when loaded", "load": code, "said": said} for name, (code, said) in CODE.items()),
    *({"id": f"{name}, when it encodes", "encode": code, "said": said} for name, (code, said) in CODE.items()),
]


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a tokenizer, for the stand-in."""
    (tmp_path / "library").mkdir()
    (tmp_path / "library" / "transformers.py").write_text(STAND_IN)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "library"), *sys.path])
    monkeypatch.setenv("CARWRIGHT_HUB_TOKEN", "canary")
    (tmp_path / "secret").write_text("canary")
    (tmp_path / "model").mkdir()
    return tmp_path / "model"


def write(model: Path, **values: Any) -> None:
    plain = {"chat_template": "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}", "eos_token": "~"}
    (model / "tokenizer_config.json").write_text(json.dumps({**plain, **values}))


def use(model: Path, limits: TokenizerLimits) -> None:
    with confined_tokenizer(model, limits) as tokenizer:
        tokenizer("a", add_special_tokens=False)
        tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack["id"])
def test_what_a_model_brings_breaks_nothing(model: Path, attack: dict[str, Any]) -> None:
    """One clear message that names the tokenizer or the template, within the limits."""
    files = {name: text for name, text in attack.items() if name not in {"id", "said"}}
    write(
        model,
        **{
            name: text and text.replace("{secret!r}", repr(str(model.parent / "secret")))
            for name, text in files.items()
        },
    )
    limits = LIMITS.model_copy(update={"wall": 2.0, "start": 2.0} if "sleep" in attack["id"] else {})
    with pytest.raises(BadInput) as raised:
        use(model, limits)
    what = (
        "the chat template of the model (tokenizer_config.json)"
        if "chat_template" in attack
        else "the tokenizer of the model"
    )
    assert raised.value.message.startswith(what)
    assert attack["said"] in raised.value.message
    assert raised.value.message.isprintable()
    assert "canary" not in raised.value.message


def test_one_child_answers_many_times(model: Path) -> None:
    write(model, bos_token_id=1)
    with confined_tokenizer(model, LIMITS) as tokenizer:
        assert isinstance(tokenizer, ConfinedTokenizer)
        assert (tokenizer.eos_token, tokenizer.bos_token_id, tokenizer.bos_token) == ("~", 1, None)
        assert tokenizer("ab", add_special_tokens=False).input_ids == [97, 98]
        assert tokenizer(["a", "b"], add_special_tokens=False).input_ids == [[97], [98]]
        assert {tokenizer.apply_chat_template(MESSAGES) for _ in range(50)} == {"<user>hi"}
        assert os.environ["CARWRIGHT_HUB_TOKEN"] == "canary"


def test_a_template_in_a_file_of_its_own_is_named(model: Path) -> None:
    write(model, chat_template="{% for %}")
    (model / "chat_template.jinja").write_text("{% for %}")
    with confined_tokenizer(model, LIMITS) as tokenizer, pytest.raises(BadInput, match=r"\(chat_template\.jinja\)"):
        tokenizer.apply_chat_template(MESSAGES)
