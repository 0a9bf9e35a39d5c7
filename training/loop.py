# SPDX-License-Identifier: Apache-2.0
"""The training loop, from top to bottom."""

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from flax import nnx

from eval.perplexity import score_documents
from recurrentgemma.counts import parameter_count
from recurrentgemma.griffin import Griffin
from recurrentgemma.tokenizer import Tokenizer
from training import run
from training.configs import TrainConfig
from training.corpus import Document, load_corpus, utf8_bytes
from training.data import Batches
from training.metrics import MetricsLog
from training.optim import make_optimizer
from training.progress import Progress
from training.step import init_train_state, make_train_step

INTERRUPTED = "stopped at step {step}; the same command goes on from there"


def train(config: TrainConfig, run_dir: Path) -> bool:
    """Train the run to its last step, from where it stopped. False if a signal stopped it before.

    SIGINT and SIGTERM end the step in flight, save and return; a second one ends the process.
    Raises ValueError: text, tokenizer or run directory do not fit; see corpus.py and run.py.
    """
    corpus = load_corpus(config.text)
    step = run.open_run(run_dir, config)
    if step >= config.steps:
        print(f"{run_dir} is trained: step {step} of {config.steps}")
        return True
    tokenizer = run.run_tokenizer(run_dir, config, corpus.train)
    documents = [encode_document(tokenizer, document) for document in corpus.train]
    batches = Batches(
        documents, batch_size=config.batch_size, row_length=config.row_length, seed=config.seed
    )
    tokens = sum(len(ids) - 1 for ids in documents)
    bytes_per_token = utf8_bytes(corpus.train) / tokens

    print(
        f"{len(documents)} documents, {tokens:,} tokens of {bytes_per_token:.2f} bytes; "
        f"{len(corpus.held_out)} held out; {parameter_count(config.model):,} parameters; {run_dir}"
    )

    tx = make_optimizer(config.optimizer, steps=config.steps)
    graphdef, params = nnx.split(Griffin(config.model, rngs=nnx.Rngs(config.seed)), nnx.Param)
    train_state = init_train_state(params, tx)
    checkpoints = run.open_checkpoints(run_dir, config)
    restored = run.restore(checkpoints, batches, config=config.model, fresh=train_state)
    train_state = restored or train_state
    step = int(train_state.step)
    train_step = make_train_step(graphdef, tx, z_loss=config.z_loss)

    def held_out(limit: int | None) -> float:
        model = nnx.merge(graphdef, train_state.params)
        return held_out_bits_per_byte(model, tokenizer, corpus.held_out, limit=limit)

    log = MetricsLog(run_dir / run.METRICS, step=step)
    with (
        checkpoints,
        stop_on_signals() as signals,
        Progress(log, config, bytes_per_token=bytes_per_token, step=step) as progress,
    ):
        while step < config.steps and not signals:
            train_state, metrics = train_step(train_state, next(batches))
            step += 1
            progress.step(step, metrics)  # reads the metrics of the step before: this one runs on
            last, bits = step == config.steps, None
            if last:  # on more text than the others, so it does not rank among them
                progress.held_out(step, held_out(None))
            elif step % config.eval_every == 0:
                bits = held_out(config.eval_characters)
                progress.held_out(step, bits)
            if last or signals or step % config.save_every == 0:
                progress.flush()
                run.save(checkpoints, train_state, batches, config=config.model, held_out=bits)
    if step < config.steps:
        print(INTERRUPTED.format(step=step))
    return step >= config.steps


def encode_document(tokenizer: Tokenizer, document: Document) -> np.ndarray:
    """Token ids of a document to learn from: BOS, the text, EOS, where the tokenizer has them."""
    ids = tokenizer.encode(document.text)
    return np.array(ids if tokenizer.eos_id is None else [*ids, tokenizer.eos_id], np.int32)


def held_out_bits_per_byte(
    model: Griffin, tokenizer: Tokenizer, documents: Sequence[Document], *, limit: int | None = None
) -> float:
    """Bits per byte of whole documents, or of the first `limit` characters of each."""
    texts = [document.text[:limit] for document in documents]
    return score_documents(model, [tokenizer.encode(text) for text in texts], texts).bits_per_byte


@contextmanager
def stop_on_signals() -> Iterator[list[int]]:
    """A list that is empty until SIGINT or SIGTERM puts its number there, once."""
    received: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def stop(number: int, _frame: object) -> None:
        received.append(number)
        for each, handler in before.items():
            signal.signal(each, handler)

    for number in before:
        signal.signal(number, stop)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
