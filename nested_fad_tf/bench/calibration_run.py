"""Measures prices, shows them beside the defaults, and writes them where later runs find them."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

from rich import console as rich_console
from rich import progress as rich_progress

from nested_fad_tf.bench import calibration, command
from nested_fad_tf.errors import CostsError
from nested_fad_tf.graph import devices
from nested_fad_tf.ops.entry import Cost
from nested_fad_tf.ops.heavy import Kind
from nested_fad_tf.plan import price_files
from nested_fad_tf.plan.prices import Prices
from nested_fad_tf.report import files

_HEADER = """\
# Written by `nested-fad-tf bench --calibrate`. Plans on this machine are made with it; delete it to
# go back to the defaults.
"""


@dataclasses.dataclass(frozen=True)
class Row:
    """One price.

    Attributes:
        what: The class of ops, or the kind of work.
        how: "by itself" or "in a group", empty for heavy work.
        size: Bytes of the tensor it was measured with; None where size plays no part.
        seconds: Seconds for a byte, or for a unit of work.
        price: The same in bytes.
        default_price: What the default says.
    """

    what: str
    how: str
    size: int | None
    seconds: float
    price: float
    default_price: float


def run_calibration(
    json_path: pathlib.Path | None = None, console: rich_console.Console | None = None, **sizes: Any
) -> Prices:
    """Measures, prints a table, and writes the file that later runs read.

    Args:
        json_path: Where to write the table's rows, too; None for nowhere.
        console: Where progress is shown; stderr by default.
        **sizes: What `calibration.measure_prices` is to measure, if not all.

    Returns:
        The prices.

    Raises:
        CostsError: If the environment asks for the default prices, so that nothing would read the
            file.
    """
    kind = devices.kind_of_most([""])
    file = price_files.file_of(kind)
    if file is None:
        raise CostsError(
            f"{price_files.VARIABLE}={price_files.DEFAULT}: nothing that is measured would be used;"
            " unset it, or let it name a file"
        )
    columns = (
        rich_progress.TextColumn("{task.description}"),
        rich_progress.BarColumn(),
        rich_progress.MofNCompleteColumn(),
        rich_progress.TimeElapsedColumn(),
    )
    console = console or rich_console.Console(stderr=True)
    with rich_progress.Progress(*columns, console=console) as bars:
        task = bars.add_task("measuring", total=None)

        def show(done: int, total: int, text: str) -> None:
            bars.update(task, completed=done, total=total, description=text)

        prices = calibration.measure_prices(progress=show, **sizes)
    found = rows(prices)
    print(f"{prices.device}, {prices.source}\n")
    print(command.markdown(found, _COLUMNS))
    print(f"\na second is worth {prices.bytes_per_second / 2**20:.0f} MiB at tradeoff=1")
    _write(file, prices)
    if json_path is not None:
        content = {
            "device": prices.device,
            "source": prices.source,
            "bytes_per_second": prices.bytes_per_second,
            "prices": [dataclasses.asdict(row) for row in found],
        }
        files.write_json(json_path, content)
    print(f"later runs on this machine plan with {file}")
    return prices


def _write(file: pathlib.Path, prices: Prices) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    files.write(file, (_HEADER + prices.to_toml()).encode())
    price_files.forget()


def rows(prices: Prices) -> list[Row]:
    """The rows of the table.

    Args:
        prices: What was measured.

    Returns:
        A row for each class, place and size, and for each kind of heavy work.
    """
    default = price_files.shipped(prices.device)
    found = []
    for fused, how, seconds in (
        (False, "by itself", prices.apart),
        (True, "in a group", prices.fused),
    ):
        for cost in Cost:
            for size, value in zip(prices.sizes, seconds[cost], strict=True):
                own, other = (p.rate(cost, size, fused=fused) for p in (prices, default))
                found.append(Row(cost.value, how, size, value, own, other))
    for kind in Kind:
        own, other = (p.working(kind, 1.0) for p in (prices, default))
        found.append(Row(kind.value, "", None, prices.work[kind], own, other))
    own, other = (p.kept_by_group - 1.0 for p in (prices, default))
    return [*found, Row("write out", "of a group", None, prices.write_out, own, other)]


def _size(row: Row) -> str:
    if row.size is None:
        return "-"
    return f"{row.size >> 20} MiB" if row.size >= 1 << 20 else f"{row.size >> 10} KiB"


_COLUMNS: list[command.Column] = [
    ("class", lambda row: row.what),
    ("where", lambda row: row.how),
    ("size", _size),
    ("seconds", lambda row: f"{row.seconds:.2e}"),
    ("price in bytes", lambda row: f"{row.price:.2g}"),
    ("default", lambda row: f"{row.default_price:.2g}"),
]
