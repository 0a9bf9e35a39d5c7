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
from checkpoints.source import Source, as_dtype
from recurrentgemma.config import GriffinConfig
from recurrentgemma.errors import UserError
from recurrentgemma.parameters import param_shapes
from recurrentgemma.presets import PRESETS

READABLE = ("float32", "bfloat16", "float16")
UNKNOWABLE = ("attention_window", "logits_soft_cap", "scale_embeddings")
FREE = ("context_length", "a_init", "dtype", "param_dtype", "scan_layers", "remat")


def resolve_config(
    source: Source, config: GriffinConfig | None, dtype: str | None
) -> GriffinConfig:
    """The config a source is to be read with, checked against its tensors.

    The caller's config may differ from the checkpoint's own in what does not change the logits
    (FREE); without either a preset's is taken. `dtype` sets
    both of the config's dtypes; without it they are the config's, or with a preset the stored one.

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
    if config is not None and source.config is not None:
        _check_agrees(source, config)
    stored = source.stored_dtype
    chosen = config or source.config
    if chosen is None:
        chosen, dtype = _matching_preset(source), dtype or stored
    check(source, chosen)
    if dtype is None:
        return chosen
    return dataclasses.replace(chosen, dtype=dtype, param_dtype=dtype)  # type: ignore[arg-type]


def _check_agrees(source: Source, config: GriffinConfig) -> None:
    assert source.config is not None
    for field in dataclasses.fields(GriffinConfig):
        given, stored = getattr(config, field.name), getattr(source.config, field.name)
        if given != stored and field.name not in FREE:
            raise UserError(
                f"{source.path}: its own config says {field.name}={stored!r}, the config passed "
                f"{given!r}: pass none, or correct the checkpoint's if it is wrong"
            )


def check(source: Source, config: GriffinConfig) -> None:
    """Compare every tensor of a source with what a config expects.

    Raises:
      ValueError: a tensor is missing, extra, misshapen or of a dtype that float32 does not hold;
        it is named as the file names it, with the shapes and the config field.
    """
    expected = file_shapes(config, source.format)
    absent = [name for name in expected if name not in source.specs]
    extra = [name for name in source.specs if name not in expected]
    if absent or extra:
        raise UserError(f"{source.path}: " + _names_message(source, config, absent, extra))
    for name, shape in expected.items():
        if source.specs[name].shape != shape:
            raise UserError(f"{source.path}: " + _shape_message(source, name, shape))
    for name, spec in source.specs.items():
        if spec.dtype not in READABLE:
            raise UserError(
                f"{source.path}: tensor {name!r} is stored as {spec.dtype}; expected one of "
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
        first, *rest = layout(row, fmt).shape(shape)
        if name in shapes:  # a further part of a shared tensor
            first += shapes[name][0]
        shapes[name] = (first, *rest)
    return shapes


def known_fields(source: Source) -> dict[str, Any]:
    """The config fields that the shapes tell; block_types says only "recurrent" or "attention".

    Where tensors disagree the most frequent size counts, so that `check` names the odd one out.

    Raises:
      ValueError: a tensor that tells a field is missing or has the wrong number of axes.
    """
    votes: dict[str, collections.Counter[int]] = collections.defaultdict(collections.Counter)
    kinds: dict[int, str] = {}
    table = rows_by_name(source.format)
    for name, spec in source.specs.items():
        template, block = split_block(name)
        if template not in table:
            raise UserError(f"{source.path}: unexpected tensor {name!r}: {_hint(source)}")
        axes = file_axes(table[template], source.format)
        if len(axes) != len(spec.shape):
            raise UserError(
                f"{source.path}: tensor {name!r} has shape {spec.shape}; expected "
                f"{len(axes)} axes ({_words(axes)})"
            )
        for axis, size in zip(axes, spec.shape, strict=True):
            votes[str(axis)][size] += 1
        canonical = table[template][0].canonical
        if block is not None and "_block/" in canonical and "mlp_block" not in canonical:
            kinds[block] = "recurrent" if "recurrent_block" in canonical else "attention"
    sizes = {axis: count.most_common(1)[0][0] for axis, count in votes.items()}
    for axis in "VDF":
        if axis not in sizes:
            row = next(row for row in ROWS if axis in row.axes)
            name = fill_block(row.name(source.format), 0)
            raise UserError(f"{source.path}: tensor {name!r} is missing: {_hint(source)}")
    known: dict[str, Any] = {
        FIELDS[axis]: sizes[axis] for axis in ("V", "D", "E", "F", "N", "K") if axis in sizes
    }
    if "HK" in sizes:
        known["num_heads"] = sizes["HK"] // sizes["K"]
    depth = 1 + max(kinds, default=-1)
    return known | {"block_types": tuple(kinds.get(i, "unknown") for i in range(depth))}


def _matching_preset(source: Source) -> GriffinConfig:
    """The preset with these shapes. Vocabulary and gate blocks are the file's: the paper does not
    state the one, and DeepMind's code ties the other to the heads (32 for its 7B, not 16)."""
    known = known_fields(source)
    from_file = {name: known[name] for name in ("vocab_size", "num_gate_blocks") if name in known}
    for function in PRESETS.values():
        preset = function()
        kinds = tuple(kind.replace("local_", "") for kind in preset.block_types)
        rest = (name for name in known if name not in (*from_file, "block_types"))
        if kinds == known["block_types"] and all(getattr(preset, n) == known[n] for n in rest):
            return dataclasses.replace(preset, **from_file)
    sizes = {name: value for name, value in known.items() if name != "block_types"}
    raise UserError(
        f"{source.path}: this format says nothing of {', '.join(UNKNOWABLE)}, and no preset has "
        f"these shapes ({', '.join(f'{k}={v}' for k, v in sizes.items())}, "
        f"{len(known['block_types'])} layers); pass config=GriffinConfig(...) "
        "(on the command line --config, a preset or a config.json of ours)"
    )


def _names_message(
    source: Source, config: GriffinConfig, absent: Sequence[str], extra: Sequence[str]
) -> str:
    parts = []
    for what, names in (("missing", absent), ("unexpected", extra)):
        if names:
            shown = ", ".join(repr(name) for name in names[:3])
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            parts.append(f"{what} tensor{'s' if len(names) > 1 else ''} {shown}{more}")
    blocks = {split_block(name)[1] for name in source.specs} - {None}
    clash = _block_clash(config, absent, extra)
    if len(blocks) != config.num_layers:
        why = f"the config says num_layers={config.num_layers}, the file holds {len(blocks)} blocks"
    elif clash is not None:
        why = (
            f"the config's pattern makes block {clash} {config.block_types[clash]}, and the file "
            "holds the other kind there"
        )
    else:
        why = _hint(source)
    return "; ".join(parts) + ": " + why


def _block_clash(config: GriffinConfig, absent: Sequence[str], extra: Sequence[str]) -> int | None:
    """A block of which one kind's tensors are missing and others are too many, if there is one."""
    both = {split_block(n)[1] for n in absent} & {split_block(n)[1] for n in extra}
    return min((b for b in both if b is not None and b < config.num_layers), default=None)


def _shape_message(source: Source, name: str, expected: tuple[int, ...]) -> str:
    template, _ = split_block(name)
    rows = rows_by_name(source.format)[template]
    axes = file_axes(rows, source.format)
    got = source.specs[name].shape
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


def _hint(source: Source) -> str:
    return f"the file is incomplete, or not a {source.format} checkpoint of a Griffin"
