"""Sessions over HTTP: named, listed, forked, deleted."""

import httpx
import pytest

from serving.http.options import ServerOptions
from serving.http.server import create_app


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("served") / "sessions"


@pytest.fixture
def client(griffin, folder, running_thread, running_server):
    with running_thread(lambda: griffin, 8) as thread:
        options = ServerOptions(sessions=folder)
        app = create_app(thread, model_name="griffin", options=options)
        with running_server(app) as url, httpx.Client(base_url=url, timeout=60) as client:
            yield client
    for path in folder.glob("*.session"):
        path.unlink()


def error(answer: httpx.Response) -> tuple[int, str, str | None]:
    told = answer.json()["error"]
    return answer.status_code, told["code"], told["param"]


def test_from_the_first_to_the_last(client):
    created = client.post("/v1/sessions", json={"name": "a"}).json()
    assert (created["id"], created["tokens"], created["busy"]) == ("a", 0, False)
    assert created["messages"] == []
    ask = {"prompt": "Once", "max_tokens": 4, "ignore_eos": True, "session": "a", "seed": 1}
    assert client.post("/v1/completions", json=ask).status_code == 200
    shown = client.get("/v1/sessions/a").json()
    assert shown["tokens"] == 9  # with a bos
    assert shown["bytes"] > created["bytes"]
    forked = client.post("/v1/sessions/a/fork", json={"name": "b"}).json()
    assert (forked["id"], forked["tokens"]) == ("b", 9)
    unnamed = client.post("/v1/sessions").json()["id"]  # nor a body
    listed = client.get("/v1/sessions").json()
    assert listed["object"] == "list"
    assert [session["id"] for session in listed["data"]] == ["a", "b", unnamed]
    assert client.delete("/v1/sessions/a").json()["deleted"] is True
    assert error(client.get("/v1/sessions/a")) == (404, "session_not_found", "session")


def test_what_is_refused(client):
    assert client.post("/v1/sessions", json={"name": "a"}).status_code == 200
    for answer, expected in (
        (client.post("/v1/sessions", json={"name": "a"}), (409, "session_exists", "name")),
        (client.post("/v1/sessions", json={"name": "../a"}), (400, "invalid_value", "name")),
        (client.post("/v1/sessions/a/fork", json={"name": "a"}), (409, "session_exists", "name")),
        (client.post("/v1/sessions/b/fork"), (404, "session_not_found", "session")),
        (client.post("/v1/sessions", content="a"), (400, "invalid_value", None)),
        (client.delete("/v1/sessions/b"), (404, "session_not_found", "session")),
        (client.get("/v1/sessions/.hidden"), (400, "invalid_value", "session")),
    ):
        assert error(answer) == expected


def test_what_no_request_can_name_is_no_session(client, folder):
    client.post("/v1/sessions", json={"name": "a"})
    (folder / "a copy.session").write_bytes((folder / "a.session").read_bytes())
    (folder / "folder.session").mkdir()
    try:
        assert [session["id"] for session in client.get("/v1/sessions").json()["data"]] == ["a"]
        for method in ("GET", "DELETE"):
            refused = client.request(method, "/v1/sessions/folder")
            assert error(refused) == (404, "session_not_found", "session")
    finally:
        (folder / "folder.session").rmdir()


def test_a_damaged_file_is_refused_and_the_others_live_on(client, folder):
    ask = {"prompt": "Once", "max_tokens": 2}
    for name in ("a", "b"):
        assert client.post("/v1/completions", json=ask | {"session": name}).status_code == 200
    path = folder / "a.session"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    damaged = client.post("/v1/completions", json=ask | {"session": "a"})
    assert error(damaged) == (422, "session_damaged", "session")
    assert error(client.get("/v1/sessions/a")) == (422, "session_damaged", "session")
    assert client.post("/v1/completions", json=ask | {"session": "b"}).status_code == 200
    assert [session["id"] for session in client.get("/v1/sessions").json()["data"]] == ["a", "b"]
    assert client.delete("/v1/sessions/a").status_code == 200


def test_a_server_without_them(ask):
    answer = ask("GET", "/v1/sessions")
    assert error(answer) == (400, "invalid_value", "session")
    assert "--sessions DIR" in answer.json()["error"]["message"]
