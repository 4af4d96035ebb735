"""How a question with functions is asked, and how the answer's calls are read.

`native`: the functions go into `tools` of OpenAI's chat API, and the server takes the calls out of the answer. vLLM does that with
`--enable-auto-tool-choice` and `--tool-call-parser`. `prompted`: the functions stand in the system prompt, and the answer is to
be a JSON list, which needs nothing of the server; the prompt is BFCL's own for its format `ret_fmt=json` (bfcl_eval
2026.3.23, constants/default_prompts.py, by whose classic style its sentences are).

An answer is the model's, so it is data from a stranger: read as JSON within limits, and what cannot be read is no call.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from pydantic import Field, model_validator

from containers.contract import Frozen
from containers.errors import BadInput
from containers.evaluate import replies
from containers.evaluate.client import Rejected
from containers.evaluate.tool_calling.checker import Call
from containers.evaluate.tool_calling.questions import NESTED, TYPES
from containers.foreign_json import JsonLimits, parse_json
from containers.foreign_text import one_line

if TYPE_CHECKING:
    from collections.abc import Mapping

    from containers.evaluate.client import Client
    from containers.evaluate.tool_calling.questions import Function, Question

_ANSWER: Final = JsonLimits(size=1 << 18, values=1 << 14, depth=32)
_LIST: Final = re.compile(r"\[\s*\{")  # where a list of calls begins
_SYSTEM: Final = """You are an expert in composing functions.\
You are given a question and a set of possible functions. Based on the question, you will need to make one or more \
function/tool calls to achieve the purpose. If none of the functions can be used, point it out. If the given question lacks \
the parameters required by the function, also point it out.

You should only return the function calls in your response.

If you decide to invoke any of the function(s), you MUST put it in the format of ```json
[{"function":"func_name1","parameters":{"param1":"value1","param2":"value2"...}},\
{"function":"func_name2","parameters":{"param":"value"}}]
```.  You SHOULD NOT include any other text in the response.

At each turn, you should try your best to complete the tasks requested by the user within the current turn. Continue to output \
functions to call until you have fulfilled the user's request to the best of your ability. Once you have no more functions \
to call, the system will consider the current turn complete and proceed to the next turn or task.

Here is a list of functions in json format that you can invoke.
"""


class Example(Frozen):
    """A question with its right calls, which stands before every question as an earlier turn: it shows a model that is too small to
    follow the prompt what is wanted. Its functions are not among those of the questions.
    """

    question: str
    calls: tuple[dict[str, Any], ...]

    @property
    def turns(self) -> list[dict[str, str]]:
        answer = json.dumps(list(self.calls), separators=(",", ":"), ensure_ascii=False)
        return [
            {"role": "user", "content": self.question},
            {"role": "assistant", "content": f"```json\n{answer}\n```"},
        ]


class CallSampling(Frozen):
    """How questions are asked: `max_tokens` is the longest answer, which is greedy."""

    calls: Literal["native", "prompted"] = "native"
    max_tokens: int = Field(default=512, gt=0)
    example: Example | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.example is not None and self.calls == "native":
            raise ValueError("an `example` belongs to `calls: prompted`")
        return self


def request(question: Question, sampling: CallSampling) -> dict[str, Any]:
    """The body of a request for one greedy answer, without the model's name."""
    messages = [one.model_dump() for one in question.messages]
    # No seed: vLLM 0.32 on a CPU ends when a seeded prompt is read in pieces.
    body: dict[str, Any] = {"messages": messages, "max_tokens": sampling.max_tokens, "temperature": 0}
    if sampling.calls == "native":
        return body | {"tools": [_tool(one) for one in question.functions], "tool_choice": "auto"}
    system = _SYSTEM + json.dumps([one.declared for one in question.functions], indent=4) + "\n"
    if messages[0]["role"] == "system":
        messages[0]["content"] = f"{system}\n\n{messages[0]['content']}"
    else:
        messages.insert(0, {"role": "system", "content": system})
    messages[1:1] = sampling.example.turns if sampling.example is not None else []
    return body


