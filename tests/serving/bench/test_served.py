"""A server that is started for a measurement, and what it says when it does not start."""

import sys

import httpx
import pytest

from checkpoints import store
from recurrentgemma.errors import UserError
from recurrentgemma.params import flat_params
from serving.bench import served as module
from serving.bench.served import served
from tests.checkpoints import run_steps

TELLS_ITS_OPTIONS = """
import http.server, sys
handler = http.server.SimpleHTTPRequestHandler
with http.server.HTTPServer(("127.0.0.1", 0), handler) as server:
    print("loading", *sys.argv[1:])
    print(f"serving at http://127.0.0.1:{server.server_port} (Ctrl-C stops it)", flush=True)
    server.serve_forever()
"""


def test_a_server_lives_as_long_as_the_block(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "SERVE", (sys.executable, "-c", TELLS_ITS_OPTIONS))
    with served(str(tmp_path), ["--slots", "1"]) as server:
        assert httpx.get(server.url).status_code == 200
        memory = server.memory_bytes()
        assert memory is None or memory > 1e6
    with pytest.raises(httpx.ConnectError):
        httpx.get(server.url)
    assert server.memory_bytes() is None


def test_an_option_that_the_server_does_not_know():
    with (
        pytest.raises(UserError, match=r"did not start: Unrecognized options.*--no-such"),
        served("runs/x", ["--no-such", "1"]),
    ):
        pass


def test_a_server_that_does_not_start(monkeypatch):
    code = "import sys; print('loading'); sys.exit(f'error: no model {sys.argv[1]}')"
    monkeypatch.setattr(module, "SERVE", (sys.executable, "-c", code))
    with pytest.raises(UserError, match="did not start: no model runs/x"), served("runs/x"):
        pass


@pytest.mark.slow  # the server compiles all of its programs
def test_griffin_serve(tmp_path, language_model):
    lm = language_model("griffin")
    store.write_run_config(tmp_path, lm.config, {})
    run_steps.save(tmp_path, 1, flat_params(lm.model))
    lm.tokenizer.save(tmp_path)
    with served(str(tmp_path), ["--slots", "1"]) as server:
        assert httpx.get(f"{server.url}/health").json()["slots"] == 1
