"""The application of the service; named in the config file of `serve deploy`."""

from pydantic import BaseModel
from ray import serve
from ray.serve.config import RequestRouterConfig

from rope_ray.replica import Replica
from rope_ray.router import OwnerRouter


class Arguments(BaseModel, extra="forbid"):
    """`args` of the application in the config file."""

    direct: bool = False
    """Whether each replica also listens on the address of its node. The answer that creates a
    session then has this address in `X-Session-Endpoint`."""


Rope = serve.deployment(
    Replica,
    name="Rope",
    request_router_config=RequestRouterConfig(request_router_class=OwnerRouter),
)


def build(args: Arguments) -> serve.Application:
    """Return the application."""
    return Rope.bind(args.direct)
