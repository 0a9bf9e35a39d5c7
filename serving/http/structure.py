# SPDX-License-Identifier: Apache-2.0
"""The form that a request asks its answer to have, as a constraint of the engine's."""

from collections.abc import Callable
from typing import Any

from recurrentgemma.errors import UserError
from serving.engine.engine import Engine
from serving.engine.request import AllowedTokens
from serving.http.request_fields import RequestFields


def constraint_of(body: RequestFields, engine: Engine) -> Callable[[], AllowedTokens] | None:
    """None where any text will do.

    Raises UserError, which names the field: no such schema, regular expression or grammar, or a
    tokenizer that cannot be held to one.
    """
    asked = _asked(body)
    if asked is None:
        return None
    kind, given, field = asked
    if engine.constraints is None:
        raise UserError(
            "this checkpoint's tokenizer cannot be held to a form: leave it out", field=field
        )
    return engine.constraints.compiled(kind, given, field=field)


def _asked(body: RequestFields) -> tuple[Any, Any, str] | None:
    """Kind, what is given, and the field."""
    form, outputs = body.response_format, body.structured_outputs
    if form is not None and form.json_schema is not None:
        return "json", form.json_schema.json_schema, "response_format.json_schema.schema"
    if form is not None:
        return "json_object", None, "response_format"
    if outputs is None:
        return None
    ((name, given),) = outputs.model_dump(exclude_none=True, by_alias=True).items()
    return name, given, f"structured_outputs.{name}"
