# SPDX-License-Identifier: Apache-2.0
"""An id for every request, and a line of JSON for each that is over.

`X-Request-Id` is taken from the client where it sends one, and returned. Probes and metrics that
answer 200 are not logged. The logger is `griffin.requests`; who starts a server gives it a handler.
"""

import datetime
import json
import logging
import re
import uuid
from typing import TextIO

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.http.errors import BUG
from serving.http.metrics import Metrics
from serving.http.request_record import RequestRecord

REQUESTS = logging.getLogger("griffin.requests")
_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
_QUIET = ("/health", "/ready", "/metrics")
NO_ROUTE = "none"  # what is there for paths that nobody serves, so that they are no labels


def log_requests_to(file: TextIO) -> None:
    handler = logging.StreamHandler(file)
    handler.setFormatter(logging.Formatter("%(message)s"))
    REQUESTS.addHandler(handler)
    REQUESTS.setLevel(logging.INFO)
    REQUESTS.propagate = False


class RequestLog:
    """ASGI middleware: `scope["state"]["record"]` for whatever is inside."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics, log_prompts: bool):
        self._app, self._metrics, self._log_prompts = app, metrics, log_prompts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        given = Headers(scope=scope).get("x-request-id", "")
        record = RequestRecord(
            given if _ID.fullmatch(given) else uuid.uuid4().hex,
            method=scope["method"],
            metrics=self._metrics,
            log_prompts=self._log_prompts,
        )
        scope.setdefault("state", {})["record"] = record

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                MutableHeaders(scope=message)["X-Request-Id"] = record.id
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception:  # is written down and raised on: whoever is outside answers
            record.status, record.error = 500, BUG.body.error.code
            raise
        finally:
            self._write(record, scope)

    def _write(self, record: RequestRecord, scope: Scope) -> None:
        route = scope.get("route")
        path = NO_ROUTE if route is None else route.path
        line = record.log_line(path)
        if path in _QUIET and record.status == 200:
            return
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        REQUESTS.info("%s", json.dumps({"time": now, **line}, ensure_ascii=False))
