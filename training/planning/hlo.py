# SPDX-License-Identifier: Apache-2.0
"""What a compiled program moves, read from its text, with loops counted as often as they run.

XLA's own cost analysis counts a loop's body once. Here the text is parsed into computations, each
gets the number of times it runs, and collectives and memory traffic are summed over them. A TPU's
asynchronous collective is one instruction repeated in every fusion that it overlaps with; its
chain_id tells that they are one.
"""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

BITS = {"pred": 8, "s8": 8, "u8": 8, "bf16": 16, "f16": 16, "s64": 64, "u64": 64, "f64": 64}
ARRAY = re.compile(r"(\w+)\[([\d,]*)\](?:\{([^{}]*)\})?")
COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
NO_TRAFFIC = {  # move nothing, or are counted where their work is
    *("parameter", "constant", "get-tuple-element", "tuple", "bitcast", "while", "conditional"),
    *("after-all", "partition-id", "replica-id", "iota", "opt-barrier", "call"),
}


class Instruction(NamedTuple):
    """One line: `name = type op(args), attributes`."""

    name: str
    type: str
    op: str
    args: str
    attributes: str

    @property
    def operands(self) -> list[str]:
        return re.findall(r"%([\w.\-]+)", self.args)


class Collective(NamedTuple):
    """One collective: its kind, how often it runs, the devices of its first group, and the bytes
    that each device sends each time."""

    kind: str
    times: int
    group: tuple[int, ...]
    sent: float


class Module(NamedTuple):
    """A program as computations of instructions."""

    entry: str
    computations: dict[str, dict[str, Instruction]]


def parse(text: str) -> Module:
    """The computations of a compiled program (jax.stages.Compiled.as_text)."""
    computations: dict[str, dict[str, Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        if line.endswith("{") and (head := re.match(r"(ENTRY )?%?([\w.\-]+) \(", line)):
            current = computations.setdefault(head[2], {})
            entry = head[2] if head[1] else entry
        elif line == "}":
            current = None
        elif current is not None and (instruction := _instruction(line)):
            current[instruction.name] = instruction
    return Module(entry, computations)


def _instruction(line: str) -> Instruction | None:
    head = re.match(r"\s+(?:ROOT )?%?([\w.\-]+) = ", line)
    if not head:
        return None
    body = line[head.end() :]
    end = _closing(body, 0) + 1 if body.startswith("(") else body.find(" ")
    type_, call = body[:end], body[end:].lstrip()
    opened = call.find("(")
    if opened < 0:
        return None
    closed = _closing(call, opened)
    return Instruction(head[1], type_, call[:opened], call[opened + 1 : closed], call[closed + 1 :])


def _closing(text: str, start: int) -> int:
    """Index of the parenthesis that closes the one at `start`."""
    depth = 0
    for i in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[i], 0)
        if depth == 0:
            return i
    return len(text) - 1


def arrays(type_: str) -> Iterator[tuple[int, bool]]:
    """(bytes, whether it lies in HBM) of each array in a type."""
    for dtype, shape, layout in ARRAY.findall(type_):
        if dtype == "u32" and not shape:
            continue  # contexts of asynchronous operations
        size = math.prod(int(n) for n in shape.split(",") if n)
        yield size * BITS.get(dtype, 32) // 8, "S(" not in layout


def in_hbm(type_: str) -> int:
    """Bytes of a type's arrays that lie in HBM."""
    return sum(size for size, hbm in arrays(type_) if hbm)


def all_bytes(type_: str) -> int:
    """Bytes of a type's arrays wherever they lie."""
    return sum(size for size, _ in arrays(type_))


def called(instruction: Instruction, *names: str) -> list[str]:
    """The computations that an instruction names under these attributes."""
    computations = []
    for name in names:
        for one, many in re.findall(
            rf"{name}=(?:%([\w.\-]+)|\{{([^}}]*)\}})", instruction.attributes
        ):
            computations += [one] if one else re.findall(r"%([\w.\-]+)", many)
    return computations


def trip_count(module: Module, loop: Instruction) -> int:
    """How often a while loop's body runs: what XLA says, or the number that its counter, which
    jax.lax.scan and map count up from 0, is compared with.

    Raises:
      ValueError: neither is there.
    """
    if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes):
        return int(known[1])
    bounds = [
        int(instruction.args)
        for name in called(loop, "condition")
        for instruction in module.computations[name].values()
        if instruction.op == "constant" and instruction.type.startswith("s32[]")
    ]
    if len(bounds) != 1:
        raise ValueError(f"loop {loop.name}: cannot tell how often it runs")
    return bounds[0]


