"""Requests as pydantic models, and errors in OpenAI's form, without a server."""

import pytest
from pydantic import ValidationError

from serving.http.protocol import CompletionRequest, RequestError, error_from_validation


def error(**fields) -> RequestError:
    with pytest.raises(ValidationError) as caught:
        CompletionRequest.model_validate({"prompt": "a"} | fields)
    return error_from_validation(caught.value.errors())


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [("a", ["a"]), (["a", "b"], ["a", "b"]), ([1, 2], [[1, 2]]), ([[1], [2]], [[1], [2]])],
)
def test_every_form_of_a_prompt_is_a_list_of_prompts(prompt, prompts):
    assert CompletionRequest.model_validate({"prompt": prompt}).prompt == prompts


def test_null_is_the_default():
    nulls = dict.fromkeys(CompletionRequest.model_fields)
    plain = CompletionRequest.model_validate({"prompt": "a"})
    assert CompletionRequest.model_validate(nulls | {"prompt": "a"}) == plain


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"n": 0}, "n", "invalid_value"),
        ({"suffix": "b"}, "suffix", "unsupported_parameter"),
        ({"prompts": "b"}, "prompts", "unknown_parameter"),
        ({"stream": True, "stream_options": {"x": 1}}, "stream_options.x", "unknown_parameter"),
        ({"prompt": ...}, "prompt", "invalid_value"),
    ],
)
def test_an_error_names_its_field(fields, param, code):
    if fields.get("prompt") is ...:
        fields = {"prompt": {}}
    body = error(**fields).body.error
    assert (body.param, body.code, body.type) == (param, code, "invalid_request_error")
    assert param in body.message


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, "invalid_request_error"), (413, "invalid_request_error"), (429, "rate_limit_error")]
    + [(status, "server_error") for status in (500, 503)],
)
def test_the_type_of_an_error_follows_its_status(status, kind):
    assert RequestError(status, "why").body.error.type == kind


def test_long_values_are_cut():
    body = RequestError(400, "m" * 10**6, param="p" * 10**6).body.error
    assert len(body.message) < 3000
    assert len(body.param or "") < 200
