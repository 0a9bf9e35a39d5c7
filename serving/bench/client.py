# SPDX-License-Identifier: Apache-2.0
"""One streamed request to a server of OpenAI's API, timed at the client."""

import dataclasses
import itertools
import json
import time
from typing import Any

import httpx


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
    """What became of a request; times in seconds, `began` by time.perf_counter()."""

    began: float
    took: float
    ttft: float | None = None  # until its first text
    gaps: tuple[float, ...] = ()  # between one piece of text and the next
    prompt_tokens: int = 0
    tokens: int = 0  # of the answer
    error: str | None = None

    @property
    def time_per_token(self) -> float | None:
        """Of those after the first piece of text, where there are any."""
        return sum(self.gaps) / (self.tokens - 1) if self.gaps and self.tokens > 1 else None


async def ask(client: httpx.AsyncClient, route: str, body: dict[str, Any]) -> Answer:
    """Stream an answer; whatever goes wrong stands in it."""
    began = time.perf_counter()
    arrived: list[float] = []
    chunks = _Chunks()
    try:
        async with client.stream("POST", route, json=body) as response:
            if response.status_code != 200:
                chunks.error = f"{response.status_code}: {_message(await response.aread())}"
            else:
                async for line in response.aiter_lines():
                    if chunks.take(line):
                        arrived.append(time.perf_counter())
                if chunks.finish_reason is None and chunks.error is None:
                    chunks.error = "the stream ended before the answer did"
    except httpx.HTTPError as error:
        chunks.error = f"{type(error).__name__}: {error}".rstrip(": ")
    return Answer(
        began=began,
        took=time.perf_counter() - began,
        ttft=arrived[0] - began if arrived else None,
        gaps=tuple(after - before for before, after in itertools.pairwise(arrived)),
        prompt_tokens=chunks.prompt_tokens,
        tokens=chunks.tokens_of(body["max_tokens"], pieces=len(arrived)),
        error=chunks.error,
    )


async def prompt_tokens(client: httpx.AsyncClient, route: str, body: dict[str, Any]) -> int | str:
    """How many tokens a server counts in a prompt, or why it does not say."""
    plain = {k: v for k, v in body.items() if k not in ("stream", "stream_options")}
    try:
        response = await client.post(route, json=plain | {"max_tokens": 1})
    except httpx.HTTPError as error:
        return f"{type(error).__name__}: {error}".rstrip(": ")
    if response.status_code != 200:
        return f"{response.status_code}: {_message(response.content)}"
    usage = response.json().get("usage") or {}
    return usage.get("prompt_tokens") or "it tells no usage"


class _Chunks:
    """What the chunks of a stream have told so far."""

    def __init__(self) -> None:
        self.finish_reason: str | None = None
        self.error: str | None = None
        self.prompt_tokens = 0
        self._tokens: int | None = None

    def take(self, line: str) -> bool:
        """A line of the stream; whether it brought text."""
        if not line.startswith("data:") or (data := line[5:].strip()) == "[DONE]":
            return False
        chunk = json.loads(data)
        if "error" in chunk:
            self.error = _message(data.encode())
            return False
        if usage := chunk.get("usage"):
            self.prompt_tokens = usage["prompt_tokens"]
            self._tokens = usage["completion_tokens"]
        text = ""
        for choice in chunk.get("choices", ()):
            text += choice.get("text") or (choice.get("delta") or {}).get("content") or ""
            self.finish_reason = choice.get("finish_reason") or self.finish_reason
        return bool(text)

    def tokens_of(self, most: int, *, pieces: int) -> int:
        """As the server counts them; where it does not, all that were asked for, or a token for
        each piece of text."""
        if self._tokens is not None:
            return self._tokens
        return most if self.finish_reason == "length" else pieces


def _message(content: bytes) -> str:
    """The message of an error in OpenAI's form, or else what there is."""
    text = content.decode(errors="replace")
    try:
        error = json.loads(text)["error"]
        return error["message"] if isinstance(error, dict) else str(error)
    except (ValueError, KeyError, TypeError):
        return text[:300]
