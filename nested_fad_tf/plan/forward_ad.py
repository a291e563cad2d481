"""Strategy "forward_ad": nested forward-mode AD as published (Guo et al., arXiv 2209.10778).

Every region of element-wise backward ops is replaced by multiplications with its derivatives, which
the forward pass computes and keeps in place of the values they are computed from, wherever that
keeps no more than TensorFlow does. Nothing is recomputed, but what is spread from smaller values
(plan/spread.py) is spread again. With a lossy precision derivatives are kept in a narrower format
(plan/narrow.py).
"""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Mapping

from nested_fad_tf.graph.nodes import Node, Value
from nested_fad_tf.ops.expr import Const, Expr, Leaf, is_const, masks
from nested_fad_tf.options import Options
from nested_fad_tf.plan.candidates import Candidates
from nested_fad_tf.plan.chains import find_chains
from nested_fad_tf.plan.factor import Region, find_regions
from nested_fad_tf.plan.gates import Gates
from nested_fad_tf.plan.groups import grouped, unchanged
from nested_fad_tf.plan.lower import NotLowerableError, broadcast_shape
from nested_fad_tf.plan.narrow import Narrowing, narrow_note
from nested_fad_tf.plan.plan import NOTHING_GAINED, Decision, Keep, Plan, nothing, worthwhile
from nested_fad_tf.plan.prompt import Prompt
from nested_fad_tf.plan.rewrite import Rewrite, RewriteBuilder
from nested_fad_tf.plan.shapes import fold_shapes
from nested_fad_tf.plan.shelf import Shelf, split
from nested_fad_tf.plan.sources import values_of
from nested_fad_tf.plan.spread import find_spread, redirect_readers
from nested_fad_tf.plan.stages import Stages
from nested_fad_tf.plan.storage import Format
from nested_fad_tf.plan.wiring import Wiring

_DERIVATIVE = "a chain's derivative: the backward pass is one multiplication with it"
_BESIDE = "derivatives are computed from it and from what is kept beside it"
_AS_TODAY = "read by the backward pass"
_COMPILED = "jit_compile=True: the compiler moves derivatives back into the backward pass"


# A region, and the formats of its derivatives, or parts of them, that aren't kept as they are.
_Chosen = tuple[Region, Mapping[Expr, Format]]


@dataclasses.dataclass(frozen=True)
class _Attempt:
    rewrite: Rewrite
    derivatives: tuple[Keep, ...]
    replaced: frozenset[int]  # ids of backward nodes
    spread: frozenset[int]  # ids of values that are kept as what they are spread from


def plan(candidates: Candidates, options: Options) -> Plan:
    """Plans by factoring the backward pass.

    Args:
        candidates: The buffers of the forward pass.
        options: What may be done.

    Returns:
        The plan; empty where the simulated peak would not fall.
    """
    before = unchanged(candidates, options)
    if candidates.view.compiled:
        return nothing(candidates, options.strategy, before, _COMPILED)
    spread = find_spread(candidates)
    narrowing = Narrowing(candidates, options, spread)
    chosen = _choose(candidates, find_regions(candidates), spread, narrowing)
    attempt = _rewrite(candidates, chosen, spread, narrowing)
    if not attempt.rewrite:
        return nothing(candidates, options.strategy, before)
    rewrite, after = grouped(candidates, attempt.rewrite, options)
    if not worthwhile(before, after):
        return nothing(candidates, options.strategy, before)
    still = [
        candidates.view.values[root]
        for root, readers in candidates.needed.items()
        if root not in attempt.spread
        and any(node.id not in attempt.replaced for node, _ in readers)
    ]
    read = _read_late(candidates, rewrite)
    derivatives = tuple(k for k in attempt.derivatives if k.value.id in read)
    listed = {keep.value.id for keep in derivatives}
    kept = derivatives + tuple(Keep(v, _AS_TODAY) for v in still if v.id not in listed)
    return Plan(
        options.strategy,
        rewrite,
        tuple(Keep(v, _AS_TODAY) for v in candidates.kept_today),
        kept,
        _decisions(candidates, still),
        before,
        after,
        note=narrow_note(derivatives, options.precision),
    )


