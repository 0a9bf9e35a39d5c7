# SPDX-License-Identifier: Apache-2.0
"""Responses that were answered, for those who ask again, or go on from one: in memory, bounded."""

import json
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, NamedTuple

from serving.http.protocol import RequestError
from serving.http.response_protocol import Response

MOST = 1000
MOST_BYTES = 64 * 2**20


class StoredResponse(NamedTuple):
    response: Response
    messages: tuple[dict[str, Any], ...]  # of all the conversation but instructions, this included
    bytes: int


class ResponseStore:
    """The least recently used go first. For one thread, that of the event loop."""

    def __init__(self, *, most: int = MOST, most_bytes: int = MOST_BYTES):
        self._stored: OrderedDict[str, StoredResponse] = OrderedDict()
        self._most, self._most_bytes, self._bytes = most, most_bytes, 0

    def put(self, response: Response, messages: Sequence[dict[str, Any]]) -> None:
        size = len(json.dumps(messages)) + len(response.model_dump_json())
        self._stored[response.id] = StoredResponse(response, tuple(messages), size)
        self._bytes += size
        while len(self._stored) > self._most or self._bytes > self._most_bytes:
            self._bytes -= self._stored.popitem(last=False)[1].bytes

    def get(self, id: str, *, field: str | None = None) -> StoredResponse:
        """Raises RequestError (404)."""
        if id not in self._stored:
            message = f"there is no response {id!r}: it was not stored, or had to make room"
            raise RequestError(404, message, param=field, code="response_not_found")
        self._stored.move_to_end(id)
        return self._stored[id]

    def delete(self, id: str) -> None:
        """Raises RequestError (404)."""
        self._bytes -= self.get(id).bytes
        del self._stored[id]
