"""The error of a file that asks for a password."""

from __future__ import annotations

from vivace.errors import IngestError


class NeedsPassword(IngestError):
    """The file is encrypted; `given` is whether a password was tried."""

    def __init__(self, source: str, *, given: bool) -> None:
        super().__init__(
            source,
            "is protected by another password than the one given"
            if given
            else "is protected by a password",
            fix="Give it as --password or the setting parse.password",
        )
        self.given = given
