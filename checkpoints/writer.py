# SPDX-License-Identifier: Apache-2.0
"""The checkpoints of a run that is being trained: written while training goes on, the newest and
the best of them kept.

Orbax's AsyncCheckpointer writes; its CheckpointManager is not used. When one of several processes
fails, the manager waits for it for 20 minutes; a garbled metrics file keeps it from opening; it
counts a damaged step as one of those to keep; and when it is killed while it deletes a step, half
of it stays under the step's name.
"""

import contextlib
import json
import logging
import re
import shutil
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import jax
import orbax.checkpoint as ocp

from checkpoints import checksums, files, processes
from checkpoints import step as step_files
from checkpoints.model_json import read_json
from checkpoints.open_checkpoint import Damaged
from checkpoints.plain_path import plain
from checkpoints.step import Restored
from recurrentgemma.errors import UserError

STEPS, RUN_CONFIG = "checkpoints", "config.json"
DAMAGED, DELETED, UNFINISHED = ".damaged", ".deleted", ".orbax-checkpoint-tmp"
NO_SPACE = re.compile("no space left|file too large|quota exceeded", re.IGNORECASE)
OTHER = re.compile(r"process \d+: ")
SEEN_WITHIN = 90  # seconds, in which a shared disk shows one process what another one renamed


class NotSaved(OSError):
    """A step that was not written, or could not be read back."""


