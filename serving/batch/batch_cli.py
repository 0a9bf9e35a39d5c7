# SPDX-License-Identifier: Apache-2.0
"""`griffin batch`: OpenAI's batches, offline."""

import contextlib
import dataclasses
import hashlib
import json
import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from checkpoints.files import url_in
from checkpoints.hub_names import title
from recurrentgemma.errors import UserError

if TYPE_CHECKING:
    from serving.batch.batch import Takes
    from serving.engine.engine import Engine

EXAMPLES = """Answer a file of requests in OpenAI's batch format, without a server.

Each line is {"custom_id": ..., "method": "POST", "url": "/v1/completions", "body": {...}}, or of
/v1/chat/completions. OUT has the answers in the order of the requests; those that were refused
stand in a file of their own beside it. A batch that was stopped, killed even, goes on by the same
command.

examples:
  griffin batch runs/demo asked.jsonl answers.jsonl
  griffin batch google/recurrentgemma-2b-it asked.jsonl answers.jsonl --slots 64 --prompts 8
  griffin batch runs/demo asked.jsonl answers.jsonl --ray auto --ray-gpus 1
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchArguments:
    path: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PATH")]
    """A run, a checkpoint of any format, or a model's name on a hub."""
    requests: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="IN.jsonl")]
    """What is asked."""
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT.jsonl")]
    """Where the answers go."""
    errors: Path | None = None
    """Where the lines go that were refused; by default OUT.errors.jsonl. Without any there is no
    such file."""
    slots: int = 32
    """How many sequences are decoded at once; each costs one state (griffin info PATH)."""
    prompts: int = 4
    """How many prompts one call of the device reads."""
    cache: float = 1.0
    """GiB of the device for states of prompts' beginnings, which then are not read again."""
    max_prompt: int = 1_000_000
    """The longest prompt, in tokens; a longer one is refused."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Of parameters and activations; by default as the checkpoint is stored."""
    config: str | None = None
    """A preset, or one of our config.json files, for a checkpoint that does not say what it is."""
    chat_template: str | None = None
    """How chats are written: gemma, or a file with a Jinja template; by default the checkpoint's
    own template, else Gemma's format."""
    model_name: str | None = None
    """What requests call the model; by default the last part of the path, or the name."""
    ray: str | None = None
    """Answer on the engines of a Ray cluster: its address, `auto` for the one that this machine
    belongs to, or `local` for one of this batch alone."""
    ray_engines: int = 0
    """How many; 0: as many as there is room for."""
    ray_cpus: float = 1.0
    """CPUs that each engine takes of its machine."""
    ray_gpus: float = 0.0
    """GPUs that each engine takes."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print what was done as JSON in a last line."""


def main(argv: list[str]) -> int:
    """Answer. Returns 1 where a line was refused. Raises UserError for a bad option, a file that
    is no batch, or a checkpoint that cannot be loaded."""
    arguments = tyro.cli(BatchArguments, prog="griffin batch", description=EXAMPLES, args=argv)
    return run(arguments)


def run(arguments: BatchArguments) -> int:
    from eval.progress_bar import progress_bar
    from serving.batch.batch import answer_all
    from serving.batch.journal import finished, open_journal
    from serving.batch.lines import Requests

    for option, least in {"slots": 1, "prompts": 1, "cache": 0, "max_prompt": 1}.items():
        if not least <= getattr(arguments, option) < math.inf:  # nor is it nan
            name = option.replace("_", "-")
            raise UserError(f"--{name} {getattr(arguments, option)}: expected {least} or more")
    _check_ray(arguments)
    _check_files(arguments)
    if not arguments.requests.is_file():
        raise UserError(
            f"there is no file {arguments.requests}: expected requests, a JSON object a line"
        )
    requests, out = Requests(arguments.requests), arguments.out
    errors = arguments.errors or out.with_name(f"{out.stem}.errors{out.suffix}")
    if len({path.resolve() for path in (arguments.requests, out, errors)}) < 3:
        raise UserError("the requests, the answers and the errors need three different files")
    model = arguments.model_name or title(arguments.path)
    arguments = _with_whole_paths(arguments)
    settings = _settings(arguments, model)
    if finished(out, errors, requests, settings):
        print(f"{out} has every answer already ({len(requests):,})")
        return 1 if errors.exists() else 0
    with open_journal(out, requests, settings) as journal:
        before = len(journal.done)
        if before:
            print(f"{before:,} of {len(requests):,} lines were answered before")
        if before < len(requests):
            with (
                _answerer(arguments, model, settings["files of the model"]) as answerer,
                progress_bar("answering", len(requests), unit="lines") as bar,
            ):
                tokens = journal.tokens

                def answered() -> None:
                    written = journal.tokens - tokens
                    bar.update(len(journal.done), f"{written:,} tokens, {journal.refused} refused")

                try:
                    answer_all(requests, journal, answerer, answered=answered)
                except KeyboardInterrupt:
                    done = f"{len(journal.done):,} of {len(requests):,} lines are answered"
                    bar.say(f"{done}; the same command goes on")
                    raise
        journal.finish(out, errors)
        refused = journal.refused
        summary = {"lines": len(requests), "refused": refused, "completion_tokens": journal.tokens}
    print(f"{out}: {len(requests) - refused:,} answers, {journal.tokens:,} tokens")
    if refused:
        print(f"{errors}: {refused:,} refused {'line' if refused == 1 else 'lines'}")
    if arguments.json:
        print(json.dumps(summary))
    return 1 if refused else 0


