# SPDX-License-Identifier: Apache-2.0
"""How a server ends: after what it has begun (SIGTERM), or at once (Ctrl-C, or a second signal).

stopping = Stopping(server, thread, drain_s=25)
server.handle_exit = stopping.signalled       # uvicorn's, in its main thread
"""

import signal
import threading
import time

import uvicorn

from serving.engine.thread import EngineThread

_LOOKED_EVERY_S = 0.02


class Stopping:
    """drain_s: what running answers may take to end after SIGTERM; 0 ends them at once."""

    def __init__(self, server: uvicorn.Server, thread: EngineThread, *, drain_s: float):
        self._server, self._thread, self._drain_s = server, thread, drain_s
        self._end_now = server.handle_exit
        self.drained = False

    def signalled(self, sig: int, frame) -> None:
        thread = self._thread
        if sig == signal.SIGTERM and not thread.draining and self._drain_s > 0 and thread.occupancy:
            thread.drain()
            threading.Thread(target=self._drain, name="drain", daemon=True).start()
            return
        thread.close(timeout_s=0.0)  # ends streams that uvicorn would wait for
        self._end_now(sig, frame)

    def _drain(self) -> None:
        """Until then the port stays open: requests are told 503, and so are probes."""
        until = time.monotonic() + self._drain_s
        while self._thread.unfinished and time.monotonic() < until:
            if self._server.should_exit:
                return  # a second signal
            time.sleep(_LOOKED_EVERY_S)
        self._thread.close(timeout_s=0.0)
        self.drained = True
        self._server.should_exit = True
