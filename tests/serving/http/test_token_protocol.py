"""What may be asked of a tokenizer."""

import pytest

from serving.http.body import parse_value
from serving.http.protocol import RequestError
from serving.http.token_protocol import TokenizeRequest


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "prompt"),
        ({"prompt": "a", "messages": []}, "prompt"),
        ({"prompt": "a", "tools": []}, "tools"),
        ({"messages": [], "add_special_tokens": True}, "add_special_tokens"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": "a", "text": "b"}, "text"),
    ],
)
def test_refused(body, param):
    with pytest.raises(RequestError) as caught:
        parse_value(body, TokenizeRequest)
    assert caught.value.status == 400
    assert caught.value.body.error.param == param


def test_what_it_shares_with_a_chat():
    messages = [{"role": "user", "content": "Hi"}]
    body = parse_value({"messages": messages, "continue_final_message": False}, TokenizeRequest)
    assert body.of_chat == {"messages": messages, "continue_final_message": False}
