# SPDX-License-Identifier: Apache-2.0
"""A config against the tensors: what shapes tell, what not, and every contradiction by name.

DeepMind's formats hold tensors alone. Widths, depth, block types, heads and gate blocks follow from
the shapes; the window, the soft cap and the embedding scale (the last two change the logits in
silence) do not. They come from the preset that has these shapes, or from the caller.
"""

import collections
import dataclasses
from collections.abc import Sequence
from typing import Any

from checkpoints.names import (
    FIELDS,
    ROWS,
    file_axes,
    fill_block,
    layout,
    rows_by_name,
    split_block,
)
from checkpoints.open_checkpoint import OpenCheckpoint, as_dtype
from recurrentgemma.config import GriffinConfig
from recurrentgemma.errors import UserError
from recurrentgemma.parameters import param_shapes
from recurrentgemma.presets import PRESETS

READABLE = ("float32", "bfloat16", "float16")
UNKNOWABLE = ("attention_window", "logits_soft_cap", "scale_embeddings")
MAY_DIFFER = ("context_length", "a_init", "dtype", "param_dtype", "scan_layers", "remat")


def resolve_config(
    checkpoint: OpenCheckpoint, config: GriffinConfig | None, dtype: str | None
) -> GriffinConfig:
    """The config to read a checkpoint with, checked against its tensors.

    The caller's config may differ from the checkpoint's own in what does not change the logits
    (MAY_DIFFER); without either a preset's is taken. `dtype` sets both of the config's dtypes;
    without it they are the config's, or with a preset the stored one.

    Raises:
      ValueError: nothing tells the fields in UNKNOWABLE, or the config contradicts a tensor or the
        checkpoint's own config.
    """
    if dtype is not None:
        as_dtype(dtype)
    if config is not None and not isinstance(config, GriffinConfig):
        raise UserError(
            f"config is {config!r}: expected a GriffinConfig, such as recurrentgemma.tiny()"
        )
    if config is not None and checkpoint.config is not None:
        _check_agrees(checkpoint, config)
    stored = checkpoint.stored_dtype
    chosen = config or checkpoint.config
    if chosen is None:
        chosen, dtype = _matching_preset(checkpoint), dtype or stored
    check(checkpoint, chosen)
    if dtype is None:
        return chosen
    return dataclasses.replace(chosen, dtype=dtype, param_dtype=dtype)  # type: ignore[arg-type]


def _check_agrees(checkpoint: OpenCheckpoint, config: GriffinConfig) -> None:
    assert checkpoint.config is not None
    for field in dataclasses.fields(GriffinConfig):
        given, stored = getattr(config, field.name), getattr(checkpoint.config, field.name)
        if given != stored and field.name not in MAY_DIFFER:
            raise UserError(
                f"{checkpoint.path}: its own config says {field.name}={stored!r}, the config "
                f"passed {given!r}: pass none, or correct the checkpoint's if it is wrong"
            )


def check(checkpoint: OpenCheckpoint, config: GriffinConfig) -> None:
    """Compare every tensor of a checkpoint with what a config expects.

    Raises:
      ValueError: a tensor is missing, extra, misshapen or of a dtype that float32 does not hold;
        it is named as the file names it, with the shapes and the config field.
    """
    expected = file_shapes(config, checkpoint.format)
    absent = [name for name in expected if name not in checkpoint.tensors]
    extra = [name for name in checkpoint.tensors if name not in expected]
    if absent or extra:
        raise UserError(f"{checkpoint.path}: " + _names_message(checkpoint, config, absent, extra))
    for name, shape in expected.items():
        if checkpoint.tensors[name].shape != shape:
            raise UserError(f"{checkpoint.path}: " + _shape_message(checkpoint, name, shape))
    for name, tensor in checkpoint.tensors.items():
        if tensor.dtype not in READABLE:
            raise UserError(
                f"{checkpoint.path}: tensor {name!r} is stored as {tensor.dtype}; expected one of "
                f"{', '.join(READABLE)}: convert it with the tool that wrote it"
            )


