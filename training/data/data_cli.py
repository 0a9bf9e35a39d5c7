# SPDX-License-Identifier: Apache-2.0
"""`griffin data tokenize` and `griffin data info`: token shards made, and sources looked at."""

import dataclasses
import json
import sys
import time
from typing import Annotated, Any

import numpy as np
import tyro

TOKENIZE = """Tokenise documents ahead of time, into shards that training reads at random.

Stopped or killed, the same command goes on with the shards that are missing. What it writes depends
on the sources, the tokenizer and --shards alone.

examples:
  griffin data tokenize 'jsonl:web/*.jsonl?field=text' --tokenizer tokenizer.model --out tokens/web
  griffin data tokenize 'text:a/*.txt' 'parquet:b/*.parquet' --tokenizer bytes --out tokens/all
  griffin data tokenize 'parquet:s3://bucket/web/*.parquet' --tokenizer tokenizer.model \\
      --out s3://bucket/tokens --ray auto                by the CPUs of a Ray cluster
  griffin data info arrayrecord:tokens/web              what has been made
"""
INFO = """How many documents a source has, how long they are, and the beginning of one.

examples:
  griffin data info 'parquet:web/*.parquet?column=content' --tokenizer tokenizer.model
  griffin data info 'tfds:ag_news_subset:train?feature=description'
  griffin data info 'chat:tune.jsonl' --tokenizer google/recurrentgemma-2b-it  prompts, responses
  griffin data info tokens/web                          a folder of `griffin data tokenize`
"""
DESCRIPTION = "Tokenise documents ahead of time, or look at them."
SAMPLES = 64  # documents that a source without an index is judged by
EXAMPLE = 300  # characters


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizeArguments:
    sources: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE...")]
    """`text:GLOB`, `jsonl:GLOB?field=text`, `parquet:GLOB?column=text`, `arrayrecord:GLOB` or
    `tfds:NAME/CONFIG:SPLIT`; quote them."""
    tokenizer: str
    """`bytes`, or a tokenizer: a file, a folder with one, such as a checkpoint, or a model's name
    on a hub."""
    out: str
    """The folder to write, or the URL of one (s3://, gs://)."""
    shards: int = 0
    """How many shards; 0: one for each 64 MiB of source."""
    workers: int = 0
    """Processes; 0: one a core."""
    ray: str | None = None
    """Tokenise on the CPUs of a Ray cluster: its address, `auto` for the one that this machine
    belongs to, or `local` for one of this call alone. Sources and --out must be where every machine
    sees them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class InfoArguments:
    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """A source, or a folder of `griffin data tokenize`."""
    tokenizer: str = ""
    """`bytes`, or the tokenizer by which to count the tokens of text."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print JSON instead of a table."""


Arguments = (
    Annotated[TokenizeArguments, tyro.conf.subcommand("tokenize", description=TOKENIZE)]
    | Annotated[InfoArguments, tyro.conf.subcommand("info", description=INFO)]
)


def main(argv: list[str]) -> None:
    """Run one of the two. Raises ValueError: see shard_writer.py and sources/."""
    arguments = tyro.cli(Arguments, prog="griffin data", description=DESCRIPTION, args=argv)  # type: ignore[arg-type]
    if isinstance(arguments, TokenizeArguments):
        tokenize(arguments)
    else:
        info(arguments)


