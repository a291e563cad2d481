"""Train TensorFlow models in less memory, with the same gradients.

`nested_fad_tf.function` stands in for `tf.function`, `nested_fad_tf.rewriting` acts on every
`tf.function` that is traced inside a block.

The public names are imported when they are first used (PEP 562): importing the package must not
import TensorFlow, so that the command line answers --help at once and can quieten TensorFlow before
it starts.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nested_fad_tf import testing
    from nested_fad_tf.error_measuring import measure_errors
    from nested_fad_tf.errors import (
        CostsError,
        OptionsError,
        RewriteError,
        SavedModelError,
        UnsupportedVersionError,
        VerificationError,
    )
    from nested_fad_tf.fronts import BudgetPoint, Budgets, budgets
    from nested_fad_tf.functions import Function, Session, explain, function, rewrite, rewriting
    from nested_fad_tf.integrations import keras, saved_model, tensorboard
    from nested_fad_tf.options import Options
    from nested_fad_tf.report import plots
    from nested_fad_tf.report.memory import Measurement, measure
    from nested_fad_tf.report.summary import Kept, Report

__all__ = [
    "BudgetPoint",
    "Budgets",
    "CostsError",
    "Function",
    "Kept",
    "Measurement",
    "Options",
    "OptionsError",
    "Report",
    "RewriteError",
    "SavedModelError",
    "Session",
    "UnsupportedVersionError",
    "VerificationError",
    "budgets",
    "explain",
    "function",
    "keras",
    "measure",
    "measure_errors",
    "plots",
    "rewrite",
    "rewriting",
    "saved_model",
    "tensorboard",
    "testing",
]

# Where each name comes from. No submodule of this package may have the name of a public function:
# importing the submodule sets the package's attribute, which would then be the module. That is why
# nfad.function lives in functions.py.
_HOMES = {
    "BudgetPoint": "fronts",
    "Budgets": "fronts",
    "CostsError": "errors",
    "Function": "functions",
    "Kept": "report.summary",
    "Measurement": "report.memory",
    "Options": "options",
    "OptionsError": "errors",
    "Report": "report.summary",
    "RewriteError": "errors",
    "SavedModelError": "errors",
    "Session": "functions",
    "UnsupportedVersionError": "errors",
    "VerificationError": "errors",
    "budgets": "fronts",
    "explain": "functions",
    "function": "functions",
    "measure": "report.memory",
    "measure_errors": "error_measuring",
    "rewrite": "functions",
    "rewriting": "functions",
}
# Public modules, and where they are.
_MODULES = {
    "keras": "integrations.keras",
    "plots": "report.plots",
    "saved_model": "integrations.saved_model",
    "tensorboard": "integrations.tensorboard",
    "testing": "testing",
}


if not TYPE_CHECKING:  # To type checkers, a module with __getattr__ has every name.

    def __getattr__(name: str) -> Any:
        """Imports a public name on first use."""
        if name in _MODULES:
            return importlib.import_module(f"{__name__}.{_MODULES[name]}")
        home = _HOMES.get(name)
        if home is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
        globals()[name] = value  # Found without this function from now on.
        return value


def __dir__() -> list[str]:
    """Lists the public names whether they were used or not."""
    return sorted({*globals(), *__all__})
