# SPDX-License-Identifier: Apache-2.0
"""What a run with `--retain` has beside any other: documents of what is to be retained, the
checkpoint's parameters, Fisher information, and the loss that holds the model to them."""

import dataclasses
import functools
import itertools
from pathlib import Path
from typing import Any

from flax import nnx
from jax.sharding import Mesh

from checkpoints.processes import is_first
from checkpoints.store import all_steps
from eval.progress_bar import progress_bar
from recurrentgemma.adapters import adapted_layers
from recurrentgemma.counts import parameter_count
from recurrentgemma.errors import UserError
from recurrentgemma.griffin import Griffin
from recurrentgemma.params import canonical_names
from recurrentgemma.text.tokenizer import Tokenizer
from training import run
from training.configs import TrainConfig
from training.data.batches import Batches
from training.data.config import DataConfig, held_out, open_mixture
from training.data.documents import Mixture
from training.data.held_out import HeldOut
from training.inputs import EVAL_DOCUMENTS, Feed, bits_per_byte_of
from training.launch import own_rows
from training.retention import fisher
from training.retention.config import NEED_START
from training.retention.objective import Kept, Retention

BITS = "retained_bits_per_byte"


@dataclasses.dataclass(frozen=True)
class KeptInputs:
    """Documents of what is to be retained; opened before a run begins, so that bad ones leave
    nothing behind."""

    config: TrainConfig
    tokenizer: Tokenizer
    mixture: Mixture | None

    @functools.cached_property
    def held_out_starts(self) -> list[HeldOut]:
        """The beginning of the documents whose bits per byte are logged; tokenised once."""
        of = self.config.retain.eval_data or self.config.retain.data
        data = dataclasses.replace(self._data(()), eval_sources=of)
        read = held_out(
            data,
            self.tokenizer,
            vocab_size=self.config.model.vocab_size,
            limit=self.config.eval_tokens,
        )
        return list(itertools.islice(read, EVAL_DOCUMENTS))

    def _data(self, sources: tuple[str, ...]) -> DataConfig:
        data = self.config.data
        return DataConfig(sources=sources, chat_template=data.chat_template, threads=data.threads)

    @staticmethod
    def open(config: TrainConfig, tokenizer: Tokenizer) -> "KeptInputs":
        """Raises UserError: a source cannot be read, or has nothing to be scored on."""
        opened = KeptInputs(config, tokenizer, None)
        if config.retain.data:
            data = opened._data(config.retain.data)
            mixture = open_mixture(data, tokenizer, vocab_size=config.model.vocab_size)
            opened = dataclasses.replace(opened, mixture=mixture)
        starts = opened.held_out_starts
        of = config.retain.eval_data or config.retain.data
        if of and not any(one.bytes and one.document.learned_targets for one in starts):
            raise UserError(
                f"{', '.join(of)}: there is no text to score in the first {config.eval_tokens} "
                f"tokens of the first {EVAL_DOCUMENTS} documents; give other text to be retained"
            )
        return opened

    def feed(self, rows: int, mesh: Mesh | None) -> tuple[Batches, Feed]:
        """Batches of the data to be retained, in an order that the seed decides, and those where a
        step wants them."""
        assert self.mixture is not None
        own = own_rows(mesh, rows)
        batches = Batches(
            self.mixture,
            batch_size=rows,
            row_length=self.config.sequence_length,
            seed=self.config.seed,
            rows=own,
            threads=self.config.data.threads,
        )
        return batches, Feed(batches, mesh, batch_size=rows, rows=own)