def _check_ray(arguments: BatchArguments) -> None:
    for name in ("ray_engines", "ray_cpus", "ray_gpus"):
        option, value = f"--{name.replace('_', '-')}", getattr(arguments, name)
        if value < 0:
            raise UserError(f"{option} {value}: expected 0 or more")
        if arguments.ray is None and value != getattr(BatchArguments, name):
            raise UserError(f"{option} has no effect without --ray")


def _check_files(arguments: BatchArguments) -> None:
    for path in (arguments.requests, arguments.out, arguments.errors or arguments.out):
        if (url := url_in(path)) is not None:
            raise UserError(
                f"{url} is a URL: requests and answers are files, on this machine or a mount; a "
                "cluster's machines need to see PATH alone"
            )
    for path in (arguments.out, arguments.errors or arguments.out):
        if not path.parent.is_dir():
            raise UserError(f"there is no folder {path.parent}, in which {path.name} is to be")
        if path.is_dir():
            raise UserError(f"{path} is a folder, and a file of answers is to be there")


def _with_whole_paths(arguments: BatchArguments) -> BatchArguments:
    """As another machine, or another folder, finds what is here."""
    whole = {
        name: str(Path(value).absolute())
        for name in ("config", "chat_template")
        if (value := getattr(arguments, name)) is not None and Path(value).is_file()
    }
    if Path(arguments.path).exists():
        whole["path"] = str(Path(arguments.path).absolute())
    return dataclasses.replace(arguments, **whole)


def _settings(arguments: BatchArguments, model: str) -> dict[str, Any]:
    """What answers depend on beside the requests, as far as it is known before the model is."""
    from checkpoints.sampled_digest import sampled_digest
    from checkpoints.store import latest_step

    path = Path(arguments.path)
    return {
        "path": str(path.resolve()) if path.exists() else arguments.path,
        "step": latest_step(path) if path.is_dir() else None,
        "files of the model": sampled_digest(path),
        "model": model,
        "dtype": arguments.dtype,
        "config": _name_or_digest(arguments.config),
        "chat template": _name_or_digest(arguments.chat_template),
        "max_prompt": arguments.max_prompt,
    }


def _name_or_digest(given: str | None) -> str | None:
    """Of a file, what tells its content."""
    if given is None or not Path(given).is_file():
        return given
    return hashlib.sha256(Path(given).read_bytes()).hexdigest()[:32]


@contextlib.contextmanager
def _answerer(arguments: BatchArguments, model: str, digest: str | None) -> "Iterator[Takes]":
    """One engine here, or those of a cluster, where the model's files have this digest, too."""
    if arguments.ray is None:
        from serving.batch.answerer import Answerer

        yield Answerer(_engine(arguments), model=model)
        return
    from serving.batch.ray_engines import RayEngines

    engines = RayEngines(
        partial(_engine, arguments),
        model=model,
        slots=arguments.slots,
        address=arguments.ray,
        count=arguments.ray_engines,
        cpus=arguments.ray_cpus,
        gpus=arguments.ray_gpus,
        files=(arguments.path, digest),
    )
    with contextlib.closing(engines):
        print(f"{len(engines)} engines of {arguments.slots} slots")
        yield engines


def _engine(arguments: BatchArguments) -> "Engine":
    import recurrentgemma as rg
    from recurrentgemma.text.chat import use_template
    from serving.engine.engine import Engine
    from serving.features.prefix_cache import PrefixCache
    from serving.serve_engine import constraints_of

    lm = rg.load(arguments.path, arguments.config, dtype=arguments.dtype)
    if arguments.chat_template is not None:
        if lm.tokenizer is None:
            raise UserError("--chat-template: this checkpoint has no tokenizer")
        use_template(lm.tokenizer, arguments.chat_template)
    return Engine(
        lm,
        slots=arguments.slots,
        max_prompt=arguments.max_prompt,
        constrained=True,
        constraints=constraints_of(lm.tokenizer),
        rows=arguments.prompts,
        cache=PrefixCache(device_bytes=int(arguments.cache * 2**30), host_bytes=0),
    )
