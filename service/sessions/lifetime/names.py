"""The sessions of one tenant: their names, and lists of them."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import count, islice

from rope_core.kvcache.cache import KVCache
from service.errors import BadQuery, printable
from service.sessions.errors import NameTaken
from service.sessions.lifetime.session import Session

DEFAULT_LIMIT = 100
"""Sessions of a page of a list."""

MAX_LIMIT = 1000
"""Most sessions of a page."""


class TenantSessions:
    """The live sessions of one tenant, in the order of their creation."""

    def __init__(self) -> None:
        self._sessions: dict[int, Session] = {}
        self._names: dict[str, Session] = {}
        self._numbers = count(1)
        self.arriving: set[KVCache] = set()
        """Caches of imports in progress. They are no sessions yet, and count in the quota."""

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[Session]:
        return iter(self._sessions.values())

    def next_number(self) -> int:
        """Return the number of the next session."""
        return next(self._numbers)

    def find(self, name: str) -> Session | None:
        """Return the session that has a name."""
        return self._names.get(name)

    def check_free(self, name: str) -> None:
        """Raise NameTaken if a session has the name."""
        if name in self._names:
            raise NameTaken(f"another session has the name {printable(name)}")

    def add(self, session: Session) -> None:
        """Add a session; its name is free."""
        self._sessions[session.number] = session
        if session.name is not None:
            self._names[session.name] = session

    def rename(self, session: Session, name: str | None) -> None:
        """Change the name of a session, or remove it. Raises NameTaken."""
        if name == session.name:
            return
        if name is not None:
            self.check_free(name)
            self._names[name] = session
        if session.name is not None:
            del self._names[session.name]
        session.name = name

    def remove(self, session: Session) -> None:
        """Remove a session; its name is free again."""
        del self._sessions[session.number]
        if session.name is not None:
            del self._names[session.name]

    def page(
        self, *, after: int = 0, labels: Sequence[str] = (), name: str | None = None, limit: int
    ) -> tuple[list[Session], int | None]:
        """Return the next sessions of a list, and the number of the last one if there are more.

        Args:
            after: number of the last session of the page before.
            labels: a session must have all of them.
            name: a session must have this name.
            limit: most sessions of the page.
        """
        page = [*islice(self._matching(after, set(labels), name), limit + 1)]
        if len(page) <= limit:
            return page, None
        return page[:limit], page[limit - 1].number

    def _matching(self, after: int, labels: set[str], name: str | None) -> Iterator[Session]:
        candidates: Iterable[Session] = self
        if name is not None:
            named = self._names.get(name)
            candidates = [] if named is None else [named]
        for session in candidates:
            if session.number > after and labels.issubset(session.labels):
                yield session


def check_limit(limit: int | str | None) -> int:
    """Return the length of a page. Raises BadQuery if it is not a number from 1 to 1,000."""
    text = str(DEFAULT_LIMIT if limit is None else limit)
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= 4 else 0
    if not 1 <= number <= MAX_LIMIT:
        raise BadQuery(f"limit must be a number from 1 to {MAX_LIMIT}, got {printable(text)}")
    return number


def write_cursor(epoch: str, number: int) -> str:
    """Return the text of a cursor."""
    return f"{epoch}.{number}"


def read_cursor(epoch: str, cursor: str | None) -> int:
    """Return the number in a cursor; 0, the beginning, if the cursor is of another epoch.

    Raises:
        BadQuery: the text is no cursor.
    """
    if cursor is None:
        return 0
    of, dot, number = cursor.rpartition(".")
    if not (dot and number.isascii() and number.isdigit() and len(number) <= 18):
        raise BadQuery(f"cursor must be the `next_cursor` of a list, got {printable(cursor)}")
    return int(number) if of == epoch else 0
