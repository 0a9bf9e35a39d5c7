# SPDX-License-Identifier: Apache-2.0
"""`griffin serve`: take the port, load and compile, serve until Ctrl-C or SIGTERM.

The port is taken first, so that one in use is known before minutes of loading, and so that
`GET /health` can say "loading" meanwhile.
"""

import os
import signal
import sys
import threading
import traceback
from functools import partial
from typing import NoReturn

import tyro
import uvicorn

from recurrentgemma.errors import UserError, is_out_of_memory
from serving.engine.thread import EngineThread, Status
from serving.http.request_log import log_requests_to
from serving.http.server import create_app, curl_example
from serving.listening import listen, url_of
from serving.serve_engine import make_engine, say, served_name
from serving.serve_options import ServeArguments, server_options
from serving.stopping import Stopping

EXAMPLES = """Serve a model over OpenAI's completions and chat API until Ctrl-C.

examples:
  griffin serve runs/demo                                 at http://127.0.0.1:8000
  griffin serve google/recurrentgemma-2b-it --port 9000 --slots 32
  curl -N http://127.0.0.1:8000/v1/completions -H 'Content-Type: application/json' \\
      -d '{"prompt": "O Romeo, ", "max_tokens": 64, "stream": true}'
  GRIFFIN_API_KEYS=secret griffin serve runs/demo         for those who have the key
  curl http://127.0.0.1:8000/v1/chat/completions -H 'Content-Type: application/json' \\
      -d '{"messages": [{"role": "user", "content": "Name three rivers."}]}'
"""

_KEEP_ALIVE_S = 75  # of an idle connection; load balancers keep theirs for 60 s
_STOP_IN_S = 5.0  # what an open connection, and then the engine, may take to end after Ctrl-C


def main(argv: list[str]) -> int:
    """Serve. Raises UserError for a bad option or a checkpoint that cannot be loaded, OSError for
    a port that cannot be had."""
    arguments = tyro.cli(ServeArguments, prog="griffin serve", description=EXAMPLES, args=argv)
    return serve(arguments)


def serve(arguments: ServeArguments) -> int:
    """Serve until SIGINT or SIGTERM, then return 0 (1 when the engine has failed meanwhile)."""
    model_name, options = served_name(arguments), server_options(arguments)
    with listen(arguments.host, arguments.port) as listener:
        url = url_of(arguments.host, listener.getsockname()[1])

        def changed(status: Status) -> None:
            if status == "ready":
                was_ready.set()
                say(f"serving at {url} (Ctrl-C stops it); try:\n  {curl_example(url)}")
            elif status == "failed" and was_ready.is_set():
                traceback.print_exception(thread.error)
                say(f"the engine has failed: {url}/health answers 503 until this is restarted")
            elif status == "failed":
                server.should_exit = True  # there is nothing to serve

        was_ready = threading.Event()
        thread = EngineThread(
            partial(make_engine, arguments), max_waiting=arguments.queue, on_change=changed
        )
        if arguments.log_requests:
            log_requests_to(sys.stdout)
        app = create_app(thread, model_name=model_name, options=options)
        config = uvicorn.Config(
            app,
            log_level="warning",
            timeout_graceful_shutdown=int(_STOP_IN_S),
            timeout_keep_alive=_KEEP_ALIVE_S,
            lifespan="off",
        )
        server = uvicorn.Server(config)
        stopping = Stopping(server, thread, drain_s=arguments.drain)
        server.handle_exit = stopping.signalled
        signal.signal(signal.SIGTERM, _interrupt)  # uvicorn raises it anew when it is done
        thread.start()
        try:
            server.run(sockets=[listener])
            stopped = stopping.drained
        except KeyboardInterrupt:
            stopped = True
        if stopped:
            for sig in (signal.SIGINT, signal.SIGTERM):
                signal.signal(sig, signal.SIG_IGN)  # it is ending already
            say("stopped")
        if not thread.close(timeout_s=_STOP_IN_S):
            sys.stdout.flush()
            os._exit(0)  # a compilation cannot be interrupted, and nothing is lost with it
    if thread.error is not None and not was_ready.is_set():
        if is_out_of_memory(thread.error):
            raise UserError(
                f"the model and --slots {arguments.slots} do not fit into the device's memory: "
                "lower --slots, or take --dtype bfloat16 or a device with more"
            ) from thread.error
        raise thread.error
    return 0 if thread.error is None else 1


def _interrupt(sig: int, frame) -> NoReturn:
    raise KeyboardInterrupt
