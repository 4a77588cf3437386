"""Routes of the page, and the redirects that lead there."""

from starlette.requests import Request
from starlette.responses import RedirectResponse
from starlette.routing import Route

from service.page.application import FILE_PATH, PREFIX, PageApplication, wants_page


def page_routes() -> list[Route]:
    """Return the routes of the page."""

    async def redirect(_: Request) -> RedirectResponse:
        return redirect_to_page()

    methods = ["GET", "HEAD"]
    return [
        Route(PREFIX, redirect, methods=methods),
        Route(FILE_PATH, PageApplication(), methods=methods),
    ]


def redirect_to_page() -> RedirectResponse:
    """Return the redirect from `/` or `/ui` to the page.

    The location is relative, because a proxy may serve the service below a prefix.
    """
    return RedirectResponse("ui/", 307, headers={"vary": "accept"})


def is_browser(request: Request) -> bool:
    """Return whether a request for `/` is that of a browser."""
    return wants_page(request.headers.get("accept", "").encode("latin-1"))
