"""`griffin serve` as a process: what it says and with which status it ends."""

import collections
import concurrent.futures
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time

import httpx
import pytest

import griffin_lm
from checkpoints import store
from recurrentgemma.params import flat_params
from tests.checkpoints import run_steps
from tests.checkpoints.fake_hub import cache, commit_of, files_in


def test_a_port_in_use_is_an_error_before_anything_is_loaded(capsys):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert griffin_lm.main(["serve", "no-such-checkpoint", "--port", str(port)]) == 2
    captured = capsys.readouterr()
    assert f"port {port} on 127.0.0.1 is already in use" in captured.err
    assert "--port" in captured.err
    assert "loading" not in captured.out


def test_an_unknown_option_and_help(capsys):
    with pytest.raises(SystemExit) as caught:
        griffin_lm.main(["serve", "path", "--prot", "9000"])
    assert caught.value.code == 2
    assert "--port" in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        griffin_lm.main(["serve", "--help"])
    assert caught.value.code == 0
    assert "griffin serve runs/demo" in capsys.readouterr().out


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory, language_model):
    """A run as training leaves it."""
    lm = language_model("hawk")
    path = tmp_path_factory.mktemp("runs") / "little"
    store.write_run_config(path, lm.config, {})
    run_steps.save(path, 10, flat_params(lm.model))
    lm.tokenizer.save(path)
    return path


@contextlib.contextmanager
def griffin_serve(*arguments, **environment):
    """The process, with a function that reads its output up to a line that holds some text."""
    command = [sys.executable, "-m", "griffin_lm", "serve", *map(str, arguments)]
    pipe = subprocess.PIPE
    environment = os.environ | environment
    environment["JAX_ENABLE_COMPILATION_CACHE"] = "false"  # processes are killed here
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        lines, errors = process.stdout, process.stderr

        def until(text: str) -> str:
            for line in lines:
                if text in line:
                    return line
            raise AssertionError(f"no line with {text!r}; stderr: {errors.read()}")

        try:
            yield process, until
        finally:
            process.kill()


