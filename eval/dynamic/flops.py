# SPDX-License-Identifier: Apache-2.0
"""FLOPs of dynamic evaluation, by arithmetic, for each token that is scored.

    forward       two for each multiply-add of a product, as recurrentgemma/counts.py counts them
    activations   gradients of a product's input: only where something before it is adapted
    weights       gradients of a product's weight: only where that is adapted
    optimizer     the update of the adapted parameters, over the tokens between two updates; and
                  what holds them to the checkpoint's

Static scoring is the first alone. When every weight is adapted the next two are about a forward
each, so that a token costs three times as much; an adapter in the last layer costs hardly more than
static scoring. What an overlap and replay read again counts, too.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

from checkpoints import hyper_adapters
from eval.dynamic.config import DynamicConfig
from eval.dynamic.parameters import adapted_names
from recurrentgemma import adapters
from recurrentgemma.config import CONV_WIDTH, BlockType, GriffinConfig
from recurrentgemma.hyper_adapters import CODE, GROUPS, hyper_layers
from recurrentgemma.parameters import param_shapes

UPDATE = {"none": 0, "sgd": 2, "rms": 5, "adam": 14}  # for each parameter
DECAY, ADD, HOLD = 4, 1, 8
RECURRENCE = 16  # for each channel, as counts.py


class Flops(NamedTuple):
    """For each scored token."""

    forward: float
    activations: float
    weights: float
    optimizer: float

    @property
    def per_token(self) -> float:
        return sum(self)


class _Node(NamedTuple):
    """A part of the forward pass. product: its weight is multiplied with its input. other: FLOPs
    of what is no product, for each token."""

    name: str
    inputs: tuple[str, ...]
    product: bool = False
    other: float = 0.0


def flops_per_token(config: GriffinConfig, choices: DynamicConfig) -> Flops:
    """Of a long document, with the state carried; windows are as full as they get."""
    adapted = set(adapted_names(config, choices))
    body = _sum(_costs(config, choices, adapted))
    vocabulary = 2.0 * config.vocab_size * config.width
    learns = bool(adapted)
    embedding = "embedder/input_embedding" in adapted
    head = (vocabulary, vocabulary * learns, vocabulary * embedding)
    length, targets = choices.segment_length, choices.targets
    read = choices.tokens_read / length
    parts = [read * b + targets / length * h for b, h in zip(body, head, strict=True)]
    if choices.retain.method == "kl":  # the checkpoint's pass, and a head of the divergence
        parts[0] += read * body[0] + targets / length * head[0]
        parts = [x + targets / length * h for x, h in zip(parts, head, strict=True)]
    if choices.replay.rows:
        if choices.replay.targets == "checkpoint":
            parts[0] += choices.replay.rows * (body[0] + head[0])
        extra = [choices.replay.rows * (b + h) for b, h in zip(body, head, strict=True)]
        parts = [x + y for x, y in zip(parts, extra, strict=True)]
    shapes = _shapes(config, choices)
    size = sum(math.prod(shapes[name]) for name in adapted)
    update = UPDATE[choices.optimizer.algorithm] + DECAY * (choices.optimizer.decay > 0)
    held = choices.retain.method not in ("none", "kl")
    each_segment = HOLD * held + update / choices.update_every + ADD * (choices.update_every > 1)
    forward, activations, weights = parts
    return Flops(forward, activations, weights, size * each_segment / length)


def adapted_parameters(config: GriffinConfig, choices: DynamicConfig) -> int:
    """How many numbers are adapted."""
    shapes = _shapes(config, choices)
    return sum(math.prod(shapes[name]) for name in adapted_names(config, choices))


def _shapes(config: GriffinConfig, choices: DynamicConfig) -> dict[str, tuple[int, ...]]:
    shapes = dict(param_shapes(config))
    if choices.parameters == "lora":
        rank = choices.lora.rank
        for name, (outputs, inputs) in adapters.adapted_layers(config, choices.lora).items():
            shapes[f"{name}/{adapters.A}"] = (inputs, rank)
            shapes[f"{name}/{adapters.B}"] = (rank, outputs)
    if choices.parameters == "code":
        hyper = hyper_adapters.read_config(choices.templates)
        shapes[CODE] = (GROUPS, hyper.templates)
        for name, (outputs, inputs) in hyper_layers(config, hyper).items():
            shapes[f"{name}/{adapters.A}"] = (inputs, hyper.width)
            shapes[f"{name}/{adapters.B}"] = (hyper.width, outputs)
    return shapes


def _costs(
    config: GriffinConfig, choices: DynamicConfig, adapted: set[str]
) -> Iterator[tuple[float, float, float]]:
    """(forward, activations, weights) of every part but the head."""
    shapes = _shapes(config, choices)
    moving = {""} if "embedder/input_embedding" in adapted else set()  # parts with a gradient
    for node in _nodes(config, choices):
        own = [name for name in adapted if node.name and name.startswith(f"{node.name}/")]
        coded = CODE in adapted and f"{node.name}/{adapters.A}" in shapes
        own += [CODE] * coded
        before = any(name in moving for name in node.inputs)
        if before or own:
            moving.add(node.name)
        forward, activations, weights = node.other, 0.0, 0.0
        if before or own:  # what is no product has a gradient of about twice its cost
            activations += 2 * node.other
        if node.product:
            (weight,) = (
                name
                for name in shapes
                if name.rpartition("/")[0] == node.name and name.endswith(("/weight", "/w"))
            )
            product = 2.0 * math.prod(shapes[weight])
            forward += product
            activations += product * before
            weights += product * (weight in adapted)
        if coded or f"{node.name}/{adapters.A}" in adapted:
            a = 2.0 * math.prod(shapes[f"{node.name}/{adapters.A}"])
            b = 2.0 * math.prod(shapes[f"{node.name}/{adapters.B}"])
            forward, weights = forward + a + b, weights + a + b * (not coded)
            activations += b + a * before
        yield forward, activations, weights


def _nodes(config: GriffinConfig, choices: DynamicConfig) -> Iterator[_Node]:
    """The parts of the model from the embedding, "", to its final norm."""
    last = ""
    for layer, block_type in enumerate(config.block_types):
        block = f"blocks.{layer}"
        yield _Node(f"{block}/temporal_pre_norm", (last,))
        if block_type == "recurrent":
            part = f"{block}/recurrent_block"
            lru, conv = f"{part}/rg_lru", f"{part}/conv_1d"
            yield _Node(f"{part}/linear_x", (f"{block}/temporal_pre_norm",), True)
            yield _Node(f"{part}/linear_y", (f"{block}/temporal_pre_norm",), True)
            yield _Node(conv, (f"{part}/linear_x",), other=2.0 * CONV_WIDTH * config.lru_width)
            gates = (f"{lru}/input_gate", f"{lru}/a_gate")
            yield from (_Node(gate, (conv,), True) for gate in gates)
            yield _Node(lru, (conv, *gates), other=float(RECURRENCE * config.lru_width))
            yield _Node(f"{part}/linear_out", (f"{part}/linear_y", lru), True)
            temporal = f"{part}/linear_out"
        else:
            part = f"{block}/attention_block"
            inputs = tuple(f"{part}/proj_{which}" for which in "qkv")
            yield from (_Node(name, (f"{block}/temporal_pre_norm",), True) for name in inputs)
            yield _Node(f"{part}/scores", inputs, other=_attention(config, choices, block_type))
            yield _Node(f"{part}/proj_final", (f"{part}/scores",), True)
            temporal = f"{part}/proj_final"
        yield _Node(f"{block}/channel_pre_norm", (last, temporal))
        mlp = f"{block}/mlp_block"
        wide = (f"{mlp}/ffw_gate", f"{mlp}/ffw_up")
        yield from (_Node(name, (f"{block}/channel_pre_norm",), True) for name in wide)
        yield _Node(f"{mlp}/ffw_down", wide, True)
        last = f"{block}/residual"
        yield _Node(last, (f"{block}/channel_pre_norm", f"{mlp}/ffw_down"))
    yield _Node("final_norm", (last,))


def _attention(config: GriffinConfig, choices: DynamicConfig, block_type: BlockType) -> float:
    """Of the keys that a token really sees, as counts.py has it."""
    length = choices.tokens_read
    if choices.state == "carry":
        length = max(config.context_length, 2 * config.attention_window)
    window = min(config.keys_held(block_type), length - 1)
    pairs = (window + 1) * length - window * (window + 1) / 2
    return 4 * config.num_heads * config.head_dim * pairs / length


def _sum(costs: Iterator[tuple[float, float, float]]) -> tuple[float, float, float]:
    forward, activations, weights = (sum(column) for column in zip(*costs, strict=True))
    return forward, activations, weights
