"""Turns of a chat, timed."""

from serving.bench.turns import main
from serving.http.server import create_app


def test_the_turns_of_a_chat(griffin, running_thread, running_server, capsys):
    options = ["--turns", "3", "--characters", "30", "--answer", "4", "--chats", "1"]
    with (
        running_thread(lambda: griffin, 8) as thread,
        running_server(create_app(thread, model_name="griffin")) as url,
    ):
        assert main([url, *options, "--pause", "0"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in lines[1:4]] == ["1", "2", "3"]
    prompts = [int(line[1]) for line in lines[1:4]]
    assert prompts == sorted(prompts)
    assert prompts[0] > 30
