# SPDX-License-Identifier: Apache-2.0
"""`griffin generate`: continue a prompt, on the terminal."""

import dataclasses
import sys
from typing import Annotated, Literal

import tyro

from recurrentgemma.errors import UserError
from recurrentgemma.generation.sampling import Sampling

EXAMPLES = """Continue a prompt with a model, or answer it.

examples:
  griffin generate runs/demo "O Romeo, "
  griffin generate runs/demo "O Romeo, " --temperature 0.8 --top-p 0.9 --seed 1 --max-tokens 300
  griffin generate google/recurrentgemma-2b-it "Name three rivers." --chat --temperature 0.7
  griffin generate runs/demo "ROMEO:" --stop "JULIET:" "NURSE:"
  cat scene.txt | griffin generate runs/demo -
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenerateArguments:
    path: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PATH")]
    """A run, a checkpoint of any format, or a model's name on a hub."""
    prompt: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PROMPT")]
    """The text to continue; - reads it from the standard input."""
    sampling: tyro.conf.OmitArgPrefixes[Sampling] = dataclasses.field(default_factory=Sampling)
    chat: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """The prompt is what a user says: answer it, in the checkpoint's chat format."""
    chat_template: str | None = None
    """With --chat: gemma, or a file with a Jinja template; by default the checkpoint's own, else
    Gemma's format."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Of parameters and activations; by default as the checkpoint is stored."""
    config: str | None = None
    """A preset, or one of our config.json files, for a checkpoint that does not say what it is."""


def main(argv: list[str]) -> int:
    """Generate. Raises ValueError, OSError or ImportError for what a user got wrong."""
    arguments = tyro.cli(
        GenerateArguments, prog="griffin generate", description=EXAMPLES, args=argv
    )
    path, prompt = arguments.path, arguments.prompt
    if prompt == "-":
        prompt = _standard_input()
    if not prompt:
        raise UserError("the prompt is empty: pass at least one character")
    if arguments.chat_template is not None and not arguments.chat:
        raise UserError("--chat-template has no effect without --chat")
    from recurrentgemma.generation.lm import load  # here: JAX takes a second to import
    from recurrentgemma.text.chat import chat_format, use_template

    lm = load(path, arguments.config, dtype=arguments.dtype)
    if arguments.chat:
        if lm.tokenizer is None:
            raise UserError(f"{path} has no tokenizer, so it cannot read text")
        if arguments.chat_template is not None:
            use_template(lm.tokenizer, arguments.chat_template)
        chats = chat_format(lm.tokenizer)
        prompt = chats.encode([{"role": "user", "content": prompt}])
    for piece in lm.stream(prompt, sampling=arguments.sampling):
        print(piece, end="", flush=True)
    print()
    return 0


def _standard_input() -> str:
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise UserError(f"the standard input is not UTF-8: {error}; convert it first") from None
