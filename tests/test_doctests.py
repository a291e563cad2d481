"""Examples in docstrings run and print what they show, and the public names have some."""

import doctest
import importlib
import inspect
import pathlib
import types

import pytest
import tensorflow as tf

import nested_fad_tf as nfad

_PACKAGE = pathlib.Path(nfad.__file__).parent
_PUBLIC_MODULES = [
    value for name in nfad.__all__ if isinstance(value := getattr(nfad, name), types.ModuleType)
]
# What is made by the package, raised by it, or shown where it is made.
_NEED_NO_EXAMPLE = {"BudgetPoint", "Budgets", "Function", "Session", "Kept", "Measurement"}


def _modules_with_examples():
    for file in sorted(_PACKAGE.rglob("*.py")):
        if ">>> " in file.read_text(encoding="utf-8"):
            parts = file.relative_to(_PACKAGE.parent).with_suffix("").parts
            yield ".".join(part for part in parts if part != "__init__")


def _public():
    """The public functions and classes, in the package itself and in its public modules."""
    for namespace in (nfad, *_PUBLIC_MODULES):
        names = getattr(namespace, "__all__", None) or [
            name
            for name, value in vars(namespace).items()
            if inspect.isfunction(value) and value.__module__ == namespace.__name__
        ]
        for name in names:
            value = getattr(namespace, name)
            error = isinstance(value, type) and issubclass(value, Exception)
            if not (isinstance(value, types.ModuleType) or error or name in _NEED_NO_EXAMPLE):
                yield pytest.param(value, id=f"{namespace.__name__}.{name}")


@pytest.mark.parametrize("name", list(_modules_with_examples()))
def test_examples_print_what_they_show(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # Some write SavedModels.
    module = importlib.import_module(name)
    result = doctest.testmod(
        module,
        extraglobs={"nfad": nfad, "tf": tf},
        optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE,
    )
    assert result.attempted
    assert not result.failed


@pytest.mark.parametrize("value", list(_public()))
def test_every_public_name_has_an_example_that_runs(value):
    assert doctest.DocTestParser().get_examples(inspect.getdoc(value))
