"""Where a server listens, and what it says of it."""

import pytest

from recurrentgemma.errors import UserError
from serving.listening import listen, url_of


def test_a_free_port_and_one_that_is_taken():
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(OSError, match=f"port {port} on 127.0.0.1 is already in use"):
            listen("127.0.0.1", port)
    with pytest.raises(UserError, match="expected 0"):
        listen("127.0.0.1", -1)


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("0.0.0.0", "http://127.0.0.1:8"),
        ("::", "http://[::1]:8"),
        ("there.example", "http://there.example:8"),
    ],
)
def test_the_url_is_one_that_can_be_asked(host, url):
    assert url_of(host, 8) == url
