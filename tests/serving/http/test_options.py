"""Keys come from the environment, and a server that was meant to be closed is not open."""

import pytest

from recurrentgemma.errors import UserError
from serving.http.options import api_keys


def test_keys_of_the_environment():
    assert api_keys({}) == ()
    assert api_keys({"GRIFFIN_API_KEYS": "one, two,"}) == ("one", "two")
    for empty in ("", " , "):
        with pytest.raises(UserError, match="GRIFFIN_API_KEYS is empty"):
            api_keys({"GRIFFIN_API_KEYS": empty})
