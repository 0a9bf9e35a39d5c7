# SPDX-License-Identifier: Apache-2.0
"""The page at `/` and its files, which need no build step and nothing from elsewhere.

A policy tells the browser to run and load what is this server's alone, so that no text of a model's
can become a script. The page asks the same API as everybody else.
"""

from importlib import resources
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from recurrentgemma.counts import state_bytes
from recurrentgemma.errors import UserError
from recurrentgemma.text.chat import chat_format
from serving.engine.engine import Engine
from serving.http.request_fields import MAX_LOGPROBS
from serving.http.service import Service

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
POLICY = "; ".join(
    [
        "default-src 'none'",
        *(f"{kind}-src 'self'" for kind in ("script", "style", "img", "connect")),
        *(f"{what} 'none'" for what in ("base-uri", "form-action", "frame-ancestors")),
    ]
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


def files() -> dict[str, bytes]:
    """The page's files by name."""
    folder = resources.files("serving.http.page")
    return {
        entry.name: entry.read_bytes()
        for entry in folder.iterdir()
        if entry.is_file() and "." + entry.name.rpartition(".")[2] in TYPES
    }


def add_page(app: FastAPI, service: Service) -> None:
    contents = files()

    def sent(name: str) -> Response:
        kind = TYPES["." + name.rpartition(".")[2]]
        return Response(contents[name], media_type=kind, headers=HEADERS)

    @app.head("/", include_in_schema=False)
    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return sent("index.html")

    @app.get("/page/about.json", include_in_schema=False)
    async def about() -> JSONResponse:
        """503 until the model is there."""
        kept = service.options.sessions is not None
        content = facts(service.engine, service.model_name) | {"sessions": kept}
        return JSONResponse(content, headers=HEADERS)

    @app.get("/page/{name}", include_in_schema=False)
    async def file(name: str) -> Response:
        if name not in contents:
            raise HTTPException(404, "Not Found")
        return sent(name)


def facts(engine: Engine, model_name: str) -> dict[str, Any]:
    """What the page shows of the model, and what it can be asked for."""
    tokenizer = engine.lm.tokenizer
    return {
        "model": model_name,
        "state_bytes": state_bytes(engine.lm.config),
        "grows": "global_attention" in engine.lm.config.block_types,
        "slots": engine.slots,
        "text": tokenizer is not None,
        "chats": tokenizer is not None and _chats(tokenizer),
        "most_logprobs": MAX_LOGPROBS,
    }


def _chats(tokenizer: Any) -> bool:
    try:
        chat_format(tokenizer)
    except UserError:
        return False
    return True