def _choose(
    candidates: Candidates,
    regions: list[Region],
    spread: frozenset[int],
    narrowing: Narrowing,
) -> list[_Chosen]:
    """The regions whose derivatives take no more than what they replace.

    A value that somebody else reads in the backward pass is kept anyway, so a region frees only
    what it alone reads; the order of regions matters little, since chains end where regions do.
    """
    readers = Counter({root: len(rs) for root, rs in candidates.needed.items()})
    chosen = []
    for region in regions:
        members = {node.id for node in region.nodes}
        reads = Counter(
            root for root, rs in candidates.needed.items() for node, _ in rs if node.id in members
        )
        own = {root for root, count in reads.items() if readers[root] == count} - spread
        spared = sum(candidates.view.values[root].nbytes for root in own)
        if not spared:
            continue
        ways: list[_Chosen] = [(region, {}), (region, narrowing.formats(region))]
        nbytes = [_bytes_of(candidates, way, own, spread, narrowing) for way in ways]
        if min(nbytes) <= spared:
            chosen.append(ways[nbytes.index(min(nbytes))])
            readers.subtract(reads)
    return chosen


def _bytes_of(
    candidates: Candidates,
    way: _Chosen,
    own: set[int],
    spread: frozenset[int],
    narrowing: Narrowing,
) -> int:
    """What keeping a region's derivatives takes beyond what is kept anyway."""
    region, formats = way
    total = 0
    roots: dict[int, Value] = {}
    parts: set[Expr] = set()
    for derivative in {d for row in region.derivatives.values() for d in row.values()}:
        stored, values = split(derivative, formats)
        parts.update(stored)
        if stored or isinstance(derivative, Leaf):
            roots |= {v.storage.id: v.storage for v in values if v.id not in spread}
        elif not isinstance(derivative, Const):
            total += narrowing.nbytes(derivative, region.dtype, None)
    total += sum(narrowing.nbytes(part, region.dtype, formats[part]) for part in parts)
    kept = (root for id, root in roots.items() if id in own and not candidates.free[id])
    return total + sum(root.nbytes for root in kept)


def _rewrite(
    candidates: Candidates,
    chosen: list[_Chosen],
    spread: frozenset[int],
    narrowing: Narrowing,
) -> _Attempt:
    builder = RewriteBuilder(candidates.view)
    prompt = Prompt(candidates, builder)
    stages, gates = Stages(candidates), Gates(builder)
    derivatives: dict[int, Keep] = {}
    replaced: set[int] = set()
    for region, formats in chosen:
        shelf = Shelf(builder, region, formats, spread)
        try:
            hold = functools.partial(_hold, builder, gates, stages)
            made = _replace(candidates, region, formats, narrowing, shelf, builder, hold)
            _release(candidates, region, builder)
        except NotLowerableError:
            continue
        derivatives.update({keep.value.id: keep for keep in made})
        for stored in shelf.stored.values():
            keep = stored.keep(_DERIVATIVE)
            derivatives[keep.value.id] = keep
            source = narrowing.latest_source(stored.derivative)
            assert source is not None
            if stored.parts:
                prompt.run_early(source, stored.parts[0].node)
        for derivative, value in shelf.computed.items():
            source = narrowing.latest_source(derivative)
            if source is not None and value.node.id > source:
                prompt.run_early(source, value.node)
        replaced.update(node.id for node in region.nodes)
    spread = redirect_readers(candidates, spread, frozenset(replaced), builder)
    if replaced or spread:
        fold_shapes(candidates, builder)
    # To wait for what nobody reads any more would revive it.
    live = Wiring(candidates.view, builder.build()).live
    gates.close({id: [n for n in ends if live[n.id]] for id, ends in stages.ends.items()})
    kept = tuple(derivatives.values())
    return _Attempt(builder.build(), kept, frozenset(replaced), spread)


