"""Where a rule's value differs from TensorFlow's gradient, and why that is right or harmless.

``python tests/ops/known_differences.py`` writes the table into docs/ops.md.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Final

DOCS: Final = pathlib.Path(__file__).parents[2] / "docs" / "ops.md"
START, END = "<!-- differences: start -->", "<!-- differences: end -->"


@dataclasses.dataclass(frozen=True)
class Difference:
    """One known difference.

    Attributes:
        where: At which inputs.
        tensorflow: What TensorFlow gives there.
        ours: What the rule gives.
        why: The reason, and why it may stay.
    """

    where: str
    tensorflow: str
    ours: str
    why: str


_BESSEL = Difference(
    "x near 0", "cancelled digits", "other cancelled digits", "i0 - y / x cancels in both"
)
_IGAMMA = Difference(
    "a or x beyond 1e19", "0", "nan", "an intermediate overflows; the density is 0 there"
)
_NONE = "TensorFlow registers no gradient; checked against finite differences"

# By op and by the inputs that are differentiated by, one after the other.
DIFFERENCES: Final[Mapping[tuple[str, tuple[int, ...]], Difference]] = {
    ("BesselI0", (0, 0)): Difference("x = 0", "1", "1/2", "the gradient of BesselI1, see there"),
    ("BesselI1", (0,)): Difference("x = 0", "1", "1/2", "I1'(0) is 1/2: TensorFlow's is wrong"),
    ("BesselI1", (0, 0)): _BESSEL,
    ("BesselI1e", (0, 0)): _BESSEL,
    ("BesselJ1", (0, 0)): _BESSEL,
    ("FakeQuantWithMinMaxArgsGradient", (0,)): Difference("everywhere", "none", "mask", _NONE),
    ("Igamma", (1, 1)): _IGAMMA,
    ("Igammac", (1, 1)): _IGAMMA,
    ("Pow", (0, 1)): Difference(
        "denormal x in float16", "finite", "inf", "x ** (y - 1) is computed before it is scaled"
    ),
    ("SoftplusGrad", (0, 1)): Difference(
        "large x", "exact", "lost digits", "through sigmoid's y * (1 - y), as for Softplus itself"
    ),
    ("SoftplusGrad", (1, 1)): Difference(
        "x near 0 in float16", "cancelled digits", "other cancelled digits", "exp(x) - exp(-x)"
    ),
    ("Softsign", (0, 0)): Difference("everywhere", "none", "exact", _NONE),
    ("SoftsignGrad", (0,)): Difference("everywhere", "none", "exact", _NONE),
    ("SoftsignGrad", (1,)): Difference("everywhere", "none", "exact", _NONE),
    ("SoftsignGrad", (0, 1)): Difference("everywhere", "none", "exact", _NONE),
    ("SoftsignGrad", (1, 0)): Difference("everywhere", "none", "exact", _NONE),
    ("SoftsignGrad", (1, 1)): Difference("everywhere", "none", "exact", _NONE),
    ("SqrtGrad", (0, 0)): Difference(
        "y beyond 1e19", "0", "the tiny value", "TensorFlow's intermediate underflows"
    ),
    ("Xdivy", (1, 1)): Difference("y beyond 1e19", "0", "nan", "y * y overflows"),
    ("Zeta", (1, 0)): Difference(
        "everywhere", "a part of it", "refused", "TensorFlow takes zeta's own derivative by x as 0"
    ),
}

# A gradient op's (or another linear op's) output is its factor times the input, except here.
FACTOR_DIFFERENCES: Final[Mapping[str, Difference]] = {
    "RsqrtGrad": Difference(
        "y beyond 1e12, in float16 beyond 50",
        "finite for a tiny dy",
        "inf",
        "y ** 3 overflows where dy * y doesn't; keep rsqrt of small numbers in float32",
    ),
}


def markdown() -> str:
    """The tables as they stand in the documentation."""
    titles = ("op", "by input", "where", "TensorFlow", "here", "why")
    head = f"| {' | '.join(titles)} |\n|{' --- |' * len(titles)}\n"
    rows = [
        (op, ", then ".join(map(str, by)), entry) for (op, by), entry in DIFFERENCES.items()
    ] + [(op, "factor * dy", entry) for op, entry in FACTOR_DIFFERENCES.items()]
    return head + "".join(
        f"| {op} | {by} | {d.where} | {d.tensorflow} | {d.ours} | {d.why} |\n" for op, by, d in rows
    )


def documented() -> str:
    """What the documentation has."""
    return DOCS.read_text().split(START)[1].split(END)[0].strip()


def main() -> None:
    """Puts the tables into the documentation."""
    before, rest = DOCS.read_text().split(START)
    DOCS.write_text(f"{before}{START}\n\n{markdown()}\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main()
