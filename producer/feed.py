"""Feed: from what freezes and what enqueues to two threads that do both at once, and what fails in them."""

from collections.abc import Callable, Iterator
from queue import SimpleQueue
from threading import Event, Thread


class Feed:
    """Freezes manifest parts as fast as keys are listed, and enqueues frozen ones as fast as the queue has room.

    Listing does not wait for the queue, so the number of images is soon known. The threads are no daemons: a
    script that ends without waiting still leaves a whole run behind.
    """

    def __init__(self, freeze: Iterator[int], enqueue: Callable[[Iterator[int]], int], stopped: Event) -> None:
        """`freeze` yields the number of each part that stands; `enqueue` takes them and counts chunks."""
        self._freeze = freeze
        self._enqueue = enqueue
        self._stopped = stopped
        self._frozen: SimpleQueue[int | None] = SimpleQueue()
        self._errors: list[Exception] = []
        self._sent: int | None = None
        self._threads = [
            Thread(target=self._freeze_all, name="freezer"),
            Thread(target=self._send_all, name="enqueuer"),
        ]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End before the next page and the next batch; what is frozen and enqueued stays."""
        self._stopped.set()

    def end(self) -> None:
        """Stop, and wait until both threads are gone; raises nothing."""
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    @property
    def running(self) -> bool:
        """Whether keys are still being listed or chunks enqueued."""
        return any(thread.is_alive() for thread in self._threads)

    @property
    def sent(self) -> int | None:
        """Chunks that were enqueued; None while that goes on."""
        return self._sent

    def check(self) -> None:
        """Raise what went wrong so far."""
        if self._errors:
            self._stopped.set()
            raise self._errors[0]

    def join(self, timeout_s: float | None = None) -> bool:
        """Wait until everything is enqueued, and raise what went wrong; False where that takes longer."""
        for thread in self._threads:
            thread.join(timeout_s)
        self.check()
        return not self.running

    def _freeze_all(self) -> None:
        try:
            for part in self._freeze:
                self._frozen.put(part)
        except Exception as error:  # noqa: BLE001 - raised by `check`, in the thread of whoever waits
            self._errors.append(error)
        finally:
            self._frozen.put(None)

    def _send_all(self) -> None:
        try:
            self._sent = self._enqueue(iter(self._frozen.get, None))
        except Exception as error:  # noqa: BLE001 - as above
            self._errors.append(error)
            self._stopped.set()
