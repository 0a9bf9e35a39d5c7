# SPDX-License-Identifier: Apache-2.0
"""What holds for requests of every kind."""

import pytest
from pydantic import ValidationError

from serving.http.protocol import error_from_validation
from serving.http.request_fields import RequestFields


def test_null_is_the_default_and_one_stop_is_a_list():
    assert RequestFields.model_validate(
        {"n": None, "logit_bias": {}}
    ) == RequestFields.model_validate({})
    assert RequestFields.model_validate({"stop": "a"}).stop == ["a"]


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"logit_bias": {"5": 1}}, "logit_bias", "unsupported_parameter"),
        ({"presence_penalty": False}, "presence_penalty", "unsupported_parameter"),
        ({"prompt": "a"}, "prompt", "unknown_parameter"),
        ({"stop": ["a", ""]}, "stop", "invalid_value"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
        ({"top_p": 0}, "top_p", "invalid_value"),
    ],
)
def test_an_error_names_its_field(fields, param, code):
    with pytest.raises(ValidationError) as caught:
        RequestFields.model_validate(fields)
    body = error_from_validation(caught.value.errors()).body.error
    assert (body.param, body.code) == (param, code)
