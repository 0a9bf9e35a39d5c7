# SPDX-License-Identifier: Apache-2.0
# pyright: reportMissingImports=false
"""A linear hypernetwork on the hyperteacher in PyTorch, with a loop over the tasks of a step.

    python3 -m venv TORCH && TORCH/bin/pip install torch==2.13.0 numpy
    TORCH/bin/python tests/peers/modular.py --steps 16

training/recipes/modular/speed_bench.py times it against ours: the same networks, points, inner
AdamW steps, which are differentiated through, and outer AdamW behind a clipped norm. Prints a last
line of JSON: steps_per_second after the first quarter, and the last loss.
"""

import argparse

if __name__ == "__main__":  # before what only its own environment has
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", type=int, default=16)
    parser.add_argument("--shots", type=int, default=64)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--templates", type=int, default=16)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()

import json
import random
import time

import torch
from torch.nn import functional

INPUTS, TEACHER, OUTPUTS, MODULES, LAYERS = 16, 16, 8, 4, 2
MOMENTS, TEMPERATURE = 128, 0.1
RATE, DECAY, INNER = 0.3, 1e-4, 10


def teacher():
    weights = {
        "first": torch.randn(INPUTS, TEACHER),
        "theta": torch.randn(LAYERS, MODULES, TEACHER, TEACHER),
        "last": torch.randn(TEACHER, OUTPUTS),
        "moments": 2 * torch.rand(MOMENTS, INPUTS) - 1,
    }

    def raw(code, x):
        hidden = torch.relu(x @ weights["first"] / INPUTS**0.5)
        for layer in range(LAYERS):
            mixed = torch.einsum("m,mhg->hg", code[layer], weights["theta"][layer])
            hidden = torch.relu(hidden @ mixed / TEACHER**0.5)
        return hidden @ weights["last"] / TEACHER**0.5

    def draw(shots):
        code = torch.zeros(LAYERS, MODULES)
        for layer in range(LAYERS):
            code[layer, random.sample(range(MODULES), random.randint(1, 2))] = 1.0
        usual = raw(code, weights["moments"])
        mean, std = usual.mean(0), usual.std(0, correction=0) + 1e-6
        points = []
        for _ in range(2):
            x = 2 * torch.rand(shots, INPUTS) - 1
            points.append((x, torch.softmax((raw(code, x) - mean) / std / TEMPERATURE, -1)))
        return points

    return draw


def outputs(shared, fast, x, shapes):
    codes, bias = fast
    for number, (fan_in, fan_out) in enumerate(shapes):
        bank = shared[0 if number == 0 else 2 if number == len(shapes) - 1 else 1]
        code = codes[number]
        scale = len(code) ** 0.5 / (code.detach().norm() + 1e-5)
        flat = (code * scale) @ bank
        split = fan_in * fan_out
        x = x @ flat[:split].view(fan_in, fan_out) / fan_in**0.5 + flat[split:]
        if number < len(shapes) - 1:
            x = torch.relu(x)
    return x + bias


def loss_of(logits, target):
    return functional.kl_div(functional.log_softmax(logits, -1), target, reduction="batchmean")


def adapted(shared, fast, x, y, shapes):
    """Inner AdamW steps, kept in the graph."""
    first = [torch.zeros_like(p) for p in fast]
    second = [torch.zeros_like(p) for p in fast]
    for step in range(1, INNER + 1):
        gradients = torch.autograd.grad(
            loss_of(outputs(shared, fast, x, shapes), y), fast, create_graph=True
        )
        moved = []
        for n, (p, gradient) in enumerate(zip(fast, gradients, strict=True)):
            first[n] = 0.9 * first[n] + 0.1 * gradient
            second[n] = 0.999 * second[n] + 0.001 * gradient**2
            square = second[n] / (1 - 0.999**step)
            move = first[n] / (1 - 0.9**step) / ((square + 1e-12).sqrt() + 1e-8)
            moved.append(p - RATE * (move + DECAY * p))
        fast = moved
    return fast


def main(arguments):
    torch.set_num_threads(arguments.threads)
    width, templates = arguments.width, arguments.templates
    shapes = [(INPUTS, width), (width, width), (width, width), (width, OUTPUTS)]
    banks = [shapes[0], shapes[1], shapes[3]]
    shared = [
        (torch.randn(templates, i * o + o) * templates**-0.5).requires_grad_() for i, o in banks
    ]
    limit = (3 / templates) ** 0.5
    codes = (limit * (2 * torch.rand(len(shapes), templates) - 1)).requires_grad_()
    bias = torch.zeros(OUTPUTS, requires_grad=True)
    optimizer = torch.optim.AdamW([*shared, codes, bias], lr=3e-3, weight_decay=1e-2)
    draw, times = teacher(), []
    for _ in range(arguments.steps):
        optimizer.zero_grad()
        value = 0.0
        for _ in range(arguments.tasks):
            (x, y), query = draw(arguments.shots)
            fast = adapted(shared, [codes, bias], x, y, shapes)
            loss = loss_of(outputs(shared, fast, query[0], shapes), query[1]) / arguments.tasks
            loss.backward()
            value += float(loss)
        torch.nn.utils.clip_grad_norm_([*shared, codes, bias], 1.0)
        optimizer.step()
        times.append(time.monotonic())
    first = len(times) // 4
    rate = (len(times) - 1 - first) / (times[-1] - times[first])
    print(json.dumps({"steps_per_second": rate, "loss": value}))


if __name__ == "__main__":
    main(arguments)
