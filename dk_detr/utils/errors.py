"""Errors that say of whom they are."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def errors_of(whom: str) -> Iterator[None]:
    """A ValueError or OSError of the block begins with `whom`; of files that are not there it stays a
    FileNotFoundError, other errors of the system become ValueErrors."""
    try:
        yield
    except (ValueError, OSError) as error:
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
        raise kind(f"{whom}: {error}") from error
