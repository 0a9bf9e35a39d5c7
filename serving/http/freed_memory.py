# SPDX-License-Identifier: Apache-2.0
"""Memory that one large request took goes back to the system once it is answered.

The griffin command has malloc keep what is freed (recurrentgemma/memory.py), which is right for the
tensors of every step and wrong for a prompt of millions of characters that came once.
"""

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from recurrentgemma.memory import give_back_freed_memory

LARGE_BYTES = 2**20  # a body from here on: it takes 10 to 60 times as much while it is tokenised
AFTER_S = 1.0  # by then the engine has let go of a request whose client has gone away, too


class GiveBackMemory:
    """ASGI middleware: a second after a request with a large body has ended, memory is given back,
    once for all that end meanwhile."""

    def __init__(self, app: ASGIApp):
        self._app = app
        self._pending: asyncio.TimerHandle | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        size = 0

        async def counted() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            return message

        try:
            await self._app(scope, counted, send)
        finally:
            if size >= LARGE_BYTES and self._pending is None:
                self._pending = asyncio.get_running_loop().call_later(AFTER_S, self._give_back)

    def _give_back(self) -> None:
        self._pending = None
        asyncio.get_running_loop().run_in_executor(None, give_back_freed_memory)
