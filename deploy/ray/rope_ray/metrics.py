"""A second Ray application: the metrics of all replicas of the service as one page."""

from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.requests import Request
from starlette.responses import Response

from rope_ray.merge import merge

TIMEOUT_S = 5.0
"""Seconds that replicas have to send their metrics."""

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@serve.deployment(ray_actor_options={"num_cpus": 0.1})
class Metrics:
    """Answers each scrape with the current metrics of all replicas.

    Args:
        app: name of the application of the service.
        deployment: name of its deployment.
    """

    def __init__(self, app: str, deployment: str) -> None:
        self._app, self._deployment = app, deployment

    async def __call__(self, request: Request) -> Response:
        """Return the page; 401 or 403 without a key that may read it.

        503 if a replica did not send its metrics in time.
        """
        if request.method not in ("GET", "HEAD"):
            return Response("GET only\n", 405)
        handle: DeploymentHandle = serve.get_deployment_handle(self._deployment, self._app)
        try:
            authorization = [v.encode() for v in request.headers.getlist("authorization")]
            scrapes = await handle.broadcast("metrics", authorization).results_async(
                timeout_s=TIMEOUT_S
            )
        except Exception as failure:  # a replica that dies raises one of many
            return Response(f"no metrics: {type(failure).__name__}\n", 503)
        refusal = next((scrape.refusal for scrape in scrapes if scrape.refusal), None)
        if refusal is not None:
            response = Response(refusal.body, refusal.status)
            response.raw_headers = refusal.headers
            return response
        return Response(
            merge((scrape.replica, scrape.page) for scrape in scrapes), media_type=CONTENT_TYPE
        )


def build(args: dict[str, str]) -> serve.Application:
    """Return the application; named in the config file of `serve deploy`."""
    return Metrics.bind(args.get("app", "rope"), args.get("deployment", "Rope"))
