"""The resident set of a process, and how far one call raises it in this one (Linux).

This is what the operating system sees: allocator, scratch space of kernels, Python, everything. It
is the check on the allocator's own account of a step. The numbers are exact only where the C
library gives freed memory back at once, so start the process with the variables of
`EXACT_ENVIRONMENT`.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable

EXACT_ENVIRONMENT: dict[str, str] = {
    # Without this, oneDNN builds of TensorFlow keep freed tensors in a pool of their own.
    "TF_ONEDNN_USE_SYSTEM_ALLOCATOR": "1",
    # glibc: map every buffer of 64 KiB or more by itself and unmap it when it is freed.
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
}

_CLEAR_REFS = pathlib.Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # proc(5): writing 5 resets the peak resident set (VmHWM) to the current one.


def _status_bytes(field: str, process: int | str = "self") -> int:
    status = pathlib.Path(f"/proc/{process}/status")
    for line in status.read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"{status} has no field {field}")


def largest_resident(process: int) -> int:
    """The largest resident set that a running process had.

    Args:
        process: Its id.

    Returns:
        The size in bytes.

    Raises:
        RuntimeError: If the system doesn't tell.
    """
    return _status_bytes("VmHWM", process)


def largest_data() -> int:
    """The most that this process had of memory of its own, allocated and written or not.

    Returns:
        The size in bytes: what it has now, and by how much its resident set was larger once.

    Raises:
        RuntimeError: If the system doesn't tell.
    """
    return _status_bytes("VmData") + _status_bytes("VmHWM") - _status_bytes("VmRSS")


def resident_peak(call: Callable[[], object]) -> tuple[int, int]:
    """Runs a call and reads how far the resident set rose.

    Args:
        call: What to run, once; it should have run before, so that nothing is compiled in it.

    Returns:
        The rise above the resident set before the call, and the peak itself, both in bytes.

    Raises:
        RuntimeError: Where /proc does not offer a resettable peak (not Linux, or a locked-down
            container).
    """
    try:
        _CLEAR_REFS.write_text(_RESET_PEAK)
        before = _status_bytes("VmRSS")
    except OSError as error:
        raise RuntimeError(f"the peak resident set cannot be measured here: {error}") from error
    result = call()
    peak = _status_bytes("VmHWM")
    del result  # Held until here: what a step returns is part of what it needs.
    return max(0, peak - before), peak
