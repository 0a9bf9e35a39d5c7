# SPDX-License-Identifier: Apache-2.0
"""What is known of one HTTP request when it is over: for its line in the log, and for the metrics.

No text is kept, unless the server was told to log it.
"""

import time
from typing import Any

from starlette.requests import Request

from serving.engine.request import Event
from serving.http.answers import Questions
from serving.http.metrics import Metrics, ModelMetrics

_METHODS = ("GET", "HEAD", "POST", "DELETE", "OPTIONS", "PUT", "PATCH")


class RequestRecord:
    """`request.state.record` of every request."""

    def __init__(self, id: str, *, method: str, metrics: Metrics, log_prompts: bool = False):
        self.id = id
        self.method = method if method in _METHODS else "OTHER"
        self.began = time.monotonic()
        self.status = 0
        self.error: str | None = None  # its code
        self._metrics, self._log_prompts = metrics, log_prompts
        self._model: str | None = None
        self._of_model: ModelMetrics | None = None
        self._stream = False
        self._prompts: list[int] = []  # tokens, of each sequence
        self._prompt_tokens = 0
        self._generated: list[int] = []
        self._last: list[float | None] = []  # when a sequence told something
        self._cached: list[int] = []
        self._reasons: list[str | None] = []
        self._queued = 0.0
        self._first: float | None = None
        self._texts: dict[str, Any] = {}

    def asked(self, questions: Questions, model: str) -> None:
        """The engine has taken it."""
        body, requests = questions.body, questions.requests
        self._model, self._stream = model, body.stream
        self._of_model = self._metrics.of(model)
        self._prompts += [len(request.prompt) for request in requests]
        prompts = {id(request.prompt): len(request.prompt) for request in requests}
        self._prompt_tokens += sum(prompts.values())
        self._of_model.prompts_came(sum(prompts.values()))
        count = len(requests)
        self._generated += [0] * count
        self._cached += [0] * count
        self._last += [None] * count
        self._reasons += [None] * count
        if self._log_prompts:
            self._texts = {"asked": body.texts, "answered": [""] * count}

    def told(self, index: int, event: Event) -> None:
        """The engine has told something of a sequence."""
        assert self._of_model is not None
        now, tokens = time.monotonic(), len(event.token_ids)
        last = self._last[index]
        if tokens and last is None:
            self._of_model.first_tokens(tokens, now - self.began)
            self._first = self._first or now
        elif tokens and last is not None:
            self._of_model.more_tokens(tokens, now - last)
        if tokens:
            self._last[index] = now
        self._generated[index] = event.num_generated
        self._cached[index] = event.cached_tokens
        if self._texts:
            self._texts["answered"][index] += event.text
        if event.finish_reason is not None:
            self._end(index, event.finish_reason, now, event)

    def log_line(self, route: str) -> dict[str, Any]:
        """Its line in the log, without what there is nothing of. Sequences that have not ended were
        given up."""
        now = time.monotonic()
        for index, reason in enumerate(self._reasons):
            if reason is None:
                self._end(index, "abort", now, None)
        self._metrics.http_request(self.method, route, self.status)
        line: dict[str, Any] = {"request_id": self.id, "method": self.method, "route": route}
        line |= {"status": self.status, "error": self.error, "model": self._model}
        if self._prompts:
            line |= {
                "stream": self._stream,
                "prompt_tokens": self._prompt_tokens,
                "cached_tokens": max(self._cached),
                "completion_tokens": sum(self._generated),
                "finish_reasons": self._reasons,
                "queue_s": round(self._queued, 4),
            }
        if self._first is not None:
            line["first_token_s"] = round(self._first - self.began, 4)
        line["total_s"] = round(now - self.began, 4)
        line |= self._texts
        return {name: value for name, value in line.items() if value is not None}

    def _end(self, index: int, reason: str, now: float, event: Event | None) -> None:
        assert self._of_model is not None
        self._reasons[index] = reason
        times = None if event is None else event.times
        if times is not None:
            self._queued = max(self._queued, times.admitted - times.submitted)
        self._of_model.sequence_ended(
            reason,
            seconds=now - self.began,
            prompt=self._prompts[index],
            generated=self._generated[index],
            times=times,
        )


def record_of(request: Request) -> RequestRecord:
    return request.state.record
