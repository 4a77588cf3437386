"""Answers `GET` and `HEAD` below `/ui/` with the files of the page."""

from functools import lru_cache

from service.asgi import io, problems
from service.asgi.io import Headers, Receive, Scope, Send
from service.errors import printable
from service.page.files import PageFile, read_files

PREFIX = "/ui"
"""Path of the page, and its label in metrics."""

FILE_PATH = PREFIX + "/{path:path}"
"""Pattern of the paths of its files."""

POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)
"""What the page may load: files of its own origin, without inline scripts and styles."""

HEADERS: Headers = [
    (b"cache-control", b"no-cache"),  # stored, but checked by its ETag before each use
    (b"vary", b"accept-encoding"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", POLICY),
]
"""Headers of all files of the page."""

_GZIP = b"gzip"

MAX_SHOWN_PATH = 128
"""Longest path in the text of a 404, in characters."""


class PageApplication:
    """Answers `/ui/` and all below it, from memory."""

    def __init__(self) -> None:
        self.files = read_files()

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Answer a request."""
        file = self.files.get(scope["path_params"]["path"])
        if file is None:
            await self._refuse(scope, send)
            return
        request_headers = scope[io.HEADERS_BY_NAME]
        coding = _GZIP if accepts_gzip(request_headers.get(b"accept-encoding", b"")) else None
        headers = [*HEADERS, (b"etag", file.etag(coding))]
        if _has(request_headers.get(b"if-none-match", b""), file):
            await io.send(send, 304, headers, [])
            return
        content = file.compressed if coding else file.content
        headers += [
            (b"content-type", file.media_type),
            (b"content-length", b"%d" % len(content)),
        ]
        if coding:
            headers.append((b"content-encoding", coding))
        await io.send(send, 200, headers, [] if scope["method"] == "HEAD" else [content])

    async def _refuse(self, scope: Scope, send: Send) -> None:
        path = printable(scope["path"], MAX_SHOWN_PATH)
        answer = problems.refuse(404, f"no file {path}; the page begins at {PREFIX}/")
        scope[io.LOG_FIELDS].update(answer.log_fields)
        body = b"" if scope["method"] == "HEAD" else answer.body
        await io.send(send, 404, answer.headers, [body])


def wants_page(accept: bytes) -> bool:
    """Return whether the header Accept of a request for `/` is that of a browser.

    Browsers name `text/html`; programs accept `*/*` or JSON.
    """
    return any(item.partition(b";")[0].strip() == b"text/html" for item in accept.split(b","))


@lru_cache(maxsize=64)
def accepts_gzip(accept_encoding: bytes) -> bool:
    """Return whether a client reads gzip, by its header Accept-Encoding."""
    for item in accept_encoding.lower().split(b","):
        coding, _, parameters = item.partition(b";")
        if coding.strip() == _GZIP:
            name, _, weight = parameters.strip().partition(b"=")
            return name.strip() != b"q" or bool(weight.strip().strip(b"0."))
    return False


def _has(if_none_match: bytes, file: PageFile) -> bool:
    """Return whether a client has the file in one of its codings."""
    if if_none_match.strip() == b"*":
        return True
    return any(file.etag(coding) in if_none_match for coding in (None, _GZIP))
