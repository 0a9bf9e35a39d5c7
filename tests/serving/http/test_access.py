"""Who may ask."""

import asyncio
import concurrent.futures

import httpx
import pytest

from serving.http.options import ServerOptions
from serving.http.server import create_app

KEYS = ("first-key", "schlüssel")


@pytest.fixture
def ask_app(engine_thread):
    """`ask_app(options, method, path, **of httpx)`."""

    def ask(options: ServerOptions, method: str, path: str, **kwargs):
        app = create_app(engine_thread, model_name="fake", options=options)

        async def send():
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                return await client.request(method, path, **kwargs)

        return asyncio.run(send())

    return ask


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (None, 401),
        (b"Bearer wrong", 401),
        (b"Bearer first-ke", 401),
        (b"first-key", 401),
        (b"Basic first-key", 401),
        (b"Bearer ", 401),
        (b"Bearer \xff\xfe", 401),
        (b"Bearer first-key", 200),
        (b"bearer  first-key", 200),
        ("Bearer schlüssel".encode(), 200),
    ],
)
def test_a_key_of_the_servers(ask_app, header, status):
    headers = {} if header is None else {"Authorization": header}
    options = ServerOptions(api_keys=KEYS)
    body = {"prompt": "a", "max_tokens": 1}
    answer = ask_app(options, "POST", "/v1/completions", json=body, headers=headers)
    assert answer.status_code == status
    if status == 401:
        assert answer.json()["error"]["code"] == "invalid_api_key"
        assert answer.json()["error"]["type"] == "invalid_request_error"
        assert answer.headers["www-authenticate"] == "Bearer"


def test_probes_and_the_page_need_none_and_all_else_does(ask_app):
    options = ServerOptions(api_keys=KEYS)
    for path in ("/health", "/ready", "/"):
        assert ask_app(options, "GET", path).status_code == 200
    for path in ("/v1/models", "/openapi.json", "/nothing", "/health/"):
        assert ask_app(options, "GET", path).status_code == 401


def test_a_browser_asks_from_another_origin(ask_app):
    options = ServerOptions(api_keys=KEYS, cors=("https://chat.example",))
    asked = {"Origin": "https://chat.example", "Access-Control-Request-Method": "POST"}
    asked |= {"Access-Control-Request-Headers": "authorization,content-type"}
    before = ask_app(options, "OPTIONS", "/v1/completions", headers=asked)
    assert before.status_code == 200
    assert before.headers["access-control-allow-origin"] == "https://chat.example"
    other = ask_app(options, "GET", "/v1/models", headers={"Origin": "https://other.example"})
    assert "access-control-allow-origin" not in other.headers
    refused = ask_app(options, "GET", "/v1/models", headers={"Origin": "https://chat.example"})
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == "https://chat.example"
    assert (
        "access-control-allow-origin"
        not in ask_app(
            ServerOptions(), "GET", "/v1/models", headers={"Origin": "https://chat.example"}
        ).headers
    )


def test_no_more_open_requests_than_there_may_be(engine_thread, running_server, wait_until):
    fake_engine = engine_thread.engine
    fake_engine.gate.clear()
    app = create_app(engine_thread, model_name="fake", options=ServerOptions(most_open=2))
    with running_server(app) as url, concurrent.futures.ThreadPoolExecutor() as pool:
        post = lambda: httpx.post(f"{url}/v1/completions", json={"prompt": "a"}, timeout=30)  # noqa: E731
        two = [pool.submit(post) for _ in range(2)]
        wait_until(lambda: engine_thread.unfinished == 2)
        refused = post()
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert refused.json()["error"]["code"] == "too_many_requests_open"
        assert httpx.get(f"{url}/health").status_code == 200
        fake_engine.gate.set()
        assert [future.result().status_code for future in two] == [200, 200]
        assert post().status_code == 200