@dataclasses.dataclass(frozen=True)
class Keeping:
    """What the loop goes on with."""

    inputs: KeptInputs
    retention: Retention | None = None  # None: with a weight of 0
    start: Any = ()
    fisher: Any = ()
    batches: Batches | None = None
    feed: Feed | None = None

    def next(self) -> Kept:
        """What the next step reads."""
        batch = () if self.feed is None else next(self.feed)
        return Kept(batch, self.start, self.fisher)

    def state(self) -> dict[str, Any] | None:
        """Where its data goes on, of this process; None where no step reads any."""
        return None if self.batches is None else self.batches.state()

    def bits_per_byte(self, model: Griffin, mesh: Mesh | None) -> float | None:
        """Of the documents that show what is retained; None where none are named."""
        if not self.inputs.held_out_starts:
            return None
        return bits_per_byte_of(model, self.inputs.held_out_starts, self.inputs.config, mesh)


def held_bytes(config: TrainConfig) -> float:
    """Of copies of the parameters that a run holds beside those that it trains: the checkpoint's,
    and Fisher information. By LoRA the checkpoint is there anyway."""
    holds = config.retain.holds
    copies = 0
    if config.lora is None:
        compares = holds and config.retain.method in NEED_START
        copies += compares or config.preference is not None
    fisher = holds and config.retain.method == "ewc"
    return 4.0 * parameter_count(config.model) * (copies + fisher)


def begin(inputs: KeptInputs, run_dir: Path, frozen: tuple[Any, ...], mesh: Mesh | None) -> Keeping:
    """Read the checkpoint that training started from, and read or estimate Fisher information;
    frozen: by LoRA, the parameters that are not trained.

    Raises UserError: the Fisher information that was named is of another model.
    """
    config = inputs.config
    retain, adapters = config.retain, config.lora
    if not retain.holds:
        return Keeping(inputs)
    teacher, shapes = run.griffin_shapes(config.model)
    retention = Retention(retain, teacher, adapters.alpha / adapters.rank if adapters else 0.0)
    start: Any = ()
    if retain.method in NEED_START and not adapters:
        start = run.initial_params(config, shapes, mesh)
    information: Any = ()
    if retain.method == "ewc":
        model = nnx.merge(teacher, *(frozen or (start,)))
        information = _fisher(inputs, run_dir, model, mesh)
    batches = feed = None
    if retain.reads_rows:
        batches, feed = inputs.feed(retain.batch_size or config.batch_size, mesh)
    return Keeping(inputs, retention, start, information, batches, feed)


def _fisher(inputs: KeptInputs, run_dir: Path, model: Griffin, mesh: Mesh | None) -> nnx.State:
    """That of the run, which is written where it is not there."""
    config, folder = inputs.config, run_dir / fisher.FOLDER
    chosen = _adapted(config)
    like = nnx.split(model, chosen or nnx.Param, ...)[1]
    if all_steps(folder):
        return fisher.load(folder, like, config.model, mesh)
    of: dict[str, Any] = {"of": config.init_from}
    if config.retain.fisher_from:
        information = fisher.load(Path(config.retain.fisher_from), like, config.model, mesh)
        of["from"] = config.retain.fisher_from
    else:
        rows = 1 if mesh is None else mesh.shape["data"] * mesh.shape["fsdp"]
        batches, feed = inputs.feed(rows, mesh)
        count, kind = config.retain.fisher_gradients, config.retain.fisher
        shown = "Fisher information" if is_first() else ""
        with progress_bar(shown, count, unit="gradients") as bar:
            information = fisher.estimate(
                model,
                feed,
                count=count,
                kind=kind,
                seed=config.seed,
                mesh=mesh,
                chosen=chosen,
                shown=bar.update,
            )
        batches.close()
        of |= {"data": config.retain.data, "kind": kind, "gradients": count, "rows": rows}
    fisher.save(folder, information, config.model, **of)
    return information


def _adapted(config: TrainConfig) -> fisher.Chosen | None:
    """By LoRA: which parameters have adapters."""
    if config.lora is None:
        return None
    layers = adapted_layers(config.model, config.lora)

    def chosen(path: tuple, _: Any) -> bool:
        names = canonical_names(config.model, "/".join(map(str, path)))
        return all(name.removesuffix("/weight") in layers for name in names)

    return chosen
