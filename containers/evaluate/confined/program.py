"""The process that runs a model's code: it defines the function and answers calls of it, with data.

It is not trusted from the moment on that the code runs. What it may say is JSON, a line for each line that it is asked:

    {"code": ..., "answer": ..., "entry_point": ...}    -> {"value": null} when the code is defined
    a list of arguments                                 -> {"value": what the function returned}

and {"raised": text} where either raised an exception. Values are those of `containers.evaluate.confined.plain_data`.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from containers.evaluate.confined import plain_data
from containers.evaluate.confined.answer_code import extract_code

if TYPE_CHECKING:
    from collections.abc import Callable


def serve(questions: int, answers: int) -> None:
    """Answer on the descriptors until there are no more questions."""
    asked = os.fdopen(questions, "rb")
    order: dict[str, str] = plain_data.loads(asked.readline())
    defined: dict[str, Any] = {"__name__": "__main__"}
    if not _answer(answers, lambda: _define(order, defined)):
        return
    while line := asked.readline():
        _answer(answers, lambda line=line: defined[order["entry_point"]](*plain_data.loads(line)))  # type: ignore[misc]


def _define(order: dict[str, str], defined: dict[str, Any]) -> None:
    """Run the code, and what an answer in Markdown has of it."""
    code = order["code"]
    if order["answer"]:
        code = f"{code}\n{extract_code(order['answer'], order['entry_point'])}"
    exec(compile(code, "program", "exec"), defined)  # noqa: S102 - this is what the sandbox is for


def _answer(descriptor: int, work: Callable[[], Any]) -> bool:
    """Whether it raised nothing."""
    try:
        said, fine = plain_data.dumps({"value": work()}), True
    except BaseException as error:  # noqa: BLE001 - also SystemExit: a program that ends has not answered
        said, fine = plain_data.dumps({"raised": _described(error)}), False
    while said:
        said = said[os.write(descriptor, said) :]
    return fine


def _described(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}".removesuffix(": ")[:1000]
    except Exception:  # noqa: BLE001 - its text is the program's own
        return type(error).__name__
