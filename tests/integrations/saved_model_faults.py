"""Damages a SavedModel in many ways and rewrites each: test_saved_model_faults.py runs it.

    python saved_model_faults.py FOLDER [EVERY]

FOLDER holds the SavedModel `model`; of the cases every one is tried, or each EVERYth. Prints a line
of JSON before each case and one after it, so that whoever started it knows what a process that died
was doing.
"""

import itertools
import json
import pathlib
import random
import shutil
import sys

import numpy as np
import tensorflow as tf

import nested_fad_tf as nfad

OPTIONS = nfad.Options(fuse="ops", on_error="raise", min_bytes=64)


def cases(model):
    """Name, file and damage of every case; the damage is a function of the file's bytes."""
    rng = random.Random(0)
    files = sorted(str(p.relative_to(model)) for p in model.rglob("*") if p.is_file())
    for file in files:
        yield f"{file} missing", file, None
        size = (model / file).stat().st_size
        counts = {"saved_model.pb": (60, 25)}.get(file, (12, 6))
        for _ in range(counts[0]):
            place, bit = rng.randrange(size), rng.randrange(8)
            yield f"{file}: bit {bit} of byte {place} flipped", file, flip(place, bit)
        for _ in range(counts[1]):
            end = rng.randrange(size)
            yield f"{file} cut at {end}", file, cut(end)
        for _ in range(counts[1]):
            place, length = rng.randrange(size), rng.randrange(1, 64)
            yield f"{file}: {length} bytes at {place} zeroed", file, zero(place, length)


def flip(place, bit):
    """Flips a bit."""
    return lambda data: data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :]


def cut(end):
    """Cuts the rest off."""
    return lambda data: data[:end]


def zero(place, length):
    """Puts zeros somewhere."""
    return lambda data: data[:place] + bytes(length) + data[place + length :]


def contents(folder):
    """All files of a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def outputs(folder):
    """What a model computes."""
    model = tf.saved_model.load(str(folder))
    words = tf.constant(["word1", "word7", "unknown"])
    return model.embed(words).numpy(), model.train(words).numpy()


def outcome(broken, target):
    """Rewrites a damaged model; says what came of it."""
    before = contents(broken)
    try:
        nfad.saved_model.rewrite(broken, target, OPTIONS)
    except nfad.RewriteError as error:
        result = {"error": str(error)}
    else:
        same = [
            np.array_equal(a, b, equal_nan=True)
            for a, b in zip(outputs(broken), outputs(target), strict=True)
        ]
        result = {"same": all(same)}
    left = [p.name for p in target.parent.iterdir() if p not in (broken, target)]
    written = target.exists() and "error" in result
    return result | {"untouched": contents(broken) == before, "left": left, "written": written}


def main(folder, every=1):
    """Runs the cases."""
    model, work = folder / "model", folder / "work"
    for name, file, damage in itertools.islice(cases(model), 0, None, every):
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        broken, target = work / "broken", work / "new"
        shutil.copytree(model, broken)
        if damage is None:
            (broken / file).unlink()
        else:
            (broken / file).write_bytes(damage((model / file).read_bytes()))
        print(json.dumps({"case": name}), flush=True)
        print(json.dumps(outcome(broken, target)), flush=True)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), *map(int, sys.argv[2:]))
