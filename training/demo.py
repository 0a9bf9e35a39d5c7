# SPDX-License-Identifier: Apache-2.0
"""`griffin demo`: from nothing to a served language model; what is done already is not done again.

griffin demo                 the run `demo` of configs.py, then http://127.0.0.1:8000
griffin demo --no-serve      stops before serving
"""

import dataclasses
import errno
import socket
from pathlib import Path

import tyro

import griffin_lm
from recurrentgemma.errors import UserError
from recurrentgemma.generation.lm import load
from training.data.config import open_texts
from training.launch import Launch
from training.loop import train
from training.named_runs import demo
from training.observe.metrics import read_metrics
from training.run_folder import METRICS
from training.train_cli import check_text

EXAMPLES = """Train a small Griffin on Shakespeare's plays, show what it can do, and serve it until
Ctrl-C. A second call goes on where the first one stopped.

examples:
  griffin demo                                    about 3 minutes on two cores, then serves
  griffin demo --no-serve                         stops before serving
  griffin demo --text a.txt b.txt --run-dir runs/mine
  griffin generate runs/demo "O Romeo, "          once it is trained
"""
PROMPT = "ROMEO:\n"
SAMPLE = "sample.txt"


@dataclasses.dataclass(frozen=True, kw_only=True)
class DemoArguments:
    text: tuple[str, ...] = ()
    """UTF-8 files to train on instead of the plays."""
    serve: bool = True
    """Serve the model when it is trained."""
    port: int = 8000
    """Where to serve: http://127.0.0.1:PORT."""
    run_dir: Path = Path("runs/demo")
    """Where the run is kept."""


def main(argv: list[str]) -> int:
    """The demo. Raises UserError for text that cannot be used, OSError for a port in use."""
    arguments = tyro.cli(DemoArguments, prog="griffin demo", description=EXAMPLES, args=argv)
    check_text(argv, arguments.text)
    if arguments.serve:
        check_port_is_free(arguments.port)  # now, not after minutes of training
    if not train(demo(arguments.text), arguments.run_dir, Launch(devices=1)):
        return 0
    print(report(arguments.run_dir, arguments.text))
    if not arguments.serve:
        return 0
    return griffin_lm.run(["serve", str(arguments.run_dir), "--port", str(arguments.port)])


def report(run_dir: Path, text: tuple[str, ...] = ()) -> str:
    """The held-out bits per byte of a finished run and a sample, which is made once and kept."""
    sample = run_dir / SAMPLE
    if not sample.exists():
        prompt = own_prompt(text) if text else PROMPT
        answer = load(run_dir).generate(prompt, max_tokens=200, temperature=0.8, top_p=0.95, seed=0)
        sample.write_text(prompt + answer + "\n", encoding="utf-8")
    bits = read_metrics(run_dir / METRICS)[-1]["held_out_bits_per_byte"]
    return f"\n{sample.read_text(encoding='utf-8')}\nheld-out text: {bits:.3f} bits per byte"


def own_prompt(text: tuple[str, ...]) -> str:
    """The first words of the text that was held out."""
    return " ".join(open_texts(text)[1][0].split()[:8])


def check_port_is_free(port: int) -> None:
    """Raises UserError if `port` is no port, OSError if something listens on it already."""
    if not 0 <= port < 65536:
        raise UserError(f"--port {port}: expected 0 (any free port) to 65535")
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise OSError(
                f"port {port} is already in use: stop what listens there, choose another --port, "
                f"or do without a server with --no-serve"
            ) from None
        raise OSError(f"port {port} cannot be listened on: {error.strerror}") from None
