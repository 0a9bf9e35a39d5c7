"""Every error has OpenAI's form, and a bug says nothing of itself to a client."""

import pytest

from recurrentgemma.errors import TemplateError, UserError
from serving.engine.thread import EngineUnavailable, QueueFull
from serving.http.errors import BUG, error_response, told
from serving.http.protocol import RequestError


@pytest.mark.parametrize(
    ("error", "status", "code", "param"),
    [
        (RequestError(418, "tea", param="pot", code="tea"), 418, "tea", "pot"),
        (UserError("no", field="stop"), 400, "invalid_value", "stop"),
        (TemplateError("line 2"), 500, "chat_template_error", None),
        (QueueFull("full"), 429, "queue_full", None),
        (EngineUnavailable("loading"), 503, "unavailable", None),
    ],
)
def test_what_a_client_is_told(error, status, code, param):
    failure = told(error)
    assert (failure.status, failure.body.error.code) == (status, code)
    assert failure.body.error.param == param
    assert failure.body.error.message == str(error)
    response = error_response(failure)
    assert ("retry-after" in response.headers) == (status in (429, 503))


def test_a_bug_is_told_without_its_reason():
    assert told(ValueError("a secret")) is BUG
    assert b"secret" not in bytes(error_response(BUG).body)
