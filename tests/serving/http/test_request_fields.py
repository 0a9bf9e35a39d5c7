# SPDX-License-Identifier: Apache-2.0
"""What holds for requests of every kind."""

import pytest
from pydantic import ValidationError

from serving.http.chat_protocol import ChatRequest
from serving.http.protocol import CompletionRequest, error_from_validation
from serving.http.request_fields import RequestFields


class Asked(RequestFields):
    """Of nothing."""

    @property
    def texts(self) -> None:
        return None


def test_null_is_the_default_and_one_stop_is_a_list():
    assert Asked.model_validate({"n": None, "logit_bias": {}}) == Asked.model_validate({})
    assert Asked.model_validate({"stop": "a"}).stop == ["a"]
    assert Asked.model_validate({"logit_bias": {"5": 1}}).logit_bias == {5: 1.0}


UNSET = {  # what clients of vLLM and LiteLLM send at its default
    "early_stopping": False,
    "include_stop_str_in_output": False,
    "length_penalty": 1.0,
    "priority": 0,
    "prompt_logprobs": None,
    "response_format": {"type": "text"},
    "skip_special_tokens": True,
    "spaces_between_special_tokens": True,
    "truncate_prompt_tokens": None,
    "typical_p": 1,
    "prompt_cache_retention": "24h",
    "add_special_tokens": None,
    "best_of": 1,
}


@pytest.mark.parametrize(
    ("kind", "own"),
    [
        (CompletionRequest, {"prompt": "a", "add_special_tokens": True}),
        (
            ChatRequest,
            {"messages": [], "echo": False, "documents": [], "chat_template": None}
            | {"add_special_tokens": False},
        ),
    ],
)
def test_what_clients_leave_unset_is_taken(kind, own):
    options = {"include_usage": None, "continuous_usage_stats": False}
    kind.model_validate(UNSET | own | {"stream": True, "stream_options": options})
    for name, value in {"skip_special_tokens": False, "length_penalty": 2, "priority": 1}.items():
        with pytest.raises(ValidationError, match=f"'{name}' is not supported"):
            kind.model_validate(UNSET | own | {name: value})


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"length_penalty": False}, "length_penalty", "unsupported_parameter"),
        ({"logit_bias": {"5": 101}}, "logit_bias", "invalid_value"),
        ({"logit_bias": {"a": 1}}, "logit_bias", "invalid_value"),
        ({"logit_bias": {"5": 1, "05": 2}}, "logit_bias", "invalid_value"),
        ({"logit_bias": {"5": True}}, "logit_bias", "invalid_value"),
        ({"logit_bias": {str(i): 1 for i in range(1025)}}, "logit_bias", "invalid_value"),
        ({"presence_penalty": False}, "presence_penalty", "invalid_value"),
        ({"frequency_penalty": 2.1}, "frequency_penalty", "invalid_value"),
        ({"prompt": "a"}, "prompt", "unknown_parameter"),
        ({"stop": ["a", ""]}, "stop", "invalid_value"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
        ({"top_p": 0}, "top_p", "invalid_value"),
        (
            {"stream": True, "stream_options": {"continuous_usage_stats": True}},
            "stream_options.continuous_usage_stats",
            "invalid_value",
        ),
    ],
)
def test_an_error_names_its_field(fields, param, code):
    with pytest.raises(ValidationError) as caught:
        Asked.model_validate(fields)
    body = error_from_validation(caught.value.errors()).body.error
    assert (body.param, body.code) == (param, code)
