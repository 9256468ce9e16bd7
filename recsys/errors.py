"""Everything that can go wrong, as one small tree; translated once, at the edge that meets the caller.

RecsysError
├── InputError             the caller sent or wrote something wrong (HTTP 4xx, exit code 2)
│   ├── DataFileError      a file: names the file, the line or column, and what was expected
│   ├── EventError         an event: names the field and the bound
│   ├── ModelFolderError   a model folder: names the file in it and what is wrong with it
│   └── NotFoundError      an id that does not exist (404)
├── ConflictError          it cannot be as it was asked for, everything stays as it was (409)
└── UnavailableError       the service cannot do it now (503); carries `retry_after_s`
    └── OverloadedError    refused on purpose to protect the accepted work
"""

from __future__ import annotations

from pathlib import Path


class RecsysError(Exception):
    """Base of all errors this project raises on purpose."""


class InputError(RecsysError):
    """The input is wrong; the message names the field and the bound."""

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class DataFileError(InputError):
    """A data file is not what was expected."""

    def __init__(self, path: Path | str, expected: str, *, line: int | None = None, column: str | None = None) -> None:
        where = str(path)
        if line is not None:
            where += f", line {line}"
        if column is not None:
            where += f", column {column!r}"
        super().__init__(f"{where}: {expected}", field=column)
        self.path = Path(path)
        self.line = line
        self.column = column


class EventError(InputError):
    """An event cannot be applied."""


class ModelFolderError(InputError):
    """A model folder is missing something or does not fit this code."""


class NotFoundError(InputError):
    """No such id."""


class ConflictError(RecsysError):
    """What was asked for cannot be; everything stays as it was."""


class UnavailableError(RecsysError):
    """The service cannot answer now; try again after `retry_after_s` seconds."""

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class OverloadedError(UnavailableError):
    """Refused to protect the work that was already accepted."""
