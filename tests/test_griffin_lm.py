# SPDX-License-Identifier: Apache-2.0
"""`griffin`: its verbs, its flags (frozen in flags.txt), its errors and exit statuses."""

import contextlib
import io
import os
import re
import signal
import subprocess
import sys
import types
from pathlib import Path

import pytest

import griffin_lm
from eval.eval_cli import EVALUATIONS
from recurrentgemma.errors import MissingExtra, UserError
from serving.bench.bench_cli import BENCHES

ROOT = Path(__file__).parent.parent
FLAGS = ROOT / "tests" / "flags.txt"


def griffin(*argv: str, **kwargs) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "import griffin_lm, sys; sys.exit(griffin_lm.main())", *argv]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT, **kwargs)


# What takes arguments: the verbs, the halves of `griffin data`, every evaluation and measurement.
COMMANDS = [name for name in griffin_lm.VERBS if name not in ("data", "eval", "bench")]
COMMANDS += ["data tokenize", "data info", *(f"eval {name}" for name in EVALUATIONS)]
COMMANDS += [f"bench {name}" for name in BENCHES]


def arguments_of(command: str) -> list[str]:
    """Positional arguments in order, then flags sorted: the first column of the help."""
    # Not pytest's capture: tyro draws its boxes in another way where the encoding is not "utf-8".
    shown = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    with contextlib.redirect_stdout(shown), pytest.raises(SystemExit) as stop:
        griffin_lm.run([*command.split(), "--help"])
    assert stop.value.code == 0
    shown.seek(0)
    box, positional, flags = "", [], set()
    for line in shown.read().splitlines():
        if line.startswith("╭"):
            box = line
        elif line.startswith("│ ") and line[2] != " ":
            first = line[2:].split("  ")[0]
            if "positional arguments" in box:
                positional.append(first.split()[0])
            else:
                flags.update(re.findall(r"(?:^|, )(--?[a-z][a-z0-9.-]*)", first))
    assert "--help" in flags, "the help is not tyro's"
    return positional + sorted(flags - {"-h", "--help"})


def test_the_verbs_are_frozen():
    assert list(griffin_lm.VERBS) == [
        *("info", "data", "plan", "train", "finetune", "generate", "chat", "serve", "batch"),
        *("eval", "report", "recipe", "convert", "merge", "prune", "bench", "demo"),
    ]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_flags_are_frozen(command: str, monkeypatch: pytest.MonkeyPatch):
    """A flag that comes or goes is a change of the interface: mend flags.txt in the same commit."""
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("NO_COLOR", "1")
    lines = FLAGS.read_text("utf-8").splitlines()
    frozen = [line for line in lines if line.startswith(f"{command} ")]
    arguments = [f"{command} {argument}" for argument in arguments_of(command)]
    assert arguments == frozen, "flags.txt should say:\n" + "\n".join(arguments)


def test_help_lists_every_verb_in_one_line_and_does_not_wait_for_jax():
    code = (
        "import sys, griffin_lm; status = griffin_lm.main(['--help'])\n"
        "heavy = {'jax', 'flax', 'numpy', 'optax', 'tyro', 'orbax'} & set(sys.modules)\n"
        "sys.exit(f'{heavy} imported' if heavy else status)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, cwd=ROOT
    )
    assert (done.returncode, done.stderr) == (0, "")
    for name, verb in griffin_lm.VERBS.items():
        assert [line for line in done.stdout.splitlines() if line.split()[:1] == [name]] != []
        assert verb.summary in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100


def test_version():
    done = griffin("--version")
    assert (done.returncode, done.stdout) == (0, f"griffin-lm {griffin_lm.__version__}\n")


def test_no_verb_is_an_error_that_shows_the_verbs():
    done = griffin()
    assert (done.returncode, done.stdout, done.stderr) == (2, "", griffin_lm.usage())


@pytest.mark.parametrize(
    ("word", "hint"), [("generat", "did you mean `generate`?"), ("xyz", "the verbs are info, ")]
)
def test_unknown_verb(word: str, hint: str):
    done = griffin(word)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {word!r} is not a verb of griffin; {hint}")
    assert done.stderr.count("\n") == 1


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch):
    """Make `griffin fake` run a function."""

    def install(function) -> None:
        module = types.ModuleType("serving.fake")
        module.main = function  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "serving.fake", module)
        monkeypatch.setitem(
            griffin_lm.VERBS, "fake", griffin_lm.Verb("serving.fake:main", "for a test")
        )

    return install


def raising(error: BaseException):
    def main(argv: list[str]):
        raise error

    return main


@pytest.mark.parametrize(
    "error",
    [UserError("width is 0, expected 1 or more"), OSError("disk full"), MissingExtra("no torch")],
    ids=repr,
)
def test_what_a_user_got_wrong_is_one_line(verb, capsys, error):
    verb(raising(error))
    assert griffin_lm.main(["fake"]) == 2
    assert tuple(capsys.readouterr()) == ("", f"error: {error}\n")