def test_serving_until_interrupted(run_dir, language_model, tmp_path):
    """By name, out of a cache of Hugging Face's hub."""
    cache(tmp_path, "some/little", files_in(run_dir), commit=commit_of("first"))
    template = tmp_path / "my.jinja"
    template.write_text("{{ bos_token }}{% for m in messages %}{{ m.content }} {% endfor %}")
    options = ["some/little@main", "--port", "0", "--slots", "2", "--chat-template", template]
    hub = {"HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    with griffin_serve(*options, **hub) as (process, until):
        url = re.findall(r"http://127.0.0.1:\d+", until("serving at"))[0]
        assert f"curl -N {url}/v1/completions" in until("curl")
        assert httpx.get(f"{url}/health").json() == {
            "status": "ok", "model": "some/little", "slots": 2, "running": 0, "waiting": 0,
        }  # fmt: skip
        asked = {"prompt": "O Romeo", "max_tokens": 8, "temperature": 1.0, "seed": 5}
        answer = httpx.post(f"{url}/v1/completions", json=asked, timeout=60).json()
        expected = language_model("hawk").generate("O Romeo", max_tokens=8, temperature=1.0, seed=5)
        assert answer["choices"][0]["text"] == expected
        chat = {"messages": [{"role": "user", "content": "O Romeo"}]} | asked
        del chat["prompt"]
        answer = httpx.post(f"{url}/v1/chat/completions", json=chat, timeout=60).json()
        expected = language_model("hawk").chat(
            "O Romeo", template=template, max_tokens=8, temperature=1.0, seed=5
        )
        assert answer["choices"][0]["message"]["content"] == expected
        endless = {"prompt": "a", "max_tokens": 10**9, "stream": True, "temperature": 0}
        with httpx.stream("POST", f"{url}/v1/completions", json=endless, timeout=60) as stream:
            lines = stream.iter_lines()
            next(lines)
            process.send_signal(signal.SIGINT)
            assert "the server is shutting down" in [line for line in lines if line][-1]
        until("stopped")
        process.send_signal(signal.SIGTERM)  # a second signal changes nothing
        assert process.wait(30) == 0
        assert process.communicate()[1] == ""


def test_a_template_with_a_mistake_ends_the_server(run_dir, tmp_path):
    (tmp_path / "my.jinja").write_text("a\n{{ nobody.name }}")
    command = [sys.executable, "-m", "griffin_lm", "serve", str(run_dir), "--port", "0"]
    command += ["--chat-template", str(tmp_path / "my.jinja")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert f"error: {tmp_path}/my.jinja, line 2: the chat template cannot write" in done.stderr


def test_sigterm_lets_answers_end(run_dir, tmp_path, language_model):
    """With a key, too: 503 for what comes then, and the probe says why."""
    options = [run_dir, "--port", "0", "--slots", "2", "--timeout", "200", "--drain", "200"]
    options += ["--sessions", tmp_path / "sessions"]
    with griffin_serve(*options, GRIFFIN_API_KEYS="secret") as (process, until):
        url = re.findall(r"http://127.0.0.1:\d+", until("serving at"))[0]
        assert httpx.get(f"{url}/v1/models").status_code == 401
        assert httpx.get(f"{url}/ready", timeout=30).status_code == 200
        key = {"Authorization": "Bearer secret"}
        ask = {"prompt": "a", "session": "ann", "max_tokens": 3, "ignore_eos": True}
        kept = httpx.post(f"{url}/v1/completions", json=ask, headers=key, timeout=60)
        assert kept.status_code == 200
        long = {"prompt": "a", "max_tokens": 12000, "stream": True, "ignore_eos": True}
        stream = httpx.stream("POST", f"{url}/v1/completions", json=long, headers=key, timeout=60)
        with stream as answer:
            lines = answer.iter_lines()
            next(lines)
            process.send_signal(signal.SIGTERM)
            while httpx.get(f"{url}/ready", timeout=60).json()["status"] == "ready":
                pass
            refused = httpx.post(
                f"{url}/v1/completions", json={"prompt": "a"}, headers=key, timeout=60
            )
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
            assert httpx.get(f"{url}/health", timeout=60).status_code == 200
            assert [line for line in lines if line][-1] == "data: [DONE]"
        until("stopped")
        assert process.wait(30) == 0
        assert process.communicate()[1] == ""
    session = language_model("hawk").session(tmp_path / "sessions" / "ann.session")
    assert session.tokens_seen == kept.json()["usage"]["total_tokens"]


@pytest.mark.slow
def test_sigterm_under_load(run_dir):
    """Each of 32 clients has a whole answer, or is told that there will be none."""
    ask = {"prompt": "a", "max_tokens": 50, "ignore_eos": True, "stream": True}
    options = [run_dir, "--port", "0", "--slots", "4", "--queue", "12", "--drain", "60"]
    ends: list[str] = []

    def go_on_asking(url):
        with httpx.Client(base_url=url, timeout=200) as client:
            while True:
                try:
                    answer = client.post("/v1/completions", json=ask)
                except httpx.TransportError as error:  # the port is closed
                    ends.append(type(error).__name__)
                    return
                if answer.status_code == 200:
                    ends.append(answer.text.strip().split("\n\n")[-1])
                else:
                    ends.append(str(answer.status_code))
                    time.sleep(0.1)

    with griffin_serve(*options) as (process, until):
        url = re.findall(r"http://127.0.0.1:\d+", until("serving at"))[0]
        with concurrent.futures.ThreadPoolExecutor(32 + 1) as pool:
            clients = [pool.submit(go_on_asking, url) for _ in range(32)]
            reading = pool.submit(lambda: until("stopped"))  # or its log fills the pipe
            while len(ends) < 200:
                time.sleep(0.05)
            process.send_signal(signal.SIGTERM)
            reading.result(120)
            assert process.wait(60) == 0
            for client in clients:
                client.result(300)
    counts = collections.Counter(ends)
    assert counts.pop("data: [DONE]") > 10
    assert counts.pop("429") > 0
    assert counts.pop("503") > 0
    assert set(counts) <= {"ConnectError", "RemoteProtocolError", "ReadError"}
    assert sum(counts.values()) == 32


def test_an_interrupt_while_compiling(run_dir):
    with griffin_serve(run_dir, "--port", "0", "--slots", "2") as (process, until):
        until("compiling")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def test_a_device_without_room_says_what_to_lower(tmp_path):
    program = (
        "import sys, griffin_lm, recurrentgemma as rg\n"
        "def load(*_, **__): raise RuntimeError('RESOURCE_EXHAUSTED: Out of memory')\n"
        "rg.load = load\n"
        "sys.exit(griffin_lm.main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", program, "serve", str(tmp_path), "--port", "0"]
    done = subprocess.run([*command, "--slots", "64"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.startswith("error: the model and --slots 64 do not fit into the device's")
    assert "lower --slots" in done.stderr


def test_a_checkpoint_that_does_not_load_ends_the_server(tmp_path):
    command = [sys.executable, "-m", "griffin_lm", "serve", str(tmp_path), "--port", "0"]
    environment = os.environ | {"PYTHONWARNINGS": "default"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert str(tmp_path) in done.stderr
