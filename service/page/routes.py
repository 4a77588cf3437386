"""Routes of the page: `GET` and `HEAD` below `/ui/`."""

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from service.page.files import PageFile, read_files

PREFIX = "/ui"
"""Path of the page, and its label in metrics."""

HEADERS = {
    "cache-control": "no-cache",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
    ),
}
"""Headers of all files of the page."""


def page_routes() -> list[Route]:
    """Return the routes of the page."""
    page_files = read_files()

    async def redirect(_: Request) -> Response:
        return Response(status_code=307, headers={"location": "ui/"})

    async def answer(request: Request) -> Response:
        file = page_files.get(request.path_params["name"])
        if file is None:
            raise HTTPException(404)
        return _response(request, file)

    return [Route(PREFIX, redirect), Route(PREFIX + "/{name:path}", answer)]


def _response(request: Request, file: PageFile) -> Response:
    headers = HEADERS | {"etag": file.etag}
    if file.etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(file.content, headers=headers, media_type=file.media_type)
