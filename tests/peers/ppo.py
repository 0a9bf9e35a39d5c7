# SPDX-License-Identifier: Apache-2.0
# pyright: reportMissingImports=false
r"""PPO by Stable-Baselines3, with the networks and settings of our own.

    python3 -m venv SB3
    SB3/bin/pip install torch==2.13.0 stable-baselines3==2.9.2 'gymnasium[mujoco]' 'mujoco<4' \
        MinAtar
    SB3/bin/python tests/peers/ppo.py hopper --steps 20480

training/recipes/rl/speed_bench.py times it against ours, and compares returns. hopper: Hopper-v5 as
training/recipes/rl/host_environments.py shows it, two ReLU layers of 64 for the actor and for the
critic, a tanh-normal whose scale depends on the state, 2 environments x 1,024 steps, 10 epochs.
minatar: MinAtar's Breakout without sticky actions, a convolution of 16 channels and a layer of 128
for either network, 8 environments x 128 steps, 4 epochs. PyTorch's default values at the start.
What differs: one Adam and one clipped gradient for both networks.

Prints a last line of JSON: steps_per_second, and the returns of the last tenth of all episodes.
"""

import argparse

if __name__ == "__main__":  # before what only its own environment has
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("task", choices=("hopper", "minatar"))
    parser.add_argument("--steps", type=int, default=20480)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()

import json
import math
import time

import gymnasium
import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.distributions import SquashedDiagGaussianDistribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor
from torch import nn

RANDOM_STEPS = 1000
TIME_LIMIT = 1000  # of an episode of Hopper


class TanhNormalPolicy(ActorCriticPolicy):
    """The network says location and scale."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._squash_output = True

    def _build(self, lr_schedule):
        super()._build(lr_schedule)
        dimensions = self.action_space.shape[0]
        self.action_net = nn.Linear(self.mlp_extractor.latent_dim_pi, 2 * dimensions)
        self.action_dist = SquashedDiagGaussianDistribution(dimensions)
        del self.log_std
        self.optimizer = self.optimizer_class(
            self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs
        )

    def _get_action_dist_from_latent(self, latent_pi):
        loc, raw = self.action_net(latent_pi).chunk(2, -1)
        scale = nn.functional.softplus(raw + math.log(math.e - 1)).clamp(min=1e-4)
        return self.action_dist.proba_distribution(loc, scale.log())


class Standardised(gymnasium.ObservationWrapper):
    """By what random actions meet, with the time of the episode behind."""

    def __init__(self, environment, mean, std):
        super().__init__(environment)
        self.mean, self.std, self.elapsed = mean, std, 0
        size = len(mean) + 1
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float32)

    def reset(self, **options):
        self.elapsed = 0
        return super().reset(**options)

    def step(self, action):
        self.elapsed += 1
        return super().step(action)

    def observation(self, observation):
        share = self.elapsed / TIME_LIMIT
        return np.append((observation - self.mean) / self.std, share).astype(np.float32)


class Floats(gymnasium.ObservationWrapper):
    """Channels first, as floats."""

    def __init__(self, environment):
        super().__init__(environment)
        height, width, channels = environment.observation_space.shape
        self.observation_space = gymnasium.spaces.Box(
            0.0, 1.0, (channels, height, width), np.float32
        )

    def observation(self, observation):
        return np.moveaxis(observation, -1, 0).astype(np.float32)


class MinAtarNetwork(BaseFeaturesExtractor):
    """A convolution of 16 channels and a layer of 128."""

    def __init__(self, observation_space):
        super().__init__(observation_space, 128)
        channels, height, width = observation_space.shape
        self.layers = nn.Sequential(
            *(nn.Conv2d(channels, 16, 3), nn.ReLU(), nn.Flatten()),
            *(nn.Linear(16 * (height - 2) * (width - 2), 128), nn.ReLU()),
        )

    def forward(self, observations):
        return self.layers(observations)


def hopper(seed):
    measured = gymnasium.make("Hopper-v5")
    measured.action_space.seed(seed)
    rows = [measured.reset(seed=seed)[0]]
    for _ in range(RANDOM_STEPS):
        observation, _, terminated, truncated, _ = measured.step(measured.action_space.sample())
        rows.append(observation)
        if terminated or truncated:
            rows.append(measured.reset()[0])
    mean, std = np.mean(rows, 0), np.std(rows, 0)

    def make():
        return Standardised(gymnasium.make("Hopper-v5"), mean, std)

    settings = {"n_steps": 1024, "batch_size": 64, "n_epochs": 10, "learning_rate": 3e-4}
    settings |= {"clip_range": 0.2, "ent_coef": 0.0}
    policy = {"net_arch": {"pi": [64, 64], "vf": [64, 64]}, "activation_fn": nn.ReLU}
    return VecMonitor(DummyVecEnv([make] * 2)), TanhNormalPolicy, settings, policy


def minatar(seed):
    from minatar.gym import register_envs

    register_envs()

    def make():
        return Floats(gymnasium.make("MinAtar/Breakout-v1", sticky_action_prob=0.0))

    settings = {"n_steps": 128, "batch_size": 256, "n_epochs": 4, "learning_rate": 2.5e-4}
    settings |= {"clip_range": 0.1, "ent_coef": 0.01}
    policy = {"features_extractor_class": MinAtarNetwork, "net_arch": []}
    policy |= {"share_features_extractor": False, "normalize_images": False}
    return VecMonitor(DummyVecEnv([make] * 8)), ActorCriticPolicy, settings, policy


def main(task, steps, seed, threads):
    torch.set_num_threads(threads)
    environments, policy_class, settings, policy = (hopper if task == "hopper" else minatar)(seed)
    model = PPO(
        policy_class,
        environments,
        seed=seed,
        device="cpu",
        policy_kwargs={"ortho_init": False, **policy},
        gamma=0.99,
        gae_lambda=0.95,
        stats_window_size=10**9,
        **settings,
    )
    began = time.monotonic()
    model.learn(steps)
    seconds = time.monotonic() - began
    returns = [float(episode["r"]) for episode in model.ep_info_buffer]
    last = returns[-max(1, len(returns) // 10) :]
    print(json.dumps({"steps_per_second": model.num_timesteps / seconds, "returns": last}))


if __name__ == "__main__":
    main(arguments.task, arguments.steps, arguments.seed, arguments.threads)
