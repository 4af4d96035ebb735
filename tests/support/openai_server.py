"""An OpenAI-compatible server with vLLM's additions and a toy for a model, in this process, that can misbehave on demand.

The toy's tokens are the bytes of the text; its probabilities are a fixed function of the byte before. It exists for the
paths that a healthy server does not take; what vLLM answers is tested with vLLM.
"""

from __future__ import annotations

import json
import math
import random
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WORDS = " one two three four five six seven eight nine ten"


@dataclass
class Behaviour:
    """`failing` is the share of requests that are answered with 503; `shift` moves the toy's log-probabilities.

    `counts`: answers have a `usage`. `ignores_echo`: log-probabilities of the generated token alone. `drops`: what is left out
    of an answer, "choice" (the last one), "position" (a token's own log-probability), "none" (all of one position), "few" (the
    likeliest tokens but three) or "text". `hidden` are paths that a gateway does not pass on, `key` is what it wants to see. `refuses` is
    what every chat is refused with, and `message` makes a chat answer's message from the request.
    """

    model: str = "toy"
    others: tuple[str, ...] = ()
    context: int = 2048
    vocabulary: int = 256
    failing: float = 0.0
    hang: float = 0.0
    not_finite: str = ""
    role: str = "assistant"
    breaks_streams: int = 0
    ignores_stop: bool = False
    cuts_long_prompts: bool = False
    counts_wrong: int = 0
    counts: bool = True
    gives_logprobs: bool = True
    ignores_echo: bool = False
    drops: str = ""
    hidden: tuple[str, ...] = ()
    key: str = ""
    template: str = "<{role}>{content}"
    text: str = WORDS
    shift: float = 0.0
    version: str = "toy 1"
    refuses: str = ""
    message: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    random: random.Random = field(default_factory=lambda: random.Random(7))
    paths: list[str] = field(default_factory=list)
    most_at_once: int = 0
    _now: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def enter(self, path: str) -> bool:
        """Count a request; whether it shall fail."""
        with self._lock:
            self.paths.append(path)
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
            return self.random.random() < self.failing

    def leave(self) -> None:
        with self._lock:
            self._now -= 1


