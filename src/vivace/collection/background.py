"""One thread that keeps a collection in shape while nobody waits for it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress

from vivace.run.background import BackgroundExecutor, short_switch_interval
from vivace.run.work import Priority, work_context

_NICENESS = 10


class Background:
    """Runs `work` on a thread of low priority whenever it is woken; never twice at once.

    `work` does everything there is to do and reports its own failures. It runs on `executor`, so
    at lowered priority while questions arrive.
    """

    def __init__(self, work: Callable[[], None], executor: BackgroundExecutor) -> None:
        self._work = work
        self._executor = executor
        self._changed = threading.Condition()
        self._wanted = self._busy = self._closed = False
        self._thread: threading.Thread | None = None

    def wake(self) -> None:
        """There may be something to do."""
        with self._changed:
            if self._closed:
                return
            self._wanted = True
            if self._thread is None:
                # most processes never write: they need no thread
                self._thread = threading.Thread(
                    target=self._run, name="vivace-background", daemon=True
                )
                self._thread.start()
            self._changed.notify_all()

    def drain(self) -> None:
        """Wait until there is nothing left to do."""
        with self._changed:
            self._changed.wait_for(lambda: not (self._wanted or self._busy) or self._closed)

    def close(self) -> None:
        """Finish what was begun and stop. Idempotent."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _do(self) -> None:
        with work_context(Priority.BACKGROUND), short_switch_interval:
            self._work()

    def _run(self) -> None:
        with suppress(OSError):  # Linux counts niceness by thread
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._wanted or self._closed)
                if not self._wanted:
                    return
                self._wanted, self._busy = False, True
            try:
                self._executor.call(self._do)
            finally:
                with self._changed:
                    self._busy = False
                    self._changed.notify_all()
