"""TensorBoard in a headless browser, for tests and for the figures of the guide."""

from __future__ import annotations

import contextlib
import importlib.util
import pathlib
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

_SECONDS_TO_START = 60.0
_MS_TO_SHOW = 120_000
_MS_OF_ZOOM = 1000
_LOADING = "tf-graph-board .container.loading"
_NODE = "g.nodes g.node"
_RUNS = "tf-graph-controls paper-dropdown-menu"


def installed() -> bool:
    """Whether TensorBoard is there to be started."""
    return importlib.util.find_spec("tensorboard") is not None


@contextlib.contextmanager
def serving(log_dir: pathlib.Path) -> Iterator[str]:
    """Runs TensorBoard in a process of its own, which ends with the block.

    Args:
        log_dir: The folder that holds the runs.

    Yields:
        Its address.

    Raises:
        RuntimeError: If it doesn't answer; with what it printed.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    output = log_dir.with_name(f"{log_dir.name}.tensorboard.txt")
    flags = ["--logdir", log_dir, "--host", "127.0.0.1", "--port", port, "--load_fast", "false"]
    command = [sys.executable, "-m", "tensorboard.main", *map(str, flags)]
    with output.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        try:
            address = f"http://127.0.0.1:{port}"
            if not _answers(process, f"{address}/data/runs"):
                said = output.read_text(encoding="utf-8", errors="replace")
                raise RuntimeError(f"TensorBoard does not answer at {address}:\n{said}")
            yield address
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _answers(process: subprocess.Popen[bytes], address: str) -> bool:
    """Waits until TensorBoard has read the runs."""
    end = time.monotonic() + _SECONDS_TO_START
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            runs = urllib.request.urlopen(address, timeout=5).read()
            if runs.strip() not in (b"", b"[]"):
                return True
        time.sleep(0.2)
    return False


class GraphTab:
    """The Graphs tab of one run.

    Args:
        page: A Playwright page.
        address: Where TensorBoard is.
        run: The run to show.
    """

    def __init__(self, page: Any, address: str, run: str) -> None:
        self.page = page
        page.set_default_timeout(_MS_TO_SHOW)
        page.goto(f"{address}/#graphs")
        page.wait_for_selector(_NODE)
        if page.locator(f"{_RUNS} input").first.input_value() != run:
            page.locator(_RUNS).first.click()
            with page.expect_response(
                lambda reply: "/graph?" in reply.url and f"run={run}" in reply.url
            ):
                page.locator(f"{_RUNS} paper-item", has_text=run).first.click()
            # Until the other run is drawn, the nodes of this one are still there.
            page.wait_for_selector(_LOADING, state="detached")
        self._settle()

    def nodes(self) -> list[str]:
        """Names of the nodes that are shown."""
        return self.page.eval_on_selector_all(
            _NODE, "nodes => nodes.map(n => n.getAttribute('data-name'))"
        )

    def expand(self, name: str) -> None:
        """Opens a node and waits for what is in it.

        Args:
            name: Full name of a node that is shown and collapsed.
        """
        self._shape(name).dispatch_event("dblclick")
        opened = f'g.node.expanded[data-name="{name}"]'
        self.page.wait_for_selector(opened, state="attached")
        self._settle()

    def select(self, name: str) -> None:
        """Clicks on a node, so that TensorBoard tells about it in a card.

        Args:
            name: Full name of a node that is shown.
        """
        self._shape(name).dispatch_event("click")
        self.page.locator("tf-node-info").first.wait_for()

    def picture(self, name: str, path: pathlib.Path) -> None:
        """Takes a picture of a node and what is in it, and of nothing else.

        Args:
            name: Full name of a node that is shown.
            path: The PNG to write.
        """
        box = self.page.locator(f'g.node[data-name="{name}"]').first.bounding_box()
        # What floats above the graph would hide parts of it.
        floating = "tf-node-info, tf-graph-minimap, .minimap-container { visibility: hidden }"
        self.page.screenshot(path=path, clip=box, style=floating)

    def _shape(self, name: str) -> Any:
        """The drawing of a node, without what is in it."""
        node = self.page.locator(f'g.node[data-name="{name}"]').first
        return node.locator("> .nodeshape").first

    def _settle(self) -> None:
        """Waits for the zoom that follows: TensorBoard animates it."""
        self.page.wait_for_timeout(_MS_OF_ZOOM)
