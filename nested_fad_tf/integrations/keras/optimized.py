"""Models whose training steps are rewritten, whoever compiles them and however they are trained.

Keras makes a model's training step, a `tf.function`, in `make_train_function`, once a `compile`. An
optimized model is of a class of its own, derived from the one it had, whose `make_train_function`
lets the step run inside `rewriting`. Evaluation and prediction are not touched.

The class is registered with Keras, and its config is that of the model plus the options: they come
back with `keras.models.load_model`, provided that this module was imported before, as with any
registered class.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable, Hashable, Mapping
from typing import Any

from nested_fad_tf.errors import OptionsError
from nested_fad_tf.functions import Session, rewriting
from nested_fad_tf.graph import versions
from nested_fad_tf.integrations.keras.cloning import keep_options
from nested_fad_tf.options import Options
from nested_fad_tf.report.building import unchanged
from nested_fad_tf.report.summary import Report

_PACKAGE, _NAME = "nested_fad_tf", "Optimized"
_KEY = "nested_fad_tf"  # in a model's config
_KERASES = ("keras", "tf_keras")
# In a model's __dict__, past Keras, which tracks the attributes of models.
_SESSION = "_nested_fad_tf_session"
_EAGER = "run_eagerly=True: no function is traced, so there is nothing to rewrite"


def optimize(model: Any, options: Options | None = None) -> Any:
    """Makes a Keras model's training need less memory.

    `fit`, `train_on_batch` and custom `train_step`s run rewritten from now on, whatever was or will
    be compiled. `model.save` keeps the options; to load the file, import this integration first
    (`from nested_fad_tf import keras`). What `strip` gives back can be saved for those who don't
    have this package. `keras.models.clone_model` keeps the options.

    Examples:
        >>> model = tf.keras.Sequential([tf.keras.layers.Dense(256, "gelu") for _ in range(3)])
        >>> model = nfad.keras.optimize(model)
        >>> model.compile("adam", "mse")
        >>> x = tf.ones([2048, 256])
        >>> history = model.fit(x, x, batch_size=1024, verbose=0)
        >>> any(report.changed for report in nfad.keras.reports(model))
        True

    Args:
        model: A `keras.Model` (Keras 3 with the TensorFlow backend, or tf_keras).
        options: What the rewrites may do; `Options()` by default.

    Returns:
        The same model.

    Raises:
        TypeError: If it is no Keras model.
        ValueError: If Keras runs on another backend.
        OptionsError: If `options.verify` is set: a training step changes the variables, so it can't
            be run twice; use `nested_fad_tf.testing.assert_same_step`.
    """
    options = options or Options()
    if options.verify:
        raise OptionsError(
            "verify=True would have to run a training step twice; use"
            " nested_fad_tf.testing.assert_same_step for that"
        )
    _check(model)
    versions.warn_if_unsupported()
    strip(model)
    original: Any = type(model)
    model.__class__ = _optimized(original, options)
    _forget_train_function(model)
    if isinstance(model, _keras_of(original).Sequential):
        keep_options(_keras_of(original), _optimize_like)
    return model


def strip(model: Any) -> Any:
    """Takes back what `optimize` did.

    Examples:
        >>> model = nfad.keras.optimize(tf.keras.Sequential([tf.keras.layers.Dense(1)]))
        >>> type(nfad.keras.strip(model)) is tf.keras.Sequential
        True

    Args:
        model: A Keras model, optimized or not.

    Returns:
        The same model; it can be saved for those who don't have this package.
    """
    if isinstance(model, Optimized):
        model.__class__ = type(model)._original
        model.__dict__.pop(_SESSION, None)
        _forget_train_function(model)
    return model


def reports(model: Any) -> list[Report]:
    """Tells what was done to the functions that an optimized model traced while training.

    Examples:
        >>> model = nfad.keras.optimize(tf.keras.Sequential([tf.keras.layers.Dense(1)]))
        >>> nfad.keras.reports(model)  # it has not been trained yet
        []

    Args:
        model: A model that was given to `optimize`.

    Returns:
        A report for each function, newest last; Keras traces a training step twice.

    Raises:
        ValueError: If the model was not optimized.
    """
    session = session_of(model)
    if session is None:
        raise ValueError(f"{model!r} was not optimized: call nested_fad_tf.keras.optimize first")
    return session.reports


def session_of(model: Any) -> Session | None:
    """The session of an optimized model; `None` for others."""
    if not isinstance(model, Optimized):
        return None
    return model.__dict__.setdefault(_SESSION, Session())


class Optimized:
    """What the classes of optimized models have in common; mixed into the class a model had.

    Options belong to the class: Keras copies a functional model by calling its class.
    """

    _original: type  # the class that the model had
    _options: Options
    train_function: Any
    run_eagerly: bool

    def make_train_function(self, force: bool = False) -> Any:
        """As Keras' own, with the function rewritten when it is traced."""
        super().make_train_function(force=force)  # type: ignore[misc]
        function = self.train_function
        if function is not None and not isinstance(function, _Rewritten):
            session = session_of(self)
            assert session is not None
            self.train_function = _Rewritten(function, self._options, session)
            if self.run_eagerly:
                strategy = self._options.strategy
                session.reports.append(unchanged("train_function", _EAGER, strategy))
        return self.train_function

    def get_config(self) -> dict[str, Any]:
        """The model's own config and, under a key of ours, the options and the class it had."""
        config = dict(super().get_config())  # type: ignore[misc]
        original = self._original
        saving = _keras_of(original).saving
        config[_KEY] = {
            "options": self._options.to_dict(),
            "keras": _keras_of(original).__name__,
            "class": {
                "module": original.__module__,
                "class_name": original.__name__,
                "registered_name": saving.get_registered_name(original),
            },
        }
        return config

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], custom_objects: Mapping[str, Any] | None = None
    ) -> Any:
        """Makes the model by its original class, and optimizes it."""
        config = dict(config)
        ours = config.pop(_KEY)
        # A user's class may come from either Keras: its module doesn't tell.
        if ours["keras"] not in _KERASES:
            raise ValueError(
                f"an optimized model is of one of {_KERASES}, not of {ours['keras']!r}"
            )
        keras = importlib.import_module(ours["keras"])
        model = keras.saving.deserialize_keras_object(
            {**ours["class"], "config": config}, custom_objects=custom_objects
        )
        return optimize(model, Options.from_dict(ours["options"]))


