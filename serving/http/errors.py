# SPDX-License-Identifier: Apache-2.0
"""Every error as an answer in OpenAI's form."""

import logging

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.responses import Response

from recurrentgemma.errors import TemplateError, UserError
from serving.engine.thread import EngineUnavailable, QueueFull
from serving.features.adaptation import AdaptationBusy, AdaptationDamaged
from serving.features.adapters import NoSuchAdapter
from serving.features.constraints import ConstraintFailed
from serving.features.sessions import (
    NoSuchSession,
    SessionBusy,
    SessionDamaged,
    SessionExists,
)
from serving.http.protocol import RequestError
from serving.http.request_record import record_of

_log = logging.getLogger(__name__)
BUG = RequestError(
    500,
    "this is the server's fault, not the request's: its log has the details",
    code="internal_error",
)


def error_response(error: RequestError) -> JSONResponse:
    headers = {"Retry-After": "1"} if error.status in (429, 503) else None
    return JSONResponse(error.body.model_dump(), status_code=error.status, headers=headers)


def told(error: Exception) -> RequestError:
    """What a client is told of an error. One that is not foreseen is a bug of ours."""
    match error:
        case RequestError():
            return error
        case TemplateError():
            return RequestError(500, str(error), code="chat_template_error")
        case NoSuchAdapter():
            return RequestError(404, str(error), param="model", code="model_not_found")
        case NoSuchSession():
            return RequestError(404, str(error), param=error.field, code="session_not_found")
        case SessionExists():
            return RequestError(409, str(error), param=error.field, code="session_exists")
        case SessionBusy():
            return RequestError(409, str(error), param="session", code="session_busy")
        case AdaptationBusy():
            return RequestError(429, str(error), param="session", code="adaptation_busy")
        case AdaptationDamaged():
            return RequestError(422, str(error), param=error.field, code="adaptation_damaged")
        case SessionDamaged():
            return RequestError(422, str(error), param=error.field, code="session_damaged")
        case ConstraintFailed():
            return RequestError(422, str(error), param=error.field, code="constraint_failed")
        case UserError():
            return RequestError(400, str(error), param=error.field, code="invalid_value")
        case QueueFull():
            return RequestError(429, str(error), code="queue_full")
        case EngineUnavailable():
            return RequestError(503, str(error), code="unavailable")
    return BUG


def add_error_handlers(app: FastAPI) -> None:
    async def tell(request: Request, error: Exception) -> Response:
        if isinstance(error, TemplateError):
            _log.error("%s", error)
        failure, record = told(error), record_of(request)
        record.error = failure.body.error.code
        response = error_response(failure)
        if failure is BUG:  # which is told outside of what adds it to all others
            response.headers["X-Request-Id"] = record.id
        return response

    async def tell_of_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        message = f"{request.method} {request.url.path}: {error.detail}"
        return error_response(RequestError(error.status_code, message))

    kinds = (RequestError, UserError, TemplateError, QueueFull, EngineUnavailable)
    for kind in (
        *kinds,
        SessionBusy,
        AdaptationBusy,
        Exception,
    ):  # Starlette raises what is no other anew: it is logged
        app.add_exception_handler(kind, tell)
    app.add_exception_handler(HTTPException, tell_of_http)