def _replace(
    candidates: Candidates,
    region: Region,
    formats: Mapping[Expr, Format],
    narrowing: Narrowing,
    shelf: Shelf,
    builder: RewriteBuilder,
    hold: Callable[[int, Value], None],
) -> list[Keep]:
    """Replaces a region by products; gives what is kept as it is."""
    made: list[Keep] = []
    results: dict[Value, Value] = {}
    members = {node.id for node in region.nodes}
    for out, row in region.derivatives.items():
        terms = []
        for cotangent, derivative in row.items():
            if is_const(derivative, 1):
                terms.append(cotangent)
                continue
            first = len(builder.nodes)
            stored, values = split(derivative, formats)
            if stored:
                factor = shelf.bring_back(derivative, stored, values, cotangent)
                kept = [v for v in values if narrowing.is_kept(Leaf(v))]
                made.extend(Keep(v.storage, _BESIDE) for v in kept)
            else:
                factor = shelf.as_it_is(derivative, cotangent)
                if narrowing.is_kept(derivative):
                    made.append(Keep(factor.storage, _DERIVATIVE))
            times = "MulNoNan" if masks(derivative) else "Mul"
            terms.append(_binary(builder, times, cotangent, factor, out.node))
            hold(first, cotangent)
        if not terms:
            raise NotLowerableError(f"{out} is zero")
        results[out] = terms[0]
        for term in terms[1:]:
            results[out] = _binary(builder, "AddV2", results[out], term, out.node)
        if results[out].shape != out.shape:
            raise NotLowerableError(f"{out} would get another shape")
    for out, result in results.items():
        for reader, index in candidates.view.consumers[out.id]:
            if reader.id not in members:
                builder.redirect(reader, index, result)
    return made


def _hold(
    builder: RewriteBuilder, gates: Gates, stages: Stages, first: int, cotangent: Value
) -> None:
    """Lets products wait for the ends of the stages before, with what is brought back for them.

    Else an executor runs down the chain of cotangents first: see plan/recompute.py.
    """
    stage = stages.anchors[cotangent.node.id]
    for node in builder.nodes[first:]:
        if cotangent.node in node.controls or cotangent in node.inputs:
            gates.hold(node, stage)


def _read_late(candidates: Candidates, rewrite: Rewrite) -> set[int]:
    """Ids of the buffers that what the rewrite adds to the backward pass reads.

    An output of a region that is read for its shape alone, or not at all once that is known, needs
    no derivative.
    """
    wiring = Wiring(candidates.view, rewrite)
    late = [*candidates.roles.cotangent, *[False] * len(rewrite.nodes)]
    read: set[int] = set()
    for node in rewrite.nodes:
        before = [*(v.node for v in node.inputs), *node.controls]
        late[node.id] = any(late[other.id] for other in before)
        if late[node.id] and wiring.live[node.id]:
            read.update(v.storage.id for v in node.inputs)
    return read


def _release(candidates: Candidates, region: Region, builder: RewriteBuilder) -> None:
    """Lets everything that a region's derivatives are computed from run in the forward pass."""
    stack = [
        v.node for row in region.derivatives.values() for d in row.values() for v in values_of(d)
    ]
    seen: set[int] = set()
    while stack:
        node = stack.pop()
        if node.id in seen or not candidates.late[node.id]:
            continue
        seen.add(node.id)
        if candidates.is_tied_factor(node):
            builder.release(node)
        stack.extend(v.node for v in node.inputs)


def _binary(builder: RewriteBuilder, op_type: str, a: Value, b: Value, origin: Node) -> Value:
    shape = broadcast_shape([a, b])
    node = builder.add(op_type, [a, b], [(a.dtype, shape)], origin=origin, attrs={"T": a.dtype})
    return node.outputs[0]


def _decisions(candidates: Candidates, still: list[Value]) -> tuple[Decision, ...]:
    kept_ids = {v.id for v in still}
    spared = [v for v in candidates.kept_today if v.id not in kept_ids]
    # A factor that nothing but the backward pass is for belongs to no chain: to that it reads from.
    touched = {v.id for v in spared} | {i.storage.id for v in spared for i in v.node.inputs}
    decisions = []
    for chain in find_chains(candidates):
        kept = tuple(v for v in chain.kept_today if v.id in kept_ids)
        if len(kept) < len(chain.kept_today) or any(v.id in touched for v in chain.inputs):
            decisions.append(
                Decision(chain, "keep derivatives", kept, "derivatives take no more bytes")
            )
        else:
            decisions.append(Decision(chain, "left alone", kept, NOTHING_GAINED))
    return tuple(decisions)
