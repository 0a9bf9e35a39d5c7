# SPDX-License-Identifier: Apache-2.0
"""OpenAI's tools as pydantic models: functions that a model may call, and its calls of them."""

import json
import uuid
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from serving.http.request_fields import STRICT

_ANYTHING = {"type": "object"}  # arguments of a function that does not say what it takes


class FunctionSpec(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True, frozen=True)  # a template may read more

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    description: str | None = None
    parameters: dict[str, Any] | None = None  # a JSON schema
    strict: bool | None = None  # arguments always keep to the schema


class Tool(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    type: Literal["function"]
    function: FunctionSpec

    def call_schema(self, arguments: str) -> dict[str, Any]:
        """Of {"name": ..., arguments: {...}}."""
        name, parameters = self.function.name, self.function.parameters or _ANYTHING
        return {
            "type": "object",
            "properties": {"name": {"const": name}, arguments: parameters},
            "required": ["name", arguments],
            "additionalProperties": False,
        }


class FunctionName(BaseModel):
    model_config = STRICT

    name: str


class NamedTool(BaseModel):
    """The function that is to be called."""

    model_config = STRICT

    type: Literal["function"]
    function: FunctionName


class FunctionCall(BaseModel):
    name: str | None = None  # in a stream: in the first part of a call
    arguments: str  # JSON, as text


class ToolCall(BaseModel):
    id: str | None = None
    type: Literal["function"] | None = None
    function: FunctionCall


class ToolCallDelta(ToolCall):
    index: int


def new_call(name: str, arguments: Any) -> ToolCall:
    text = json.dumps(arguments, ensure_ascii=False)
    function = FunctionCall(name=name, arguments=text)
    return ToolCall(id=f"call_{uuid.uuid4().hex[:24]}", type="function", function=function)
