"""Options that cannot be are refused before anything is loaded."""

import pytest

import griffin_lm


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--port", "70000"], "expected 0 (any free port) to 65535"),
        (["--host", "no.such.host.invalid"], "try 127.0.0.1"),
        (["--host", "203.0.113.1"], "is not an address of this machine"),
        (["--slots", "0"], "--slots 0: expected 1 or more"),
        (["--queue", "-1"], "--queue -1: expected 0 or more"),
        (["--max-body", "0"], "--max-body 0: expected 1 or more"),
        (["--max-prompt", "0"], "--max-prompt 0: expected 1 or more"),
        (["--drain", "-1"], "--drain -1.0: expected 0 or more"),
        (["--max-open", "0"], "--max-open 0: expected 1 or more"),
        (["--cache", "nan"], "--cache nan: expected 0 or more"),
        (["--timeout", "inf"], "--timeout inf: expected 0 or more"),
        (["--adapting", "-1"], "--adapting -1: expected 0 or more"),
        (["--adapting", "1"], "--adapting N needs --sessions DIR"),
        (["--mesh.tensor", "2", "--adapters", "a=p"], "--adapters with --mesh.tensor"),
        (["--mesh.tensor", "2", "--load-adapters"], "--load-adapters with --mesh.tensor"),
        (["--mesh.tensor", "2", "--speculate", "ngram"], "--speculate with --mesh.tensor"),
        (["--mesh.tensor", "2", "--quantize", "int8"], "--quantize with --mesh.tensor"),
        (["--open-metrics"], "--open-metrics has no effect without keys"),
        (["--max-adapters", "2"], "--max-adapters has no effect without --adapters"),
        (["--adapter-rank", "2"], "--adapter-rank has no effect without --adapters"),
        (["--speculate", "draft"], "--speculate draft and --draft PATH need each other"),
        (["--speculate-least", "2"], "--speculate-least has no effect without --speculate"),
        (["--sessions", __file__], "a file, expected a folder"),
        (["--cors", "chat.example"], "--cors chat.example: expected an origin"),
        (["--cors", "https://chat.example/"], "without a path"),
        (["--dynamic.overlap", "8"], "--dynamic.* has no effect without --adapting"),
        (
            ["--adapting", "1", "--sessions", "s", "--quantize", "int8"],
            "--adapting with --quantize or --mesh.tensor",
        ),
        (
            ["--adapting", "1", "--sessions", "s", "--dynamic.parameters", "mlp"],
            "a session learns a low-rank adapter",
        ),
    ],
)
def test_bad_options(capsys, options, message):
    assert griffin_lm.main(["serve", "no-such-checkpoint", *options]) == 2
    assert message in capsys.readouterr().err
