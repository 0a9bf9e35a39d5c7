"""The requests of a batch, and what is no request."""

import pytest

from recurrentgemma.errors import UserError
from serving.batch.lines import Requests


def test_lines_keep_their_order_and_numbers(asked, line):
    chat = line("a", {"messages": []}, "/v1/chat/completions")
    requests = Requests(asked([line("b", {"prompt": "x"}), "\n", chat]))
    assert requests.numbers == {"b": 1, "a": 3}
    assert [(one.number, one.custom_id, one.url[-11:]) for one in requests] == [
        (1, "b", "completions"),
        (3, "a", "completions"),
    ]
    assert next(iter(requests)).body == {"prompt": "x"}
    assert Requests(asked([line("b", {"prompt": "y"})])).digest != requests.digest


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("{", "line 2: not JSON"),
        ("[1]", "line 2: expected a JSON object"),
        ('{"method": "POST"}', "line 2: custom_id is None"),
        ('{"custom_id": "b"}', "line 2: method is None: expected 'POST'"),
        ('{"custom_id": "b", "method": "POST", "url": "/v1/embeddings"}', "line 2: url is '/v1/em"),
        (
            '{"custom_id": "b", "method": "POST", "url": "/v1/completions", "body": 3}',
            "line 2: body: expected a JSON object",
        ),
        (
            '{"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {}}',
            "line 2: custom_id 'a' is that of line 1, too",
        ),
    ],
)
def test_what_is_no_line_is_named_with_its_number(asked, line, bad, message):
    with pytest.raises(UserError) as caught:
        Requests(asked([line("a", {}), bad + "\n", line("c", {})]))
    assert message in str(caught.value)


def test_many_bad_lines_are_counted(asked):
    with pytest.raises(UserError, match=r"line 1: .*; line 5: .*; and 3 more"):
        Requests(asked(["{\n"] * 8))
    with pytest.raises(UserError, match="has no requests"):
        Requests(asked(["\n"]))
