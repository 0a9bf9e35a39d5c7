# SPDX-License-Identifier: Apache-2.0
# pyright: reportMissingImports=false
"""One cell of the study of Adam in PyTorch: random labels, two tasks, an MLP of two hidden layers.

    python3 -m venv TORCH && TORCH/bin/pip install torch==2.13.0 numpy
    TORCH/bin/python tests/peers/plasticity.py --width 64 --steps 1500

training/recipes/plasticity/speed_bench.py times it against ours. It learns from as many random
numbers as there are pixels of the images, which costs the same, and measures what ours does:
accuracy over all images at each task's end, dead units four times.
"""

import argparse

if __name__ == "__main__":  # before what only its own environment has
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()

import torch
from torch import nn


def main(width: int, steps: int, threads: int) -> None:
    torch.set_num_threads(threads)
    x = torch.randn(5000, 784)
    network = nn.Sequential(
        *(nn.Linear(784, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()),
        nn.Linear(width, 10),
    )
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    loss_of = nn.CrossEntropyLoss()
    for _ in range(2):
        labels = torch.randint(0, 10, (5000,))
        for step in range(steps):
            index = torch.randint(0, 5000, (128,))
            optimizer.zero_grad()
            loss_of(network(x[index]), labels[index]).backward()
            optimizer.step()
            if (step + 1) % (steps // 2) == 0:
                with torch.no_grad():
                    first = network[:2](x[:1000])
                    second = network[2:4](first)
                    shares = [float((a == 0).all(0).float().mean()) for a in (first, second)]
        with torch.no_grad():
            accuracy = float((network(x).argmax(1) == labels).float().mean())
        print(accuracy, shares)


if __name__ == "__main__":
    main(arguments.width, arguments.steps, arguments.threads)
