"""Utilities: what any room may need and none is about: files that appear whole, choices by name, figures
of a step, errors that say of whom they are."""

from dk_detr.utils.choose import choose, require
from dk_detr.utils.errors import errors_of
from dk_detr.utils.files import as_json, atomic_file, atomic_write, read_json, read_json_list, with_nan
from dk_detr.utils.record import current_iteration, record, record_later, record_now, timed

__all__ = [
    "as_json", "atomic_file", "atomic_write", "choose", "current_iteration", "errors_of", "read_json", "read_json_list",
    "record", "record_later", "record_now", "require", "timed", "with_nan",
]  # fmt: skip
