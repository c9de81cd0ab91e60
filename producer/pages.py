"""Pages: what a listing yields (ListedKey); from slow pages to the same pages, fetched one ahead in a thread."""

from collections.abc import Generator
from datetime import datetime
from queue import SimpleQueue
from threading import Event, Semaphore, Thread
from typing import NamedTuple


class ListedKey(NamedTuple):
    """One key and what the listing says of it; a manifest may know no more than the key."""

    key: str
    size: int | None = None
    etag: str | None = None
    last_modified: datetime | None = None
    label: str | None = None


Pages = Generator[list[ListedKey], None, None]


def one_ahead(pages: Pages) -> Pages:
    """The same pages; while one is being read, a thread fetches the next and no more than that."""
    fetched: SimpleQueue[list[ListedKey] | BaseException | None] = SimpleQueue()
    room, closed = Semaphore(1), Event()

    def fetch() -> None:
        try:
            while room.acquire() and not closed.is_set():
                page = next(pages, None)
                fetched.put(page)
                if page is None:
                    return
        except BaseException as error:  # noqa: BLE001 - raised again by the reader, in its own thread
            fetched.put(error)

    Thread(target=fetch, name="lister", daemon=True).start()
    try:
        while (page := fetched.get()) is not None:
            if isinstance(page, BaseException):
                raise page
            room.release()
            yield page
    finally:
        closed.set()
        room.release()
