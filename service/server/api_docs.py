"""The OpenAPI document of all routes, and the page `/docs` that shows the document offline."""

from collections.abc import Collection
from functools import cache
from html import escape
from string import Template
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse

from service.oip.infer.models import Model
from service.oip.openapi import document as oip
from service.v1 import openapi as v1
from service.v1 import recent_openapi as recent
from service.v1 import session_openapi as sessions

DESCRIPTION = """Rotary position embedding (RoPE) and attention as a service.

Start with `POST /v1/rotate`, which has examples. Bodies are JSON to try things out, and safetensors
in programs. Failures of `/v1` are problem documents (RFC 9457): programs read `code`, people read
`detail`. `/v2` is the Open Inference Protocol, for clients of KServe and Triton; the same protocol
over gRPC has its own port."""

TAGS = (
    {"name": v1.TAG, "description": "Compute: rotation, attention, positions, configs."},
    {
        "name": sessions.TAG,
        "description": "Keys and values that the service keeps between requests.",
    },
    {"name": "catalogue", "description": "What the service knows: models, variants, builders."},
    {"name": "status", "description": "Health, metrics, versions."},
    {
        "name": oip.TAG,
        "description": "Inference over `/v2`, with the clients of KServe and Triton.",
    },
    {"name": oip.CONTROL_TAG, "description": "Other routes of `/v2`: metadata, shared memory, ..."},
)
"""Groups of routes, in the order of the document and of the page."""

_FOLDED = oip.CONTROL_TAG

_PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>$title</title>
<link rel="shortcut icon" href="$root/static-offline-docs/favicon.png">
<link rel="stylesheet" href="$root/static-offline-docs/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="$root/static-offline-docs/swagger-ui-bundle.js"></script>
<script>
const ui = SwaggerUIBundle({
  url: "$root/openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  onComplete: () => {
    if (!location.hash) ui.layoutActions.show(["operations-tag", "$folded"], false);
  },
});
</script>
</body>
</html>
""")


def add_api_docs(app: FastAPI, models: Collection[Model], *, has_recent: bool) -> None:
    """Describe all routes in the document of an application, and add the page.

    Args:
        app: the application.
        models: of the Open Inference Protocol.
        has_recent: whether the application has `/v1/recent`.
    """
    describe = app.openapi  # has the routes that FastAPI knows

    def describe_all() -> dict[str, Any]:
        document = sessions.describe(v1.describe(describe()))
        if has_recent:
            document = recent.describe(document)
        return _sorted(oip.describe(document, models))

    app.openapi = cache(describe_all)  # type: ignore[method-assign]

    @app.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> HTMLResponse:
        root = escape(request.scope.get("root_path", ""))
        return HTMLResponse(_PAGE.substitute(title=app.title, root=root, folded=_FOLDED))


def _sorted(document: dict[str, Any]) -> dict[str, Any]:
    """Return a document whose paths are in the order of their tags."""
    order = [tag["name"] for tag in TAGS]

    def place(path: str) -> int:
        return min(order.index(each["tags"][0]) for each in document["paths"][path].values())

    paths = sorted(document["paths"], key=place)
    return document | {"paths": {path: document["paths"][path] for path in paths}}