def runs(module: Module) -> dict[str, int]:
    """How often each computation runs, those excepted that are part of an instruction."""
    counts: dict[str, int] = {}
    branches = ("to_apply", "branch_computations", "true_computation", "false_computation")

    def visit(name: str, times: int) -> None:
        counts[name] = counts.get(name, 0) + times
        for instruction in module.computations[name].values():
            if instruction.op == "while":
                for body in called(instruction, "body"):
                    visit(body, times * trip_count(module, instruction))
            elif instruction.op in ("call", "conditional"):
                for branch in called(instruction, *branches):
                    visit(branch, times)

    visit(module.entry, 1)
    return counts


def collectives(module: Module) -> list[Collective]:
    """Every collective of the program."""
    by_key: dict[str, Collective] = {}
    for name, instruction, times, scatters in _exchanges(module):
        chain = _chain(instruction)
        key = f"chain {chain}" if chain else f"{name} {instruction.name}"
        if key not in by_key:
            by_key[key] = _collective(module, name, instruction, times, scatters)
    return list(by_key.values())


def _exchanges(module: Module) -> Iterator[tuple[str, Instruction, int, bool]]:
    """Every instruction that is a collective, in fusions too: its computation, itself, how often it
    runs, and whether what is around it scatters its sum."""

    def look(name: str, times: int, scatters: bool) -> Iterator[tuple[str, Instruction, int, bool]]:
        for instruction in module.computations[name].values():
            if instruction.op.removesuffix("-start") in COLLECTIVES:
                yield name, instruction, times, scatters
            elif instruction.op in ("fusion", "async-start"):
                for inner in called(instruction, "calls"):
                    yield from look(inner, times, scatters or "all-reduce-scatter" in inner)

    for name, times in runs(module).items():
        yield from look(name, times, False)


def _chain(collective: Instruction) -> str | None:
    """The number of a collective that goes on through several fusions, each of which has it."""
    chain = re.search(r'chain_id="(\d+)"', collective.attributes)
    return chain[1] if chain and collective.op.removesuffix("-start") in COLLECTIVES else None


def _collective(
    module: Module, name: str, instruction: Instruction, times: int, scatters: bool
) -> Collective:
    kind = instruction.op.removesuffix("-start")
    group = _group(instruction.attributes)
    here = module.computations[name]
    given = sum(
        all_bytes(here[operand].type) for operand in instruction.operands if operand in here
    )
    others = len(group) - 1
    if kind == "all-reduce" and scatters:
        kind = "reduce-scatter"
    sent = {
        "all-gather": given * others,
        "all-reduce": 2 * given * others / len(group),
        "reduce-scatter": given * others / len(group),
        "all-to-all": given * others / len(group),
        "collective-permute": given,
    }[kind]
    return Collective(kind, times, group, sent)


def _group(attributes: str) -> tuple[int, ...]:
    """The devices of the first group: `{{0,1},{2,3}}`, `[2,4]<=[4,2]T(1,0)`, pairs, or
    `mesh['a'=2,'b'=4] {'b'}`, which may have `, device_ids=([4,2]T(1,0))` within."""
    if listed := re.search(r"(?:replica_groups|source_target_pairs)=\{\{([\d,]+)\}", attributes):
        return tuple(_numbers(listed[1]))
    order = r"\[([\d,]+)\](?:T\(([\d,]+)\))?"
    if tiled := re.search(rf"replica_groups=\[(\d+),(\d+)\]<={order}", attributes):
        devices = _ordered(tiled[3], tiled[4])
        return tuple(devices.reshape(int(tiled[1]), int(tiled[2]))[0].tolist())
    ids = rf"(?:, device_ids=\({order}\))?"
    if named := re.search(rf"replica_groups=mesh\[([^\]]*)\]{ids} ?\{{([^}}]*)\}}", attributes):
        sizes = {axis: int(n) for axis, n in re.findall(r"'(\w+)'=(\d+)", named[1])}
        devices = _ordered(named[2] or str(math.prod(sizes.values())), named[3])
        used = re.findall(r"'(\w+)'", named[4])
        first = tuple(slice(None) if axis in used else 0 for axis in sizes)
        return tuple(devices.reshape(list(sizes.values()))[first].reshape(-1).tolist())
    raise ValueError(f"a collective without its devices: {attributes[:200]}")


def _numbers(text: str) -> list[int]:
    return [int(n) for n in text.split(",")]


def _ordered(shape: str, transposed: str | None) -> np.ndarray:
    """The devices 0, 1, ... of this shape, transposed, in one line."""
    devices = np.arange(math.prod(_numbers(shape))).reshape(_numbers(shape))
    return devices.transpose(_numbers(transposed) if transposed else None).reshape(-1)


