# SPDX-License-Identifier: Apache-2.0
"""How long short requests wait for their first token behind a long prompt (docs/serving.md).

    griffin serve runs/demo --port 8000 &
    python -m serving.bench.long_prompt http://127.0.0.1:8000 --tokens 720000

Times to the first token, in seconds: of short requests (the median) on the idle server and while
the long prompt is read, and of the long prompt with short ones beside it and alone. It takes as
long as the server takes for the long prompt, twice.
"""

import dataclasses
import http.client
import json
import statistics
import sys
import threading
import time
from typing import Annotated
from urllib.parse import urlsplit

import tyro


@dataclasses.dataclass(frozen=True, kw_only=True)
class LongPromptArguments:
    url: Annotated[str, tyro.conf.Positional]
    """Of a server that is ready."""
    tokens: int = 720_000
    """Length of the long prompt."""
    short_tokens: int = 20
    """Length of a short prompt."""
    requests: int = 5
    """How many short requests, one after the other."""
    delay: float = 1.0
    """Seconds between the long request and the first short one."""


def main(argv: list[str]) -> int:
    arguments = tyro.cli(
        LongPromptArguments,
        prog="python -m serving.bench.long_prompt",
        description=__doc__,
        args=argv,
    )
    for name, seconds in measure(arguments).items():
        print(f"{name:32} {seconds:8.3f} s", flush=True)
    return 0


def measure(arguments: LongPromptArguments) -> dict[str, float]:
    """Times to the first token, in seconds."""

    def short() -> float:
        ttfts = []
        for _ in range(arguments.requests):
            ttfts.append(time_to_first_token(arguments.url, arguments.short_tokens))
            if not long.is_alive() and long.ident is not None:
                break
        return statistics.median(ttfts)

    long_ttft: list[float] = []
    long = threading.Thread(
        target=lambda: long_ttft.append(time_to_first_token(arguments.url, arguments.tokens))
    )
    idle = short()
    long.start()
    time.sleep(arguments.delay)
    behind = short()
    long.join()
    alone = time_to_first_token(arguments.url, arguments.tokens)
    return {
        "short, idle server": idle,
        "short, behind the long prompt": behind,
        "long, with short ones beside": long_ttft[0],
        "long, idle server": alone,
    }


def time_to_first_token(url: str, num_tokens: int) -> float:
    """Of a streamed request with a prompt of so many tokens, in seconds."""
    prompt = [65 + i % 26 for i in range(num_tokens)]
    body = {"prompt": prompt, "max_tokens": 1, "temperature": 0, "stream": True}
    content = json.dumps(body, separators=(",", ":"))
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=3600)
    try:
        began = time.perf_counter()
        connection.request("POST", "/v1/completions", content, {"Content-Type": "application/json"})
        response = connection.getresponse()
        first = response.readline()
        if response.status != 200:
            raise OSError(f"{url} answers {response.status}: {(first + response.read()).decode()}")
        elapsed = time.perf_counter() - began
        response.read()
        return elapsed
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
