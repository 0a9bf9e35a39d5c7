# SPDX-License-Identifier: Apache-2.0
"""Replicas of a server behind Ray Serve; requests of one session go to one replica.

    pip install "ray[serve]>=2.60"
    serve run examples.serving.ray_serve:app path=runs/demo replicas=2 slots=8

A session is what the header X-Session-Id says: `OpenAI(default_headers={"X-Session-Id": "alice"})`.
Its replica has the states of its beginnings in the prefix cache, so that a chat's next turn reads
only what is new, as on one server. Requests without the header go anywhere.
"""

import time

from fastapi import FastAPI
from pydantic import BaseModel
from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, RequestRouterConfig
from ray.serve.experimental.consistent_hash_router import ConsistentHashRouter

from checkpoints.hub_names import title
from serving.engine.engine import Engine
from serving.engine.thread import EngineThread
from serving.features.constraints import Constraints
from serving.features.prefix_cache import PrefixCache
from serving.http.server import create_app


class Arguments(BaseModel):
    path: str
    replicas: int = 2  # at first, and at least
    most_replicas: int = 2
    slots: int = 8
    queue: int = 256
    cache: float = 1.0  # GiB of each replica's device
    cpus: float = 1
    gpus: float = 0


def engine(arguments: Arguments) -> Engine:
    import recurrentgemma as rg

    lm = rg.load(arguments.path)
    made = Engine(
        lm,
        slots=arguments.slots,
        constrained=True,
        constraints=None if lm.tokenizer is None else Constraints(lm.tokenizer),
        cache=PrefixCache(device_bytes=int(arguments.cache * 2**30), host_bytes=0),
    )
    made.warm_up()
    return made


def app(arguments: Arguments) -> Application:
    """What `serve run` deploys."""

    def replica() -> FastAPI:
        """On a replica: it takes requests once its model is ready."""
        thread = EngineThread(lambda: engine(arguments), max_waiting=arguments.queue)
        thread.start()
        while thread.status == "loading":
            time.sleep(0.1)
        if thread.error is not None:
            raise thread.error
        answers = create_app(thread, model_name=title(arguments.path))

        @answers.get("/replica", include_in_schema=False)
        async def name() -> dict[str, str]:
            return {"replica": serve.get_replica_context().replica_tag}

        return answers

    deployment = serve.deployment(
        serve.ingress(replica)(),
        name="griffin",
        max_ongoing_requests=arguments.slots + arguments.queue,
        autoscaling_config=AutoscalingConfig(
            min_replicas=arguments.replicas,
            max_replicas=max(arguments.replicas, arguments.most_replicas),
            target_ongoing_requests=arguments.slots,
        ),
        request_router_config=RequestRouterConfig(request_router_class=ConsistentHashRouter),
        ray_actor_options={"num_cpus": arguments.cpus, "num_gpus": arguments.gpus},
    )
    return deployment.bind()
