# SPDX-License-Identifier: Apache-2.0
"""A request's body: bytes within a limit, then JSON, then one of our models.

The body is read here and not by FastAPI, whose reader takes any number of bytes, reads half a
character as text, and ends in a RecursionError where JSON is nested thousands deep.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from serving.http.protocol import RequestError, error_from_validation

MIB = 2**20
_SURROGATE = re.compile("[\ud800-\udfff]")

M = TypeVar("M", bound=BaseModel)


async def read_json(request: Request, model: type[M], *, max_bytes: int) -> M:
    """The body as a `model`. Raises RequestError: 413 for too many bytes, and 400 that names the
    field for whatever else is wrong."""
    if not _says_json(request.headers.get("content-type", "")):
        message = "the body must be a JSON object, sent with Content-Type: application/json"
        raise RequestError(400, message, code="invalid_value")
    body = await read_bytes(request, max_bytes=max_bytes)
    return await run_in_threadpool(parse, body, model)


def without_body(request: Request) -> bool:
    """By its headers: a client that sends a body says how long it is, or that it comes in parts."""
    headers = request.headers
    return headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers


async def read_bytes(request: Request, *, max_bytes: int) -> bytes:
    """The body as it is, of which no more than `max_bytes` are ever held."""
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > max_bytes:
        raise _too_large(max_bytes)
    parts, length = [], 0
    try:
        async for part in request.stream():
            length += len(part)
            if length > max_bytes:
                raise _too_large(max_bytes)
            parts.append(part)
    except ClientDisconnect:
        raise RequestError(400, "the client has gone away while it sent the body") from None
    return b"".join(parts)


def parse(body: bytes, model: type[M]) -> M:
    """Raises RequestError (400): no JSON, half a character in a text or a name, a field that
    `model` does not take."""
    try:
        value = from_json(body)
    except ValueError as error:
        raise _not_json(body, str(error)) from None
    return parse_value(value, model)


def parse_value(value: Any, model: type[M]) -> M:
    """Raises RequestError (400) that names the field."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise error_from_validation(error.errors(include_url=False)) from None


def json_schema(model: type[BaseModel], *, required: bool = True) -> dict[str, Any]:
    """What `openapi_extra` says of an endpoint whose body is read by `read_json`."""
    schema = model.model_json_schema(mode="validation")
    content = {"application/json": {"schema": _inlined(schema, schema.get("$defs", {}))}}
    return {"requestBody": {"required": required, "content": content}}


def _says_json(content_type: str) -> bool:
    kind = content_type.split(";")[0].strip().lower()
    return kind == "application/json" or (
        kind.startswith("application/") and kind.endswith("+json")
    )


def _too_large(max_bytes: int) -> RequestError:
    limit = f"{max_bytes / MIB:g} MiB" if max_bytes >= MIB else f"{max_bytes} bytes"
    message = f"the body is larger than the {limit} that this server takes: send a shorter prompt"
    return RequestError(413, message, code="body_too_large")


def _not_json(body: bytes, reason: str) -> RequestError:
    """The parser names line and column only; half a character is worth a second look, for the
    field that it is in."""
    place = _half_a_character(body)
    if place is None:
        if not body.strip():
            reason = "it is empty"
        if "recursion" in reason:
            return RequestError(400, "the body is nested too deeply", code="invalid_json")
        return RequestError(400, f"the body is not JSON: {reason}", code="invalid_json")
    param, character = place
    what = f"'{param}'" if param else "the name of a field"
    message = f"{what} holds {character!r}, half of a character: send whole Unicode characters"
    return RequestError(400, message, param=param, code="invalid_unicode")


def _half_a_character(body: bytes) -> tuple[str | None, str] | None:
    """The first lone surrogate: (the field that holds it, None for a name's, itself)."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return None
    levels: list[Iterator[tuple[str, Any]]] = [iter([("", value)])]
    while levels:
        for path, value in levels[-1]:
            for text in value if isinstance(value, dict) else [value]:
                half = _SURROGATE.search(text) if isinstance(text, str) else None
                if half:
                    return path or None, half[0]
            if not isinstance(value, str):
                levels.append(_below(path, value))
                break
        else:
            levels.pop()
    return None


def _below(path: str, value: dict | list) -> Iterator[tuple[str, Any]]:
    """What may hold text in an object or a list, with the path to it."""
    for name, item in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(item, str | list | dict):
            yield f"{path}.{name}" if path else str(name), item


def _inlined(schema: Any, definitions: dict[str, Any]) -> Any:
    """The schema with its references replaced by what they refer to."""
    if isinstance(schema, list):
        return [_inlined(item, definitions) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inlined(definitions[schema["$ref"].rsplit("/", 1)[-1]], definitions)
    return {k: _inlined(v, definitions) for k, v in schema.items() if k != "$defs"}
