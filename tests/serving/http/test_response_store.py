"""Stored responses are bounded, in number and in bytes."""

import pytest

from serving.http.protocol import RequestError
from serving.http.response_answers import _begun
from serving.http.response_protocol import Response, ResponsesRequest
from serving.http.response_store import ResponseStore


def response() -> Response:
    return _begun(ResponsesRequest.model_validate({"input": "a"}), "m")


def test_the_least_recently_used_go_first():
    store = ResponseStore(most=2)
    first, second, third = response(), response(), response()
    store.put(first, [])
    store.put(second, [{"role": "user", "content": "a"}])
    assert store.get(first.id).response is first
    store.put(third, [])
    assert store.get(first.id).response is first
    with pytest.raises(RequestError, match="was not stored, or had to make room") as caught:
        store.get(second.id, field="previous_response_id")
    assert (caught.value.status, caught.value.body.error.param) == (404, "previous_response_id")
    store.delete(first.id)
    with pytest.raises(RequestError):
        store.delete(first.id)


def test_bytes_are_bounded():
    store = ResponseStore(most_bytes=30_000)
    kept = [response() for _ in range(3)]
    for one in kept:
        store.put(one, [{"role": "user", "content": "a" * 12_000}])
    assert [one.id in store._stored for one in kept] == [False, True, True]
    store.put(response(), [{"role": "user", "content": "a" * 40_000}])
    assert not store._stored
    assert store._bytes == 0
