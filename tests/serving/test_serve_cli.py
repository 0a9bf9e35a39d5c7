"""`griffin serve` as a process: what it says and with which status it ends."""

import os
import socket
import subprocess
import sys

import pytest

from recurrentgemma import cli
from serving import serve_cli


def test_a_port_in_use_is_an_error_before_anything_is_loaded(capsys):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert cli.main(["serve", "no-such-checkpoint", "--port", str(port)]) == 2
    captured = capsys.readouterr()
    assert f"port {port} on 127.0.0.1 is already in use" in captured.err
    assert "--port" in captured.err
    assert "loading" not in captured.out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--port", "70000"], "expected 0 (any free port) to 65535"),
        (["--host", "no.such.host.invalid"], "try 127.0.0.1"),
        (["--host", "203.0.113.1"], "is not an address of this machine"),
        (["--slots", "0"], "--slots 0: expected 1 or more"),
        (["--queue", "-1"], "--queue -1: expected 0 or more"),
    ],
)
def test_bad_options(capsys, options, message):
    assert cli.main(["serve", "no-such-checkpoint", *options]) == 2
    assert message in capsys.readouterr().err


def test_an_unknown_option_and_help(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["serve", "path", "--prot", "9000"])
    assert caught.value.code == 2
    assert "--port" in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        cli.main(["serve", "--help"])
    assert caught.value.code == 0
    assert "griffin serve runs/demo" in capsys.readouterr().out


def test_the_flags_are_frozen():
    names = [field.name for field in serve_cli.dataclasses.fields(serve_cli.ServeArguments)]
    assert names == ["path", "host", "port", "slots", "queue", "model_name"]


def test_a_checkpoint_that_does_not_load_ends_the_server(tmp_path):
    command = [sys.executable, "-m", "recurrentgemma.cli", "serve", str(tmp_path), "--port", "0"]
    environment = os.environ | {"PYTHONWARNINGS": "default"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert str(tmp_path) in done.stderr