IN_PLACE = {"dynamic-update-slice": 1, "scatter": 2}  # which operand is what they write


def hbm_traffic(module: Module) -> float:
    """Bytes that the program reads from HBM and writes to it: operands and results of every
    instruction, of slices what they take. A collective that fusions carry on, one after the other,
    is counted once."""
    moved, chains = 0.0, {}
    for name, times in runs(module).items():
        here = module.computations[name]
        moved += times * sum(_moved(module, here, instruction) for instruction in here.values())
    for name, instruction, times, _ in _exchanges(module):
        if chain := _chain(instruction):
            here = module.computations[name]
            given = sum(in_hbm(here[operand].type) for operand in instruction.operands)
            chains[chain] = times * (in_hbm(instruction.type) + given)
    return moved + sum(chains.values())


def _moved(module: Module, here: dict[str, Instruction], instruction: Instruction) -> int:
    op = instruction.op
    if op in NO_TRAFFIC or op.endswith("-done"):
        return 0
    if op == "slice-start":
        return _started_slice(instruction.type)
    if op in ("copy-start", "copy", "dynamic-slice", "slice", "gather"):
        sizes = [size for size, hbm in arrays(instruction.type) if hbm]
        if op == "copy-start":
            return sum(sizes)
        return 2 * min((size for size, _ in arrays(instruction.type)), default=0)
    if op == "dynamic-update-slice":
        return 2 * in_hbm(here[instruction.operands[1]].type)
    operands = [here[name].type if name in here else "" for name in instruction.operands]
    if op != "fusion":
        return in_hbm(instruction.type) + sum(map(in_hbm, operands))
    inner = module.computations[called(instruction, "calls")[0]]
    parameters = {int(i.args): i.name for i in inner.values() if i.op == "parameter"}
    read = 0
    for index, type_ in enumerate(operands):
        whole = in_hbm(type_)
        if whole and index in parameters:
            whole = min(whole, _taken(module, inner, parameters[index], whole))
        read += whole
    return read + _written(inner, instruction)


def _started_slice(type_: str) -> int:
    """Bytes that an asynchronous slice moves. Its type is ((operand), slice, context): the slice is
    read where the operand lies and written where it says itself."""
    end = _closing(type_, 1) + 1
    operand = type_[1:end]
    size, written = next(arrays(type_[end:]))
    return size * (any(hbm for _, hbm in arrays(operand)) + written)


def _taken(module: Module, inner: dict[str, Instruction], parameter: str, whole: int) -> int:
    """Bytes that a fusion reads of a parameter: slices of it, if it only takes slices, itself or in
    a fusion inside of it (what a product's factor is made of)."""
    users = [i for i in inner.values() if parameter in i.operands]
    if not users:
        return 0
    taken = 0
    for user in users:
        if user.op in ("dynamic-slice", "slice") or (
            user.op == "gather" and user.operands[0] == parameter
        ):
            taken += all_bytes(user.type)
        elif user.op in IN_PLACE and user.operands[0] == parameter:
            continue  # written in place
        elif _chain(user) or (user.op == "tuple" and _carries(inner)):
            continue  # counted with its chain, or passed on as it is
        elif user.op == "bitcast":
            taken += _taken(module, inner, user.name, whole)
        elif user.op == "fusion":
            deeper = module.computations[called(user, "calls")[0]]
            names = {int(i.args): i.name for i in deeper.values() if i.op == "parameter"}
            for index, operand in enumerate(user.operands):
                if operand == parameter:
                    taken += _taken(module, deeper, names[index], whole)
        else:
            return whole
    return taken


def _carries(inner: dict[str, Instruction]) -> bool:
    """Whether a fusion carries a collective on: then what it passes on stays where it is."""
    return any(_chain(instruction) for instruction in inner.values())


def _written(inner: dict[str, Instruction], fusion: Instruction) -> int:
    """Bytes that a fusion writes: of an array that it updates in place, the update; of one that it
    passes on, or of a collective that it carries on, nothing."""
    written = in_hbm(fusion.type)
    for instruction in inner.values():
        if instruction.op == "tuple" and _carries(inner):
            results = (inner[name] for name in instruction.operands if name in inner)
            written -= sum(in_hbm(i.type) for i in results if i.op == "parameter" or _chain(i))
        if instruction.op in IN_PLACE:
            whole = all_bytes(instruction.type)
            if whole <= written:
                update = inner[instruction.operands[IN_PLACE[instruction.op]]]
                written += all_bytes(update.type) - whole
    return max(written, 0)
