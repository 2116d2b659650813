"""The memory of tensors on a CPU."""

import ctypes

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # of glibc's mallopt


def keep_freed_memory() -> bool:
    """Let glibc keep the memory of freed tensors for the next ones; returns whether it could be told to.

    By default it hands large blocks back to the system and is given them again empty, page by page, for the next
    tensor: a tenth to a third of a step on a CPU. Memory in use may be a little higher: kept blocks do not always fit.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library
        return False
    return all(mallopt(*setting) for setting in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1), (M_TOP_PAD, 2**26)))