def toy_distribution(before: int, shift: float) -> list[tuple[int, float]]:
    """The 20 likeliest tokens after a byte, with log-probabilities: geometric, shifted for a damaged model."""
    weights = [math.exp(-0.5 * i * (1 - shift)) for i in range(40)]
    total = sum(weights)
    return [((before * 31 + i * 7) % 256, math.log(weights[i] / total)) for i in range(20)]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    behaviour: Behaviour

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class calls it so
        """Nothing: a test's output is its own."""

    def do_GET(self) -> None:
        self._serve({})

    def do_POST(self) -> None:
        self._serve(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def _serve(self, body: dict[str, Any]) -> None:
        what = self.behaviour
        fails = what.enter(self.path)
        try:
            time.sleep(what.hang)
            if fails:
                self._send({"error": {"message": "busy"}}, 503)
            else:
                self._answer(body)
        finally:
            what.leave()

    def _send(self, value: Any, status: int = 200) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _answer(self, body: dict[str, Any]) -> None:
        what = self.behaviour
        if what.key and self.headers["Authorization"] != f"Bearer {what.key}":
            self._send({"error": {"message": "no valid key was given"}}, 401)
        elif self.path in what.hidden:
            self._send({"detail": "Not Found"}, 404)
        elif self.path == "/health":
            self._send({})
        elif self.path == "/version":
            self._send({"version": what.version})
        elif self.path == "/v1/models":
            self._send({"data": [{"id": name, "max_model_len": what.context} for name in (what.model, *what.others)]})
        elif body.get("model") != what.model:
            self._send({"error": {"message": f"The model `{body.get('model')}` does not exist."}}, 404)
        elif self.path == "/tokenize":
            tokens = list(body["prompt"].encode())
            self._send({"tokens": tokens, "count": len(tokens)})
        elif self.path == "/v1/completions":
            self._completion(body)
        else:
            self._chat(body)

    def _generated(self, body: dict[str, Any]) -> tuple[str, str]:
        text, finish = self.behaviour.text[: 4 * body["max_tokens"]], "length"
        if body.get("min_tokens") == body["max_tokens"]:
            return (self.behaviour.text * body["max_tokens"])[: 4 * body["max_tokens"]], finish
        if len(self.behaviour.text) < 4 * body["max_tokens"]:
            finish = "stop"
        for word in () if self.behaviour.ignores_stop else body.get("stop", ()):
            if word in text:
                text, finish = text[: text.index(word)], "stop"
        return text, finish

    def _completion(self, body: dict[str, Any]) -> None:
        what = self.behaviour
        prompt = body["prompt"]
        if isinstance(prompt, list) and prompt and isinstance(prompt[0], list):
            (prompt,) = prompt  # a batch of one
        tokens = list(prompt.encode()) if isinstance(prompt, str) else list(prompt)
        if any(token >= what.vocabulary for token in tokens):
            self._send({"error": {"message": f"Token id {max(tokens)} is out of vocabulary"}}, 400)
            return
        if len(tokens) + body["max_tokens"] > what.context:
            if not what.cuts_long_prompts:
                self._send({"error": {"message": f"maximum context length is {what.context} tokens"}}, 400)
                return
            tokens = tokens[-what.context :]
        if what.not_finite == "error" and "prompt_logprobs" in body:
            self._send({"error": {"message": "Out of range float values are not JSON compliant"}}, 400)
            return
        text, finish = self._generated(body)
        if body.get("stream"):
            self._stream(text, finish, len(tokens))
            return
        choice: dict[str, Any] = {"index": 0, "text": text, "finish_reason": finish}
        if body.get("echo") and what.gives_logprobs:
            choice["logprobs"] = self._echo(tokens)
            if what.ignores_echo:
                choice["logprobs"] = {name: values[-1:] for name, values in choice["logprobs"].items()}
        if body.get("return_token_ids"):
            choice["prompt_token_ids"] = tokens
        if "prompt_logprobs" in body and what.gives_logprobs:
            choice["prompt_logprobs"] = [
                None,
                *(self._position(*pair) for pair in pairwise(tokens)),
            ]
            if what.drops == "position":
                del choice["prompt_logprobs"][3][str(tokens[3])]
            if what.drops == "none":
                choice["prompt_logprobs"][3] = None
            if what.drops == "few":
                for token in list(choice["prompt_logprobs"][3])[3:-1]:
                    del choice["prompt_logprobs"][3][token]
        if what.drops == "text":
            del choice["text"]
        self._finish([choice] * body.get("n", 1), _usage(len(tokens) - what.counts_wrong, text))

    def _finish(self, choices: list[dict[str, Any]], usage: dict[str, int], **more: Any) -> None:
        choices = choices[:-1] if self.behaviour.drops == "choice" else choices
        self._send({"choices": choices, **({"usage": usage} if self.behaviour.counts else {}), **more})

    def _echo(self, tokens: list[int]) -> dict[str, Any]:
        """As OpenAI's old completions: every token of the prompt, and one that was generated."""
        positions = [None, *(self._position(*pair) for pair in pairwise(tokens)), self._position(tokens[-1], 32)]
        chosen = [
            None if one is None else one[str(t)]["logprob"] for one, t in zip(positions, [*tokens, 32], strict=True)
        ]
        tops = [None if one is None else {k: v["logprob"] for k, v in one.items()} for one in positions]
        return {"token_logprobs": chosen, "top_logprobs": tops}

    def _position(self, before: int, token: int) -> dict[str, Any]:
        found = toy_distribution(before, self.behaviour.shift)
        entries = {str(t): {"logprob": value, "rank": i + 1} for i, (t, value) in enumerate(found)}
        entries.setdefault(str(token), {"logprob": -12.0, "rank": 99})
        if self.behaviour.not_finite == "value":
            entries[str(token)] = {"logprob": math.nan, "rank": 1}
        return entries

    def _chat(self, body: dict[str, Any]) -> None:
        what = self.behaviour
        if what.refuses:
            self._send({"error": {"message": what.refuses}}, 400)
            return
        if not what.template:
            self._send({"error": {"message": "the tokenizer defines no chat template, so you must provide one"}}, 400)
            return
        prompt = "".join(what.template.format(**message) for message in body["messages"])
        text, finish = self._generated(body)
        if body.get("stream"):
            self._stream(text, finish, len(prompt))
            return
        choice = {"index": 0, "message": {"role": what.role, "content": text}, "finish_reason": finish}
        if what.message is not None:
            choice |= {"message": {"role": what.role, "content": None, **what.message(body)}, "finish_reason": "stop"}
        self._finish([choice] * body.get("n", 1), _usage(len(prompt), text), prompt_token_ids=list(prompt.encode()))

    def _stream(self, text: str, finish: str, prompt: int) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        pieces = [text[i : i + 4] for i in range(0, len(text), 4)]
        for i, piece in enumerate(pieces):
            if self.behaviour.breaks_streams and i == 2:
                self.behaviour.breaks_streams -= 1
                break
            last = i == len(pieces) - 1
            event = {"choices": [{"delta": {"content": piece}, "finish_reason": finish if last else None}]}
            self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
        else:
            if self.behaviour.counts:
                self.wfile.write(f"data: {json.dumps({'choices': [], 'usage': _usage(prompt, text)})}\n\n".encode())
            self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True


def _usage(prompt: int, text: str) -> dict[str, int]:
    completion = math.ceil(len(text) / 4)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


@contextmanager
def openai_server(behaviour: Behaviour) -> Iterator[str]:
    """Serve until the end of the block; gives the base of the API."""
    handler = type("Handler", (_Handler,), {"behaviour": behaviour})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
