#!/usr/bin/env python
"""Draws docs/images/peak.svg: the memory peak of a training step, plain and rewritten.

    pip install -e .[plots]
    scripts/plot_results.py                       docs/results/memory.json -> docs/images/peak.svg
    scripts/plot_results.py a.json b.json --out peak.png

Reads what `nested-fad-tf bench --what=memory --json=FILE` writes. Where several files hold a row of
the same model and strategy, the last one counts.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
from collections.abc import Iterable

import matplotlib

matplotlib.use("svg")  # No display is needed, and the text stays text.
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

_REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
_MIB = 2**20

# Models as bench calls them, and as the figure does; in the order of docs/results.md.
MODELS = {
    "mish_mlp": "MLP, mish",
    "gelu_mlp": "MLP, gelu",
    "gelu_tanh_mlp": "MLP, gelu (tanh)",
    "swish_mlp": "MLP, swish",
    "mixer": "MLP-Mixer",
    "efficientnetv2b0": "EfficientNetV2B0",
    "mobilenetv3small": "MobileNetV3Small",
    "convnexttiny": "ConvNeXtTiny",
    "resnet50": "ResNet50",
    "resnet101": "ResNet101",
    "bert": "BERT",
    "gpt2": "GPT-2",
    "llama": "Llama",
    "vit": "ViT",
}
# Bars of a model, top to bottom: label, colour.
SERIES = {
    "plain": ("plain TensorFlow", "#9aa5b1"),
    "forward_ad": ('strategy="forward_ad"', "#e0a458"),
    "auto": ('strategy="auto"', "#2f6f9f"),
}

# model -> series -> MiB
Peaks = dict[str, dict[str, float]]


def read(paths: Iterable[pathlib.Path]) -> Peaks:
    """Reads the memory rows of result files.

    Args:
        paths: Result files; those without memory rows of `nested-fad-tf bench` are passed over, and
            rows of steps that are compiled as a whole.

    Returns:
        Peaks by model and series; models and series that the figure doesn't show are left out.
    """
    found: Peaks = {}
    for path in paths:
        content = json.loads(path.read_text(encoding="utf-8"))
        # Other scripts write a plain list of rows, or groups of tests.
        results = content.get("results", {}) if isinstance(content, dict) else {}
        for row in results.get("memory", []):
            if row["strategy"] in SERIES and not row.get("jit_compile"):
                model = found.setdefault(row["model"], {})
                model["plain"] = row["plain_peak"] / _MIB
                model[row["strategy"]] = row["peak"] / _MIB
    return {model: found[model] for model in MODELS if model in found}


def draw(peaks: Peaks, path: pathlib.Path) -> None:
    """Draws a group of bars for each model.

    Args:
        peaks: What `read` gave.
        path: The picture; its suffix says in which format.
    """
    # Same input, same file: no random ids, no date.
    plt.rcParams.update({"svg.hashsalt": "nested_fad_tf", "svg.fonttype": "none", "font.size": 9})
    figure, axes = plt.subplots(figsize=(7.5, 1.1 + 0.42 * len(peaks)), layout="constrained")
    for row, model in enumerate(peaks):
        _draw_model(axes, row, peaks[model])
    axes.set_yticks(range(len(peaks)), [MODELS[model] for model in peaks])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.12 * max(max(bars.values()) for bars in peaks.values()))
    axes.set_xlabel("peak of one training step above weights and optimizer slots, MiB")
    axes.spines[["top", "right"]].set_visible(False)
    handles, labels = axes.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    figure.legend(
        unique.values(), unique.keys(), loc="outside upper center", ncols=3, frameon=False
    )
    metadata = {"Date": None} if path.suffix == ".svg" else None
    figure.savefig(path, dpi=160, metadata=metadata)


def _draw_model(axes: Axes, row: int, bars: dict[str, float]) -> None:
    """Draws one model's bars, each rewritten one with its gain beside it."""
    height = 0.8 / len(SERIES)
    for index, (series, (label, color)) in enumerate(SERIES.items()):
        if series not in bars:
            continue
        y = row + (index - (len(SERIES) - 1) / 2) * height
        axes.barh(y, bars[series], height, color=color, label=label)
        if series != "plain":
            text = f" {bars['plain'] / bars[series]:.1f}x"
            axes.text(bars[series], y, text, va="center", fontsize=7)


def main() -> None:
    """Reads the command line and draws."""
    parser = argparse.ArgumentParser(description="Draws the memory peaks that bench measured.")
    default = _REPOSITORY / "docs/images/peak.svg"
    parser.add_argument(
        "files", nargs="*", type=pathlib.Path, help="default: docs/results/memory.json"
    )
    parser.add_argument("--out", type=pathlib.Path, default=default, help=f"default: {default}")
    arguments = parser.parse_args()
    peaks = read(arguments.files or [_REPOSITORY / "docs/results/memory.json"])
    if not peaks:
        sys.exit("no memory rows: run nested-fad-tf bench --what=memory --json=FILE first")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    draw(peaks, arguments.out)
    print(f"{len(peaks)} models -> {arguments.out}")


if __name__ == "__main__":
    main()