def test_a_traceback_can_be_had(verb, monkeypatch: pytest.MonkeyPatch):
    verb(raising(UserError("width is 0")))
    monkeypatch.setenv("GRIFFIN_TRACEBACK", "1")
    with pytest.raises(ValueError, match="width is 0"):
        griffin_lm.main(["fake"])


@pytest.mark.parametrize(
    "error",
    [
        AssertionError("an invariant"),
        ValueError("shapes (3,) and (4,) differ"),
        ImportError("cannot import name 'x'"),
        ModuleNotFoundError("No module named 'orbax.checkpoint.y'"),
        RuntimeError("INTERNAL: a kernel failed"),
    ],
    ids=repr,
)
def test_a_defect_of_ours_keeps_its_traceback(verb, error: Exception):
    verb(raising(error))
    with pytest.raises(type(error)) as caught:
        griffin_lm.main(["fake"])
    assert caught.value is error


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("train", "a higher --grad-accumulation-steps, --model.remat block"),
        ("finetune", "--lora.rank instead of every parameter"),
        ("serve", "fewer --slots"),
        ("generate", "--dtype bfloat16"),
        ("chat", "--dtype bfloat16"),
        ("fake", "choose a smaller model"),
    ],
)
def test_out_of_device_memory_says_what_to_lower(verb, capsys, monkeypatch, name, remedy):
    """By the real error, of a device that is asked for 64 TiB."""

    def main(argv: list[str]) -> None:
        import jax.numpy as jnp

        jnp.zeros((2**46,), jnp.uint8).block_until_ready()

    verb(main)
    fake = griffin_lm.VERBS["fake"]
    known = griffin_lm.VERBS.get(name, fake)
    monkeypatch.setitem(griffin_lm.VERBS, name, known._replace(target=fake.target))
    assert griffin_lm.main([name]) == 2
    out, error = capsys.readouterr()
    assert (out, error.count("\n")) == ("", 1)
    assert error.startswith("error: out of memory (RESOURCE_EXHAUSTED: Out of memory allocating 7")
    assert remedy in error


def test_the_options_that_need_less_memory_exist():
    """What an error of memory names is an option of its verb."""
    flags = FLAGS.read_text("utf-8").splitlines()
    for name, verb in griffin_lm.VERBS.items():
        for option in re.findall(r"--[a-z.-]+", verb.less_memory):
            under = [f"eval {one}" for one in EVALUATIONS] if name == "eval" else [name]
            assert any(f"{one} {option}" in flags for one in under)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_text_that_the_terminal_cannot_show_is_escaped(encoding: str):
    """F12: it died in the middle of a text; half a pair of surrogates is in file names."""
    text = "caf\u00e9 \u2603 \udc80"
    code = WAITING.replace("import time", "print(TEXT); print(TEXT, file=sys.stderr); return 3")
    done = subprocess.run(
        [sys.executable, "-c", f"TEXT = {text!a}\n{code}"],
        capture_output=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONIOENCODING": encoding},
        timeout=120,
    )
    expected = text.encode(encoding, errors="backslashreplace") + b"\n"
    assert (done.returncode, done.stdout, done.stderr) == (3, expected, expected)


def test_a_verb_gets_its_arguments_and_gives_its_status(verb):
    seen = []
    verb(seen.extend)
    assert griffin_lm.main(["fake", "a", "--b"]) == 0
    assert seen == ["a", "--b"]
    verb(lambda argv: 3)
    assert griffin_lm.main(["fake"]) == 3


WAITING = """
import sys, types
import griffin_lm
module = types.ModuleType("serving.fake")
def main(argv):
    import time
    print("ready", flush=True)
    time.sleep(60)
module.main = main
sys.modules["serving.fake"] = module
griffin_lm.VERBS["fake"] = griffin_lm.Verb("serving.fake:main", "waits")
sys.exit(griffin_lm.main(["fake"]))
"""


def test_ctrl_c_is_quiet():
    with subprocess.Popen(
        [sys.executable, "-c", WAITING], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, b"")


INTERRUPTED = """
import atexit, os, sys, types
import griffin_lm
class Library:
    def __del__(self):
        os.write(1, b"unloaded")
module = types.ModuleType("serving.fake")
def main(argv):
    module.library = Library()
    atexit.register(os.write, 1, b"closed ")
    if argv:
        raise KeyboardInterrupt
module.main = main
sys.modules["serving.fake"] = module
griffin_lm.VERBS["fake"] = griffin_lm.Verb("serving.fake:main", "is interrupted")
sys.argv[1:1] = ["fake"]
sys.exit(griffin_lm.main())
"""


def test_ctrl_c_does_not_unload_what_xla_compiles_with():
    """Its thread would crash: see griffin_lm._exit_when_interrupted."""

    def ended(*more: str) -> tuple[int, bytes]:
        command = [sys.executable, "-c", INTERRUPTED, *more]
        process = subprocess.run(command, stdout=subprocess.PIPE, cwd=ROOT, check=False)
        return process.returncode, process.stdout

    assert ended("now") == (130, b"closed ")
    assert ended() == (0, b"closed unloaded")


def test_a_reader_that_left_is_no_error():
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "griffin_lm", "--help"],
        stdout=write,
        stderr=subprocess.PIPE,
        cwd=ROOT,
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")
