# SPDX-License-Identifier: Apache-2.0
"""Who may ask, and how many at once: ASGI middleware before every route.

A key is compared with all keys, in a time that does not depend on where they differ. The probes
(`/health`, `/ready`), the page and what is under it need none: they tell nothing and cost nothing.
"""

import hmac
from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.http.errors import error_response
from serving.http.protocol import RequestError

PROBES = ("/health", "/ready")
OPEN = (*PROBES, "/")  # and what begins with PAGE
PAGE = "/page/"


class ApiKeys:
    """Answers with 401 whoever has none of the keys. also_open: more paths that need none."""

    def __init__(self, app: ASGIApp, *, keys: Collection[str], also_open: Collection[str] = ()):
        assert keys
        self._app = app
        self._keys = [key.encode() for key in keys]
        self._open = {*OPEN, *also_open}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if scope["type"] != "http" or path in self._open or path.startswith(PAGE):
            return await self._app(scope, receive, send)
        given = Headers(scope=scope).get("authorization", "")
        kind, _, key = given.partition(" ")
        known = self._knows(key.strip()) and kind.lower() == "bearer"
        if known:
            return await self._app(scope, receive, send)
        what = "the API key is not one of this server's" if key else "there is no API key"
        message = f"{what}: send Authorization: Bearer KEY (ask whoever runs this server for one)"
        response = error_response(RequestError(401, message, code="invalid_api_key"))
        response.headers["WWW-Authenticate"] = "Bearer"
        await response(scope, receive, send)

    def _knows(self, key: str) -> bool:
        given, known = key.encode("latin-1", "replace"), False
        for own in self._keys:  # all of them, whichever it is
            known |= hmac.compare_digest(given, own)
        return known


class AtMost:
    """Answers with 503 what comes while `most` requests are open; probes always pass."""

    def __init__(self, app: ASGIApp, *, most: int):
        self._app, self._most, self._open = app, most, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in PROBES:
            return await self._app(scope, receive, send)
        if self._open >= self._most:
            message = f"{self._open} requests are open, the most that this server takes: try again"
            response = error_response(RequestError(503, message, code="too_many_requests_open"))
            return await response(scope, receive, send)
        self._open += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._open -= 1