def file_shapes(config: GriffinConfig, fmt: Any) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor of a format, by its name there."""
    shapes: dict[str, tuple[int, ...]] = {}
    rows = {row.canonical: row for row in ROWS}
    for canonical, shape in param_shapes(config).items():
        template, block = split_block(canonical)
        row = rows[template]
        name = fill_block(row.name(fmt), block)
        first, *others = layout(row, fmt).shape(shape)
        if name in shapes:  # a further part of a shared tensor
            first += shapes[name][0]
        shapes[name] = (first, *others)
    return shapes


def known_fields(checkpoint: OpenCheckpoint) -> dict[str, Any]:
    """The config fields that the shapes tell; block_types says only "recurrent" or "attention".

    Where tensors disagree the most frequent size counts, so that `check` names the odd one out.

    Raises:
      ValueError: a tensor that tells a field is missing or has the wrong number of axes.
    """
    votes: dict[str, collections.Counter[int]] = collections.defaultdict(collections.Counter)
    kinds: dict[int, str] = {}
    table = rows_by_name(checkpoint.format)
    for name, tensor in checkpoint.tensors.items():
        template, block = split_block(name)
        if template not in table:
            raise UserError(f"{checkpoint.path}: unexpected tensor {name!r}: {_hint(checkpoint)}")
        axes = file_axes(table[template], checkpoint.format)
        if len(axes) != len(tensor.shape):
            raise UserError(
                f"{checkpoint.path}: tensor {name!r} has shape {tensor.shape}; expected "
                f"{len(axes)} axes ({_words(axes)})"
            )
        for axis, size in zip(axes, tensor.shape, strict=True):
            votes[str(axis)][size] += 1
        canonical = table[template][0].canonical
        if block is not None and "_block/" in canonical and "mlp_block" not in canonical:
            kinds[block] = "recurrent" if "recurrent_block" in canonical else "attention"
    sizes = {axis: count.most_common(1)[0][0] for axis, count in votes.items()}
    for axis in "VDF":
        if axis not in sizes:
            row = next(row for row in ROWS if axis in row.axes)
            name = fill_block(row.name(checkpoint.format), 0)
            raise UserError(f"{checkpoint.path}: tensor {name!r} is missing: {_hint(checkpoint)}")
    known: dict[str, Any] = {
        FIELDS[axis]: sizes[axis] for axis in ("V", "D", "E", "F", "N", "K") if axis in sizes
    }
    if "HK" in sizes:
        known["num_heads"] = sizes["HK"] // sizes["K"]
    depth = 1 + max(kinds, default=-1)
    return known | {"block_types": tuple(kinds.get(i, "unknown") for i in range(depth))}


def _matching_preset(checkpoint: OpenCheckpoint) -> GriffinConfig:
    """The preset with these shapes. Vocabulary and gate blocks are the file's: the paper does not
    state the one, and DeepMind's code ties the other to the heads (32 for its 7B, not 16)."""
    known = known_fields(checkpoint)
    from_file = {name: known[name] for name in ("vocab_size", "num_gate_blocks") if name in known}
    for function in PRESETS.values():
        preset = function()
        kinds = tuple(kind.replace("local_", "") for kind in preset.block_types)
        others = (name for name in known if name not in (*from_file, "block_types"))
        if kinds == known["block_types"] and all(getattr(preset, n) == known[n] for n in others):
            return dataclasses.replace(preset, **from_file)
    sizes = {name: value for name, value in known.items() if name != "block_types"}
    raise UserError(
        f"{checkpoint.path}: this format says nothing of {', '.join(UNKNOWABLE)}, and no preset "
        f"has these shapes ({', '.join(f'{k}={v}' for k, v in sizes.items())}, "
        f"{len(known['block_types'])} layers); pass config=GriffinConfig(...) "
        "(on the command line --config, a preset or a config.json of ours)"
    )


def _names_message(
    checkpoint: OpenCheckpoint, config: GriffinConfig, absent: Sequence[str], extra: Sequence[str]
) -> str:
    parts = []
    for what, names in (("missing", absent), ("unexpected", extra)):
        if names:
            shown = ", ".join(repr(name) for name in names[:3])
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            parts.append(f"{what} tensor{'s' if len(names) > 1 else ''} {shown}{more}")
    blocks = {split_block(name)[1] for name in checkpoint.tensors} - {None}
    clash = _block_clash(config, absent, extra)
    if len(blocks) != config.num_layers:
        why = f"the config says num_layers={config.num_layers}, the file holds {len(blocks)} blocks"
    elif clash is not None:
        why = (
            f"the config's pattern makes block {clash} {config.block_types[clash]}, and the file "
            "holds the other kind there"
        )
    else:
        why = _hint(checkpoint)
    return "; ".join(parts) + ": " + why


def _block_clash(config: GriffinConfig, absent: Sequence[str], extra: Sequence[str]) -> int | None:
    """A block of which one kind's tensors are missing and others are too many, if there is one."""
    both = {split_block(n)[1] for n in absent} & {split_block(n)[1] for n in extra}
    return min((b for b in both if b is not None and b < config.num_layers), default=None)


def _shape_message(checkpoint: OpenCheckpoint, name: str, expected: tuple[int, ...]) -> str:
    template, _ = split_block(name)
    rows = rows_by_name(checkpoint.format)[template]
    axes = file_axes(rows, checkpoint.format)
    got = checkpoint.tensors[name].shape
    message = f"tensor {name!r} has shape {got}, the config expects {expected}"
    if len(got) != len(expected):
        return f"{message}, which is ({_words(axes)})"
    differing = [
        f"{_word(axis)}: {want} in the config, {have} in the file"
        for axis, want, have in zip(axes, expected, got, strict=True)
        if want != have
    ]
    if axes[0] == "V" and got[0] > expected[0]:
        differing.append("rows beyond the vocabulary are not cut off: set vocab_size to the rows")
    return f"{message}: {'; '.join(differing)}"


def _word(axis: Any) -> str:
    return FIELDS.get(axis, f"a fixed {axis}")


def _words(axes: Sequence[Any]) -> str:
    return ", ".join(map(_word, axes))


def _hint(checkpoint: OpenCheckpoint) -> str:
    return f"the file is incomplete, or not a {checkpoint.format} checkpoint of a Griffin"