class _Rewritten:
    """A training function that is traced, when it is, inside a `rewriting` block."""

    def __init__(self, function: Callable[..., Any], options: Options, session: Session) -> None:
        self._function = function
        self._options = options
        self._session = session

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with rewriting(self._options, session=self._session):
            return self._function(*args, **kwargs)


@functools.cache
def _optimized(original: Hashable, options: Options) -> type:
    """The class of optimized models that were of a class before."""
    assert isinstance(original, type)
    made = type(
        f"{_NAME}{original.__name__}",
        (Optimized, original),
        {"_original": original, "_options": options, "__module__": __name__},
    )
    _keras_of(original).saving.register_keras_serializable(_PACKAGE, _NAME)(made)
    return made


def _check(model: Any) -> None:
    installed = [sys.modules[name] for name in _KERASES if name in sys.modules]
    if not any(isinstance(model, keras.Model) for keras in installed):
        raise TypeError(f"optimize takes a Keras model, not {type(model).__name__}")
    keras = _keras_of(type(model))
    if keras.__name__ == "keras" and keras.backend.backend() != "tensorflow":
        raise ValueError(
            f"Keras runs on {keras.backend.backend()}; nested_fad_tf rewrites TensorFlow graphs:"
            " set KERAS_BACKEND=tensorflow before importing keras"
        )


def _optimize_like(copy: Any, original: Any) -> Any:
    """Optimizes the copy of a model as the model is."""
    return optimize(copy, original._options) if isinstance(original, Optimized) else copy


def _keras_of(model_class: type) -> Any:
    """The Keras that a model's class comes from: keras, or tf_keras."""
    legacy = sys.modules.get("tf_keras")
    if legacy is not None and issubclass(model_class, legacy.Model):
        return legacy
    return sys.modules["keras"]


def _forget_train_function(model: Any) -> None:
    """Lets Keras make the training function anew: functions traced before stay as they are."""
    model.train_function = None


def _register() -> None:
    """Lets models be loaded before one was optimized in this process."""
    for name in _KERASES:
        if name in sys.modules or name == "keras":
            saving = importlib.import_module(name).saving
            saving.register_keras_serializable(_PACKAGE, _NAME)(Optimized)


_register()
