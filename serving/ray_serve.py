# SPDX-License-Identifier: Apache-2.0
"""Replicas of a server behind Ray Serve; requests of one session go to one replica.

    pip install 'griffin-lm[ray]'
    serve run serving.ray_serve:app path=runs/demo replicas=2 slots=8 sessions=/shared/sessions

What `griffin serve` has as options is an argument here, by its name (`max_prompt=4096`,
`load_adapters=true`, `adapters="poems=runs/poems law=runs/law"`), beside those of
ReplicaArguments. Keys are those of GRIFFIN_API_KEYS where this is called.

Whose requests belong together is what the header X-Session-Id says:
`OpenAI(default_headers={"X-Session-Id": "alice"})`. Their replica has the states of their
beginnings in its prefix cache, so that a chat's next turn reads only what is new, as on one server.
Requests without the header go anywhere.
"""

import dataclasses
import os
import shlex
import sys
import time
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import tyro

from checkpoints.ray_cluster import other_version, package_version, share_of
from recurrentgemma.errors import UserError, did_you_mean
from serving.engine.thread import EngineThread
from serving.http.options import ServerOptions
from serving.http.request_log import log_requests_to
from serving.http.server import create_app
from serving.serve_engine import make_engine, served_name
from serving.serve_options import ServeArguments, server_options

if TYPE_CHECKING:
    from fastapi import FastAPI

OF_RAY = {"host": "http_options.host", "port": "http_options.port"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReplicaArguments(ServeArguments):
    replicas: int = 2
    """How many there are at first, and at least."""
    most_replicas: int = 0
    """How many there may be where requests wait for slots. 0: as many as `replicas`."""
    cpus: float = 1.0
    """CPUs that each takes of its machine."""
    gpus: float = 0.0
    """GPUs that each takes."""


def app(given: dict[str, str]) -> Any:
    """What `serve run` deploys (ray.serve.Application). Raises UserError: an argument cannot be."""
    from ray import serve  # type: ignore[import-not-found]
    from ray.serve.config import (  # type: ignore[import-not-found]
        AutoscalingConfig,
        RequestRouterConfig,
    )
    from ray.serve.experimental.consistent_hash_router import (  # type: ignore[import-not-found]
        ConsistentHashRouter,
    )

    arguments = parsed(given)
    options = server_options(arguments)
    version, directory = package_version(), os.getcwd()

    def new() -> "FastAPI":  # a function, as Ray wants
        return _replica(arguments, options, version, directory)

    deployment = serve.deployment(
        serve.ingress(new)(),
        name="griffin",
        max_ongoing_requests=arguments.slots + arguments.queue,
        autoscaling_config=AutoscalingConfig(
            min_replicas=arguments.replicas,
            max_replicas=max(arguments.replicas, arguments.most_replicas),
            target_ongoing_requests=arguments.slots,
        ),
        graceful_shutdown_timeout_s=arguments.drain,
        request_router_config=RequestRouterConfig(request_router_class=ConsistentHashRouter),
        ray_actor_options=share_of(arguments.cpus, arguments.gpus),
    )
    return deployment.bind()


def parsed(given: Mapping[str, str]) -> ReplicaArguments:
    """What `serve run`'s KEY=VALUE say. Raises UserError: see `app`."""
    kinds = {field.name: field.type for field in dataclasses.fields(ReplicaArguments)}
    command = []
    for key, value in given.items():
        name = key.split(".")[0]
        if name in OF_RAY:
            raise UserError(f"{key} is Ray Serve's: set {OF_RAY[name]} of its configuration")
        if name not in kinds:
            raise UserError(f"{key}={value}: there is no such argument{did_you_mean(key, kinds)}")
        option = f"--{key.replace('_', '-')}"
        if name == "path":
            command.append(value)
        elif kinds[name] is bool:
            if value.lower() not in ("true", "false"):
                raise UserError(f"{key}={value}: expected true or false")
            command.append(option if value.lower() == "true" else f"--no-{option[2:]}")
        else:
            values = shlex.split(value) if kinds[name] == tuple[str, ...] else [value]
            command += [option, *values]
    if "path" not in given:
        raise UserError("path=PATH is missing: a run, a checkpoint, or a model's name on a hub")
    try:
        arguments = tyro.cli(ReplicaArguments, prog="serve run serving.ray_serve:app", args=command)
    except SystemExit:
        raise UserError("these arguments cannot be, for the reason above") from None
    if arguments.replicas < 1:
        raise UserError(f"replicas={arguments.replicas}: expected 1 or more")
    if 0 < arguments.most_replicas < arguments.replicas:
        raise UserError(
            f"most_replicas={arguments.most_replicas}: expected {arguments.replicas} (replicas) or "
            "more, or 0"
        )
    if arguments.adapting and max(arguments.replicas, arguments.most_replicas) > 1:
        raise UserError(
            "adapting with several replicas: what a session has learned is in one server's memory; "
            "give replicas=1"
        )
    return arguments


def _replica(
    arguments: ReplicaArguments, options: ServerOptions, version: str, directory: str
) -> "FastAPI":
    """On a replica: it takes requests once its model is ready. directory: from which paths are
    relative, if it is there."""
    from ray import serve  # type: ignore[import-not-found]

    if (refusal := other_version(version)) is not None:
        raise UserError(refusal)
    if os.path.isdir(directory):
        os.chdir(directory)
    thread = EngineThread(partial(make_engine, arguments), max_waiting=arguments.queue)
    thread.start()
    while thread.status == "loading":
        time.sleep(0.1)
    if thread.error is not None:
        raise thread.error
    if arguments.log_requests:
        log_requests_to(sys.stdout)
    answers = create_app(thread, model_name=served_name(arguments), options=options)

    @answers.get("/replica", include_in_schema=False)
    async def name() -> dict[str, str]:
        return {"replica": serve.get_replica_context().replica_tag}

    return answers