class Checkpoints:
    """Saves and restores the steps of one run; the only writer of its directory.

        with Checkpoints(run_dir, keep=2, best="held_out_bits_per_byte") as checkpoints:
            restored = checkpoints.restore(params_like=..., opt_state_like=...)
            ...
            checkpoints.save(step, params, opt_state=..., data_state=..., metrics={...})

    It keeps the `keep` newest steps, and besides them the `keep_best` with the lowest (or highest)
    value of the metric `best`, and those in `always`. In a program of several processes all of them
    make one and call it alike; each writes and reads what its devices hold, on a disk that all
    share.

    A step counts once it has been read back, every array compared with the checksum of what was
    on the devices; only then are older ones deleted. Each process reads its share of the arrays.

    Opening it deletes what a killed process left half written or half deleted. A step that is
    damaged is renamed to STEP.damaged, which nothing counts or deletes, and reported in one line.
    One that cannot be opened may be whole: nothing is renamed.

    Raises:
      OSError: something in the directory cannot be opened.
      UserError: an argument is out of range, the run has no config.json, or Orbax cannot be given
        its path (plain_path.py).
    """

    def __init__(
        self,
        run_dir: str | Path,
        *,
        keep: int = 2,
        best: str | None = None,
        best_is: Literal["lowest", "highest"] = "lowest",
        keep_best: int = 1,
        always: Collection[int] = (),
        report: Callable[[str], None] = print,
    ):
        if keep < 1:
            raise UserError(f"keep={keep}: expected at least 1")
        if keep_best < 0:
            raise UserError(f"keep_best={keep_best}: expected 0 or more")
        if best_is not in ("lowest", "highest"):
            raise UserError(f"best_is={best_is!r}: expected 'lowest' or 'highest'")
        self._folder = Path(run_dir).absolute() / STEPS
        plain(self._folder)
        config = Path(run_dir) / RUN_CONFIG
        if not files.is_file(config):
            raise UserError(f"{config}: missing; every checkpoint holds a copy, so write it first")
        self._config = processes.all_or_none(lambda: read_json(config))
        self._keep, self._keep_best, self._always = keep, keep_best, frozenset(always)
        self.best, self._highest = best, best_is == "highest"
        self._report = report
        self._steps: dict[int, dict[str, Any]] = {}  # each with its metrics
        self._own: set[int] = set()  # restored from, or saved, by this object
        self._writing: tuple[int, Future[list[int]]] | None = None
        self._rendezvous = processes.Rendezvous() if jax.process_count() > 1 else None
        self._handler = step_files.step_handler()
        options = ocp.AsyncOptions(timeout_secs=processes.TIMEOUT, barrier_sync_fn=self._rendezvous)
        self._writer = ocp.AsyncCheckpointer(self._handler, async_options=options)
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        logging.getLogger("absl").addFilter(_raised_anyway)
        self._find_steps()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except OSError as failed:
            if error is None:
                raise
            self._report(str(failed))  # beside the error that ended the run, not instead of it

    def steps(self) -> list[int]:
        """The steps that are there and being written, oldest first."""
        return sorted(self._steps)

    def save(
        self,
        step: int,
        params: Mapping[str, Any],
        *,
        opt_state: Any = None,
        data_state: dict[str, Any] | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> bool:
        """Begin to write a step; returns when the arrays may be donated. The step appears when it
        is whole, and then older ones are deleted.

        params is flat, by canonical name; opt_state any pytree of arrays; data_state plain JSON
        values. Waits for the save before. Returns False, and writes nothing, for a step that this
        object has saved or restored before: the state of a step is what it is.

        Raises:
          OSError: there is no space for it, or the save before failed or could not be read back;
            what was saved is still there.
          UserError: this step exists already from elsewhere, or a later one does.
        """
        self.wait()
        if step in self._own:
            return False
        folder, newest = self._folder / str(step), max(self._steps, default=-1)
        if step <= newest:
            what = "this step" if step in self._steps else f"step {newest}"
            raise UserError(
                f"{folder}: {what} exists already; go on from the newest step, or delete what is "
                "not to be kept"
            )
        arrays = (*checksums.leaves(params).values(), *checksums.leaves(opt_state).values())
        needed = sum(array.nbytes for array in arrays)
        self._on_first(lambda: self._check_space(step, needed))
        scores = {name: float(value) for name, value in (metrics or {}).items()}
        items = step_files.items(
            params, config=self._config, metrics=scores, opt_state=opt_state, data_state=data_state
        )
        self._writer.save(plain(self._folder) / str(step), args=items)
        self._own.add(step)
        self._steps[step] = scores
        self._writing = step, self._thread.submit(self._finish, step, needed)
        return True

    def wait(self) -> None:
        """Wait for the save in flight. Raises OSError if it failed."""
        if self._writing is None:
            return
        step, future = self._writing
        try:
            deleted = future.result()
        except NotSaved:
            self._own.discard(step)
            self._steps.pop(step)
            raise
        finally:
            self._writing = None
        for old in deleted:
            del self._steps[old]

    def close(self) -> None:
        """Wait for the save in flight, and end the threads. Raises OSError if it failed."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()
            self._writer.close()
            if processes.is_first():
                self._clean()
            logging.getLogger("absl").removeFilter(_raised_anyway)

    def restore(
        self,
        step: int | None = None,
        *,
        params_like: Mapping[str, Any] | None = None,
        opt_state_like: Any = None,
    ) -> Restored | None:
        """A step, by default the newest that is whole; None before the first.

        The two `like` trees hold arrays or jax.ShapeDtypeStructs with the structure, dtypes and
        (where they have one) shardings wanted; each process reads what its devices hold. Parameters
        are rounded to the dtype wanted, an optimizer's state never is. Without params_like,
        parameters come as stored, on the default device; without opt_state_like, the optimizer's
        state is not read.

        Raises:
          OSError: the newest cannot be opened or read; it may be whole.
          UserError: there is no such step, it differs from a `like` tree, or none is whole.
        """
        self.wait()
        if step is not None and step not in self._steps:
            raise UserError(f"{self._folder}: no step {step}; it holds {self.steps()}")
        for candidate in [step] if step is not None else self.steps()[::-1]:
            try:
                restored = step_files.read(
                    self._folder / str(candidate), params_like, opt_state_like
                )
            except Damaged as error:
                if step is not None:
                    raise
                self._set_aside(candidate, str(error))
                continue
            self._own.add(candidate)
            return restored
        damaged = sorted(path.name for path in self._folder.glob(f"*{DAMAGED}*"))
        if damaged:
            raise UserError(
                f"{self._folder}: no checkpoint is whole ({', '.join(damaged)}); bring one back, "
                "or delete them to train from the beginning"
            )
        return None

    def _find_steps(self) -> None:
        def look() -> str:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._clean()
            whole, damaged = {}, {}
            for folder in self._folder.iterdir():
                if folder.name.isdigit() and files.is_dir(folder):
                    try:
                        step_files.check(folder)
                        whole[folder.name] = step_files.read_content(folder, step_files.METRICS)
                    except Damaged as error:
                        damaged[folder.name] = str(error)
            return json.dumps([whole, damaged])

        whole, damaged = json.loads(processes.broadcast_text(look))
        self._steps = {int(step): metrics or {} for step, metrics in whole.items()}
        for step, why in damaged.items():
            self._set_aside(int(step), why)

    def _clean(self) -> None:
        """Delete what is half written or half deleted, while nothing is being written."""
        for suffix in (UNFINISHED, DELETED):
            for path in self._folder.glob(f"*{suffix}*"):
                shutil.rmtree(path, ignore_errors=True)

    def _set_aside(self, step: int, why: str) -> None:
        self._steps.pop(step, None)
        self._own.discard(step)
        folder = self._folder / str(step)
        names = [folder.with_name(f"{step}{DAMAGED}")]
        while names[-1].exists():
            names.append(folder.with_name(f"{step}{DAMAGED}.{len(names)}"))
        self._on_first(lambda: folder.rename(names[-1]))
        newest = max(self._steps, default=None)
        if processes.is_first():
            self._report(
                f"step {step} is damaged, and kept as {names[-1]} ({why}); "
                + ("no other is left" if newest is None else f"step {newest} is the newest now")
            )

    def _check_space(self, step: int, needed: int) -> None:
        if (self._folder / str(step)).exists():  # it was written, and could not be read back
            raise UserError(f"{self._folder / str(step)}: exists already; see if it can be read")
        self._clean()  # TensorStore may have written on for a moment after a save failed
        if shutil.disk_usage(self._folder).free < needed:
            raise self._failed(step, needed, OSError("no space left"))

    def _finish(self, step: int, needed: int) -> list[int]:
        """In the background: wait for the write, then delete what is not kept. Returns what is
        deleted."""
        try:
            self._writer.wait_until_finished()
        except Exception as error:
            for _ in range(10):  # each call raises one of the errors that Orbax still holds
                with contextlib.suppress(Exception):
                    self._writer.wait_until_finished()
                    break
            self._handler.settle()
            if self._rendezvous is not None and not isinstance(error, processes.OtherFailed):
                self._rendezvous.fail(error)
            if processes.is_first():
                self._clean()
            raise self._failed(step, needed, error) from error
        self._read_back(step, needed)
        best = step_files.ranked(self._steps, self.best, highest=self._highest)
        kept = {*self.steps()[-self._keep :], *best[: self._keep_best], *self._always}
        old = sorted(self._steps.keys() - kept)
        for folder in (self._folder / str(step) for step in old if processes.is_first()):
            gone = folder.rename(folder.with_name(f"{folder.name}{DELETED}"))
            shutil.rmtree(gone, ignore_errors=True)  # what stays is deleted with the next
        return old

    def _read_back(self, step: int, needed: int) -> None:
        """Raises NotSaved, on every process, if one of them reads other than what was written."""
        folder, deadline = self._folder / str(step), time.monotonic() + SEEN_WITHIN
        try:
            while not files.is_dir(folder) and time.monotonic() < deadline:
                time.sleep(0.5)
            step_files.read_back(folder, part=jax.process_index(), parts=jax.process_count())
        except (OSError, UserError) as error:
            if self._rendezvous is not None:
                self._rendezvous.fail(error)
            raise self._failed(step, needed, error) from error
        try:
            if self._rendezvous is not None:
                self._rendezvous(key="", timeout_ms=processes.TIMEOUT * 1000)
        except processes.OtherFailed as error:
            raise self._failed(step, needed, error) from error

    def _failed(self, step: int, needed: int, error: BaseException) -> NotSaved:
        """What the user is told: a step was not saved, why, what is left, what to do."""
        text = (str(error).strip() or type(error).__name__).splitlines()[0]
        text = text.replace(str(plain(self._folder)), str(self._folder))
        others = [kept for kept in self.steps() if kept != step]
        left = f"step {others[-1]} is still there" if others else "none was saved before"
        remedy = "the same command goes on from there" if others else "start again"
        where = f"{self._folder / str(step)} was not saved"
        if full := NO_SPACE.search(text):
            process = OTHER.match(text)
            reason = (process.group() if process else "") + full.group().lower()
            free = shutil.disk_usage(self._folder).free
            more = "" if reason == "no space left" else f" ({reason})"
            return NotSaved(
                f"{where}, no space left: it needs {needed / 1e9:.3g} GB and {free / 1e9:.3g} GB "
                f"are free{more}; {left}; make space or keep fewer, and {remedy}"
            )
        return NotSaved(f"{where} ({text[:300]}); {left}; {remedy}")

    def _on_first(self, function: Callable[[], Any]) -> None:
        processes.all_or_none(lambda: function() if processes.is_first() else None)


def _raised_anyway(record: logging.LogRecord) -> bool:
    """Keeps Orbax from printing the traceback of every error that it also raises."""
    return not (record.levelno >= logging.ERROR and "orbax" in record.pathname)