async def ask(client: Client, question: Question, sampling: CallSampling) -> tuple[tuple[Call, ...] | None, bool]:
    """The calls of the model's answer, None where there is nothing that could be read as calls, and whether it was cut at the token limit.

    Raises BadInput for a server that takes no `tools`.
    """
    try:
        answer = await client.post("chat/completions", request(question, sampling))
    except Rejected as error:
        if sampling.calls == "native" and "tool" in error.answer.lower():
            raise BadInput(
                f"the endpoint does not call tools: {one_line(error.answer)}",
                remedy="serve the model with --enable-auto-tool-choice and --tool-call-parser NAME (Carwright's own option: "
                "--tool-call-parser NAME), or set `calls: prompted` in the suite",
            ) from error
        raise
    (choice,) = replies.choices(answer)
    native = sampling.calls == "native"
    calls = called(choice, question) if native else written(replies.chat_text(choice))
    return calls, choice.get("finish_reason") == "length"


def called(choice: Mapping[str, Any], question: Question) -> tuple[Call, ...] | None:
    """The calls that the server took out of an answer; None for none, and where one's arguments are no JSON object.

    Raises BadInput for a choice that is not in the form of OpenAI's API, which is the server's fault and not the model's.
    """
    replies.chat_text(choice)  # refuses what is no message
    told = choice["message"].get("tool_calls")
    if told is None:
        return None
    names = {one.wire_name: one.name for one in question.functions}
    found = []
    for one in told if isinstance(told, list) else [told]:
        function = one.get("function") if isinstance(one, dict) else None
        name, arguments = (function.get("name"), function.get("arguments")) if isinstance(function, dict) else (0, 0)
        if not isinstance(name, str) or not isinstance(arguments, str):
            raise BadInput(
                f"the endpoint called a tool with {one_line(repr(one))}",
                remedy="the server must answer in the form of OpenAI's chat API, as vLLM does",
            )
        values = _json(arguments)
        if not isinstance(values, dict):
            return None
        found.append(Call(names.get(name, name), values))
    return tuple(found) or None


def written(text: str) -> tuple[Call, ...] | None:
    """The calls of the first JSON list of objects in a text; None where there is none, or not all in it is calls."""
    began = _LIST.search(text[: _ANSWER.size])
    if began is None:
        return None
    try:
        _, ended = json.JSONDecoder().raw_decode(text[: _ANSWER.size], began.start())
    except (ValueError, RecursionError):
        return None
    values = _json(text[began.start() : ended])  # again, within limits
    if not isinstance(values, list):
        return None
    calls = [
        Call(one["function"], one["parameters"])
        for one in values
        if isinstance(one, dict) and isinstance(one.get("function"), str) and isinstance(one.get("parameters"), dict)
    ]
    return tuple(calls) if len(calls) == len(values) else None


def _json(text: str) -> Any:
    try:
        return parse_json(text, "the answer", _ANSWER)
    except BadInput:
        return None


def _tool(function: Function) -> dict[str, Any]:
    properties = {name: _schema(one) for name, one in function.parameters.properties.items()}
    parameters = function.declared["parameters"] | {"type": "object", "properties": properties}
    return {"type": "function", "function": function.declared | {"name": function.wire_name, "parameters": parameters}}


def _schema(schema: dict[str, Any]) -> dict[str, Any]:
    """BFCL's types as JSON schema has them, at every depth; a float says so in its description."""
    kind = schema.get("type")
    made = schema | {"type": TYPES.get(kind, "string") if isinstance(kind, str) else "string"}
    if kind == "float":
        made |= {
            "format": "float",
            "description": f"{schema.get('description', '')} This is a float type value.".strip(),
        }
    if isinstance(schema.get("properties"), dict):
        made["properties"] = {
            name: _schema(one) if isinstance(one, dict) else one for name, one in schema["properties"].items()
        }
    if kind in NESTED and isinstance(schema.get("items"), dict):
        made["items"] = _schema(schema["items"])
    return made
