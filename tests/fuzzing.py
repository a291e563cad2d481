"""Compares many random training steps with their rewrites: scripts/fuzz runs it."""

from __future__ import annotations

import argparse
import collections
import random
import sys
import time

import random_graphs
from absl import logging
from random_graphs import Program

import nested_fad_tf as nfad

STRATEGIES = ("auto", "recompute", "forward_ad")
BUDGETS = (None, 0.5, 1)  # the last one is met by none: all that can be is computed again
DTYPES = ("float32", "float64", "bfloat16", "float16")


def main() -> int:
    """Runs the comparison.

    Returns:
        0 if all results agree, else 1.
    """
    arguments = _parse()
    logging.set_verbosity(logging.ERROR)  # budgets that aren't met are warned of
    rng = random.Random(arguments.seed)
    counts: collections.Counter[str] = collections.Counter()
    start = time.perf_counter()
    for number in range(arguments.examples):
        program = random_graphs.program(rng.getrandbits(63), DTYPES[: rng.choice([1, 1, 1, 4])])
        compiled = rng.random() < arguments.xla
        strategy = rng.choice(STRATEGIES)
        options = nfad.Options(
            strategy=strategy,
            budget=None if strategy == "forward_ad" else rng.choice(BUDGETS),
            fuse=rng.choice(("xla", "auto")) if compiled else "ops",
            min_bytes=program.min_bytes,
        )
        forced = rng.random() < 0.3
        outcome = random_graphs.compare(program, options, forced)
        counts.update(examples=1, rewritten=outcome.changed, identical=outcome.identical)
        if outcome.problem:
            counts.update(wrong=1)
            _show(program, options, forced, outcome.problem, arguments.shrink)
        if (number + 1) % arguments.every == 0:
            seconds = time.perf_counter() - start
            print(f"{seconds:6.0f} s  {dict(counts)}", flush=True)
        if counts["wrong"] >= arguments.stop_after:
            break
    print(f"{dict(counts)} in {time.perf_counter() - start:.0f} s")
    return 1 if counts["wrong"] else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description=__doc__)
    parser.add_argument("--examples", type=int, default=2000, help="how many (default 2000)")
    parser.add_argument("--seed", type=int, default=0, help="of the programs (default 0)")
    parser.add_argument("--xla", type=float, default=0.05, help="share that is compiled (slow)")
    parser.add_argument("--every", type=int, default=50, help="examples between progress lines")
    parser.add_argument("--stop-after", type=int, default=5, help="counterexamples to stop at")
    parser.add_argument("--no-shrink", dest="shrink", action="store_false")
    return parser.parse_args()


def _show(
    program: Program, options: nfad.Options, forced: bool, problem: str, shrink: bool
) -> None:
    """Prints a counterexample as a script, made smaller where it still fails the same way."""
    kind = problem.split(":")[0].startswith("call")

    def fails(other: Program) -> bool:
        try:
            found = random_graphs.compare(other, options, forced).problem
        except Exception:  # plain TensorFlow can't run it
            return False
        return bool(found) and found.split(":")[0].startswith("call") == kind

    if shrink:
        program = random_graphs.shrink(program, fails)
        problem = random_graphs.compare(program, options, forced).problem
    print(f"\n==== {problem}{' (forced)' if forced else ''}\n{program.script(options)}\n====\n")


if __name__ == "__main__":
    sys.exit(main())
