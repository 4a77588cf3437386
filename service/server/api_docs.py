"""The OpenAPI document of all routes, and the page `/docs` that shows the document offline."""

from base64 import b64encode
from collections.abc import Collection
from functools import cache
from hashlib import sha256
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
<script>$script</script>
</body>
</html>
""")

_SCRIPT = Template("""
const ui = SwaggerUIBundle({
  url: "$root/openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  onComplete: () => {
    if (!location.hash) ui.layoutActions.show(["operations-tag", "$folded"], false);
  },
});
""")

_POLICY = (
    "default-src 'none'; script-src 'self' 'sha256-{digest}'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'self'"
)
"""What the page may load: its script is allowed by its hash. Swagger UI sets styles of elements."""


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
        script = _SCRIPT.substitute(root=root, folded=_FOLDED)
        digest = b64encode(sha256(script.encode()).digest()).decode()
        page = _PAGE.substitute(title=app.title, root=root, script=script)
        return HTMLResponse(page, headers=_headers(digest))


def _headers(digest: str) -> dict[str, str]:
    """Return the headers of the page; `digest` is that of its script."""
    return {
        "content-security-policy": _POLICY.format(digest=digest),
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
    }


def _sorted(document: dict[str, Any]) -> dict[str, Any]:
    """Return a document whose paths are in the order of their tags."""
    order = [tag["name"] for tag in TAGS]

    def place(path: str) -> int:
        return min(order.index(each["tags"][0]) for each in document["paths"][path].values())

    paths = sorted(document["paths"], key=place)
    return document | {"paths": {path: document["paths"][path] for path in paths}}
