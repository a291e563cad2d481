"""The account of one step of a training, which somebody else drives."""

from __future__ import annotations

import contextlib

from nested_fad_tf.report.allocations import Account, Recording

# Steps by their number, from 0.
_SIZED, MEASURED = 1, 2


class ThirdStep:
    """Measures the third of the steps that it is told of.

    The first traces; the second tells the sizes of the buffers that the third replaces.

        third = ThirdStep()
        for number, batch in enumerate(batches):
            third.begin(number)
            step(batch)
            third.end(number)

    Args:
        across_workers: As `Recording` takes it.

    Attributes:
        account: What was measured; `None` before the end of the third step, and where the
            allocator can't tell.
    """

    def __init__(self, *, across_workers: bool = False) -> None:
        self.account: Account | None = None
        self._recording = Recording(across_workers=across_workers)
        self._marked = contextlib.ExitStack()

    def begin(self, step: int) -> None:
        """What is to be done before a step.

        Args:
            step: Its number, from 0.

        Raises:
            tf.errors.OpError: As `Recording.start`, before the second step; whoever goes on after
                it has no account.
        """
        if step == _SIZED:
            self._recording.start()
        if step == MEASURED:
            self._marked.enter_context(self._recording.marked())

    def end(self, step: int) -> None:
        """What is to be done after a step.

        Args:
            step: Its number, from 0.
        """
        if step == MEASURED:
            self.stop()

    def stop(self) -> None:
        """Stops the profiler, also where the training ends before its third step."""
        self._marked.close()
        self.account = next(iter(self._recording.stop()), self.account)
