"""What goes on with a session is what the library's session answers, restored anywhere."""

import json
import threading

import httpx
import pytest

from serving.http.options import ServerOptions
from serving.http.server import create_app

TURNS = ["It was the best of times, " * 9, "it was", " the worst of times", ", it was " * 20]
OPTIONS = {"max_tokens": 12, "temperature": 1.0}


@pytest.fixture
def serve(griffin, tmp_path, running_thread, running_server):
    """`with serve() as client`: a server that has just started, over the same folder."""
    import contextlib

    @contextlib.contextmanager
    def run():
        with running_thread(lambda: griffin, 8) as thread:
            options = ServerOptions(sessions=tmp_path / "sessions")
            app = create_app(thread, model_name="griffin", options=options)
            with running_server(app) as url, httpx.Client(base_url=url, timeout=60) as client:
                yield client

    return run


def turn(client: httpx.Client, session: str, number: int, **fields) -> dict:
    ask = {"prompt": TURNS[number], "session": session, "seed": number, "logprobs": 2}
    answer = client.post("/v1/completions", json=ask | OPTIONS | fields)
    assert answer.status_code == 200, answer.text
    choice = answer.json()["choices"][0]
    return {"text": choice["text"], "logprobs": choice["logprobs"]}


def test_restored_at_every_turn_it_is_the_same_bit_for_bit(serve, griffin):
    """By a server that has just started, from a fork, and as the library's session answers."""
    library, straight = griffin.lm.session(), []
    with serve() as client:
        for number, text in enumerate(TURNS):
            straight.append(turn(client, "straight", number))
            options = {"max_tokens": 12, "temperature": 1.0, "seed": number}
            assert library.generate(text, **options) == straight[-1]["text"]
    for number in range(len(TURNS)):
        with serve() as client:
            assert turn(client, "restored", number) == straight[number]
            fork = {"name": f"after{number}"}
            assert client.post("/v1/sessions/restored/fork", json=fork).status_code == 200
    with serve() as client:
        for number in range(len(TURNS) - 1):
            assert turn(client, f"after{number}", number + 1) == straight[number + 1]
        tokens = client.get("/v1/sessions/straight").json()["tokens"]
        assert tokens == library.tokens_seen


def test_a_chat_keeps_its_messages(serve, griffin):
    """Each request has the new ones alone; streamed or not."""
    library = griffin.lm.session()
    with serve() as client:
        for number, text in enumerate(["Hello", "Who are you?", "And I?"]):
            expected = library.chat(text, max_tokens=9, temperature=1.0, seed=number)
            ask = {"messages": [{"role": "user", "content": text}], "session": "chat"}
            ask |= {"max_tokens": 9, "temperature": 1.0, "seed": number, "stream": number == 1}
            answer = client.post("/v1/chat/completions", json=ask)
            if number == 1:
                chunks = [json.loads(line[6:]) for line in answer.text.split("\n\n")[:-2]]
                deltas = [chunk["choices"][0]["delta"].get("content", "") for chunk in chunks]
                assert "".join(deltas) == expected
            else:
                assert answer.json()["choices"][0]["message"]["content"] == expected
        shown = client.get("/v1/sessions/chat").json()
        assert shown["messages"] == library.messages
        assert shown["tokens"] == library.tokens_seen


def test_a_stop_string_leaves_what_was_told(serve, griffin):
    with serve() as client:
        whole = turn(client, "a", 0, max_tokens=40, ignore_eos=True)["text"]
        stop = whole[20:22]
        told = turn(client, "b", 0, max_tokens=40, ignore_eos=True, stop=stop)["text"]
        assert told == whole[: whole.index(stop)]
        library = griffin.lm.session()
        options = {"max_tokens": 40, "temperature": 1.0, "ignore_eos": True, "seed": 0}
        assert library.generate(TURNS[0], stop=stop, **options) == told
        expected = library.generate(TURNS[1], max_tokens=12, temperature=1.0, seed=1)
        assert turn(client, "b", 1)["text"] == expected


def test_an_answer_that_is_given_up_leaves_it_where_it_was(serve, wait_until):
    with serve() as client:
        turn(client, "a", 0)
        before = client.get("/v1/sessions/a").json()
        endless = {"prompt": "x", "session": "a", "max_tokens": 10**9, "stream": True}
        endless |= {"ignore_eos": True}
        with client.stream("POST", "/v1/completions", json=endless) as answer:
            lines = answer.iter_lines()  # which closes the answer when it goes
            next(lines)
            busy = client.post("/v1/completions", json={"prompt": "x", "session": "a"})
            assert (busy.status_code, busy.json()["error"]["code"]) == (409, "session_busy")
            assert client.get("/v1/sessions/a").json()["busy"]
        wait_until(lambda: not client.get("/v1/sessions/a").json()["busy"])
        assert client.get("/v1/sessions/a").json() == before


def test_many_at_once_and_what_is_refused(serve):
    results = []

    def go(client, name):
        results.append((name, turn(client, name, 0), turn(client, name, 1)))

    with serve() as client:
        threads = [threading.Thread(target=go, args=(client, f"s{i}")) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len({json.dumps(turns) for _, *turns in results}) == 1
        for path, fields, param in (
            ("completions", {"prompt": ["a", "b"]}, "prompt"),
            ("completions", {"prompt": "a", "echo": True}, "echo"),
            ("completions", {"prompt": "a", "best_of": 2}, "best_of"),
            ("completions", {"prompt": ""}, "prompt"),
            ("chat/completions", {"messages": [{"role": "user", "content": "a", "name": "b"}]},
             "messages.0"),
            ("chat/completions", {"messages": [{"role": "tool", "content": "a"}]},
             "messages.0.role"),
        ):  # fmt: skip
            answer = client.post(f"/v1/{path}", json=fields | {"session": "s0"})
            assert answer.status_code == 400, answer.text
            assert answer.json()["error"]["param"] == param
        assert turn(client, "s0", 2)  # nothing holds it