def tokenize(arguments: TokenizeArguments) -> None:
    """Tokenise with a progress bar, and say what was made."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    from training.data.shard_writer import ShardProgress, tokenise

    started = time.perf_counter()
    bar = Bar(
        TextColumn("tokenising"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("documents  {task.fields[shown]}"),
        TimeRemainingColumn(),
        TextColumn("left"),
        console=Console(stderr=True, width=None if sys.stderr.isatty() else 120),
    )
    task = bar.add_task("", total=None, shown="opening the sources")

    def show(done: ShardProgress) -> None:
        rate = done.tokens / (time.perf_counter() - started)
        shown = f"{done.tokens:,} tokens  {rate:,.0f} tokens/s" if done.tokens else ""
        bar.update(task, total=done.all_documents, completed=done.documents, shown=shown)

    try:
        with bar:
            metadata = tokenise(
                arguments.sources,
                arguments.tokenizer,
                arguments.out,
                shards=arguments.shards,
                workers=arguments.workers,
                ray=arguments.ray,
                progress=show,
            )
    except KeyboardInterrupt:
        print(
            f"interrupted: {arguments.out} has the shards that are finished, if any; the same "
            "command goes on",
            file=sys.stderr,
        )
        raise
    print(
        f"{arguments.out}: {metadata['documents']:,} documents, {metadata['tokens']:,} tokens of "
        f"{metadata['bytes'] / max(metadata['tokens'], 1):.2f} bytes, {len(metadata['shards'])} "
        f"shards of {metadata['dtype']}, {sum(s['file_bytes'] for s in metadata['shards']):,} bytes"
    )


def info(arguments: InfoArguments) -> None:
    """Print what is known of a source."""
    facts = describe(arguments.source, arguments.tokenizer)
    if arguments.json:
        print(json.dumps(facts, indent=1))
        return
    width = max(map(len, facts))
    for name, value in facts.items():
        shown = f"{value:,}" if isinstance(value, int) else value
        print(f"{name.replace('_', ' '):{width}}  {shown}")


def describe(text: str, tokenizer: str = "") -> dict[str, Any]:
    """Documents, tokens, bytes per token and the beginning of the first document.

    Of token shards these are exact. Of text, `sampled` documents spread over the source tell the
    bytes, and with a tokenizer the tokens, of a document.
    Conversations are all read; `form` is that of their files. Raises ValueError: the source or the
    tokenizer cannot be opened, or a document cannot be read.
    """
    from training.data.chat_documents import ChatDocuments, count_examples
    from training.data.documents import document_ids, load_named_tokenizer
    from training.data.sources import open_data_source, spread
    from training.data.sources.chat_lines import ChatLines
    from training.data.sums import median_and_longest
    from training.data.token_shards import TokenShards, holds_tokens

    source = open_data_source(f"arrayrecord:{text}" if holds_tokens(text) else text)
    if isinstance(source, TokenShards):
        median, longest = median_and_longest(source.lengths)
        return {
            "documents": len(source),
            "tokens": source.tokens,
            "bytes": source.bytes,
            "bytes_per_token": round(source.bytes / max(source.tokens, 1), 3),
            "median_tokens": median,
            "longest_tokens": longest,
            "vocabulary": source.vocab_size,
            "dtype": str(np.dtype(source.dtype)),
            "example": source.load_tokenizer().decode(source.read(0, 0, EXAMPLE).ids.tolist())[
                :EXAMPLE
            ],
        }
    chosen = [source[index] for index in spread(len(source), SAMPLES)]
    text_bytes = sum(len(document.encode()) for document in chosen)
    facts: dict[str, Any] = {
        "documents": len(source),
        "bytes_on_disk": source.size,
        "sampled": len(chosen),
        "bytes_per_document": round(text_bytes / len(chosen)),
    }
    if isinstance(source, ChatLines):
        facts["form"] = ", ".join(source.forms())
    if tokenizer and isinstance(source, ChatLines):
        documents = ChatDocuments(source, load_named_tokenizer(tokenizer))
        examples = count_examples([documents])
        facts["chat_format"] = documents.format_shown
        facts |= {"tokens": examples.tokens, "learned_tokens": int(examples.learned.sum())}
        facts |= {"longest_tokens": examples.longest, "longest": examples.longest_name}
    elif tokenizer:
        loaded = load_named_tokenizer(tokenizer)
        tokens = sum(len(document_ids(loaded, document)) for document in chosen)
        facts["bytes_per_token"] = round(text_bytes / max(tokens, 1), 3)
        facts["tokens_estimated"] = round(tokens / len(chosen) * len(source))
    return {**facts, "example": chosen[0][:EXAMPLE]}
