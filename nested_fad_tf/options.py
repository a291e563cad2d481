"""What the rewriter may do: one frozen dataclass, and the presets in configs/ that fill it."""

from __future__ import annotations

import dataclasses
import difflib
import importlib.resources
import math
import numbers
import pathlib
from collections.abc import Iterable, Mapping
from importlib.resources.abc import Traversable
from typing import Any, Literal, Self, get_args

from nested_fad_tf import amounts, toml_files
from nested_fad_tf.errors import OptionsError

Strategy = Literal["auto", "forward_ad", "recompute"]
Fuse = Literal["auto", "xla", "ops"]
Rounded = Literal["exact", "bfloat16", "int8", "int4", "int2"]
Precision = Literal[Rounded, "inverse"]
Rounding = Literal["nearest", "stochastic"]
OnError = Literal["fallback", "raise"]

_BUDGETS = (
    'None, bytes, a text such as "6GiB" or "800MB", or a fraction of the peak between 0 and 1'
)
_CONFIGS_PACKAGE = "nested_fad_tf.configs"
_TABLE = "options"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What a rewrite may do and what it should aim at.

    Options are values: they compare, hash, and change only through `replace`.

    Examples:
        >>> nfad.Options.preset("low_memory").replace(verify=True).tradeoff
        0.0
        >>> nfad.Options(strategy="automatic")
        Traceback (most recent call last):
        ...
        nested_fad_tf.errors.OptionsError: strategy is 'automatic' (did you mean 'auto'?); ...

    Attributes:
        strategy: What is kept for the backward pass. "auto" decides for every chain by a minimum
            cut over inputs, outputs, derivatives and masks; "forward_ad" keeps derivatives, as
            nested forward-mode AD was published; "recompute" keeps chain inputs.
        fuse: How a group of element-wise operations runs. "xla" compiles each group, "ops" emits
            plain operations, "auto" compiles the groups that are worth a compilation.
        precision: How kept derivatives are stored. With "exact" nothing is lossy; with "bfloat16",
            "int8", "int4" and "int2" they are rounded: what the step returns is the same but for
            its gradients, which are approximate. Nothing but derivatives is stored so. With
            "inverse" the derivatives of GELU, SiLU, Mish and their like aren't stored, but follow
            from the outputs, which the backward pass reads anyway, and a bit each. A strategy
            "auto" takes the exact plan where that needs less, or is within the budget.
        activations: How other kept tensors are stored, such as what matrix products and
            convolutions read: a precision as above, but for "inverse", just as lossy for
            gradients, and no change of anything else. Strategies "auto" and "recompute" take the
            exact plan where that needs less, or is within the budget.
        rounding: How "int8", "int4" and "int2" round: to the "nearest", or "stochastic", at random,
            so that what comes back is right on average, with larger errors and more time. The
            program's own random numbers stay what they are.
        budget: What the predicted peak of a step, above what lived before it, has to fit into:
            bytes, a text such as "6GiB" or "800 MB", or a fraction, above 0 and below 1, of the
            peak without the pass. Beyond element-wise ops, as many matrix products, convolutions
            and the like are computed again as that takes; if nothing is enough, the least that was
            found is done, with a warning. None computes no such op again.
        offload: Whether what is kept on an accelerator may wait in the memory of its host, copied
            there in the forward pass and back for the backward pass. Without a budget that is all
            that lowers the peak, with one as much as is still missing when all has been computed
            again that can be. Where no accelerator is it does nothing, and the report says so.
        min_bytes: Tensors smaller than this are left alone.
        on_error: "fallback" keeps the original function when a rewrite fails, warns once and says
            why in the report; "raise" raises.
        verify: Whether the first call runs both versions on the same inputs and variable values
            and compares what they did.
        nominal_size: The size that stands in for every unknown dimension when tensors are priced.
            None takes that of the call that a function is traced for: the batch size that Keras'
            `fit` was given, or its data set has, or an argument's size; 32 where none is found.
        tradeoff: What a second of extra work in the step costs, in bytes, as a multiple of the
            built-in price. At 0 bytes alone decide; the larger it is, the more is kept to spare
            the backward pass the work.

    Raises:
        OptionsError: If a value is not allowed, or not implemented in this version.
    """

    strategy: Strategy = "auto"
    fuse: Fuse = "auto"
    precision: Precision = "exact"
    activations: Rounded = "exact"
    rounding: Rounding = "nearest"
    budget: int | float | str | None = None
    offload: bool = False
    min_bytes: int = 64 * 1024
    on_error: OnError = "fallback"
    verify: bool = False
    nominal_size: int | None = None
    tradeoff: float = 1.0

    def __post_init__(self) -> None:
        """Checks every field, so that a bad value is named where it was written."""
        _check_choice("strategy", self.strategy, get_args(Strategy))
        _check_choice("fuse", self.fuse, get_args(Fuse))
        _check_choice("precision", self.precision, get_args(Precision))
        _check_choice("activations", self.activations, get_args(Rounded))
        _check_choice("rounding", self.rounding, get_args(Rounding))
        _check_choice("on_error", self.on_error, get_args(OnError))
        _check_bool("offload", self.offload)
        _check_bool("verify", self.verify)
        _check_int("min_bytes", self.min_bytes, least=0)
        if self.nominal_size is not None:
            _check_int("nominal_size", self.nominal_size, least=1)
        _check_factor("tradeoff", self.tradeoff)
        _check_precision(self.precision, self.strategy)
        _check_activations(self.activations, self.strategy)
        _check_rounding(self)
        _check_verifiable(self)
        _check_budget(self.budget, self.strategy)
        _check_offload(self)

    @property
    def lossy(self) -> str:
        """The options that make gradients approximate, as text; empty if there are none."""
        named = {"precision": self.precision, "activations": self.activations}
        return ", ".join(f"{name}={value!r}" for name, value in named.items() if value != "exact")

    def budget_bytes(self, peak: int) -> int | None:
        """The budget of a step in bytes.

        Args:
            peak: The predicted peak of the step as it was traced, for a budget that is a fraction.

        Returns:
            The bytes; `None` without a budget.

        Examples:
            >>> nfad.Options(budget="1.5GiB").budget_bytes(peak=0)
            1610612736
            >>> nfad.Options(budget=0.5).budget_bytes(peak=3_000_000)
            1500000
        """
        if self.budget is None:
            return None
        if isinstance(self.budget, str):
            return _bytes_in(self.budget)
        return int(self.budget * peak if self.budget < 1 else self.budget)

    def replace(self, **changes: Any) -> Self:
        """Returns a copy in which the named options have other values.

        Args:
            **changes: Options by name.

        Raises:
            OptionsError: If there is no option of that name, or its value is not allowed.
        """
        _check_names(changes, "replace()")
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Returns the options as a dictionary of plain values, as written to JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, source: str = "from_dict()") -> Self:
        """Returns the options in a dictionary; those not in it have their defaults.

        Args:
            values: Options by name, for example what `to_dict` returned.
            source: Where they come from, for error messages.

        Raises:
            OptionsError: If a name is unknown or a value is not allowed.
        """
        _check_names(values, source)
        return cls(**values)

    @classmethod
    def from_file(cls, path: str | pathlib.Path) -> Self:
        """Reads options from the [options] table of a TOML file.

        Args:
            path: The file; configs/exact.toml in the repository is an example.

        Raises:
            OptionsError: If the file can't be read or holds something that is not an option.
        """
        return cls._from_toml(pathlib.Path(path))

    @classmethod
    def preset(cls, name: str) -> Self:
        """Returns a named preset.

        Args:
            name: One of `preset_names()`: "exact", "paper", "recompute", "low_memory",
                "lossy_int8".

        Raises:
            OptionsError: If there is no preset of that name.
        """
        names = preset_names()
        if name not in names:
            hint = _suggestion(str(name), names)
            raise OptionsError(f"unknown preset {name!r}{hint}; presets: {', '.join(names)}")
        return cls._from_toml(configs_folder() / f"{name}.toml")

    @classmethod
    def _from_toml(cls, file: Traversable) -> Self:
        """Reads the [options] table of a file on disk or inside the package."""
        document = toml_files.read(file, OptionsError)
        extra = sorted(set(document) - {_TABLE})
        table = document.get(_TABLE, {})
        if extra or not isinstance(table, dict):
            found = f"; found {', '.join(map(repr, extra))} beside it" if extra else ""
            raise OptionsError(f"{file}: options belong into a table [{_TABLE}]{found}")
        return cls.from_dict(table, source=str(file))


def preset_names() -> list[str]:
    """Returns the names that `Options.preset` knows, sorted."""
    return sorted(
        entry.name.removesuffix(".toml")
        for entry in configs_folder().iterdir()
        if entry.name.endswith(".toml")
    )


def configs_folder() -> Traversable:
    """Returns the folder of what is configured, in an installed package or in a source checkout."""
    try:
        return importlib.resources.files(_CONFIGS_PACKAGE)
    except ModuleNotFoundError:
        # A checkout on the path without an installation: configs/ lies next to the package.
        return pathlib.Path(__file__).resolve().parents[1] / "configs"


def _check_choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    """Raises unless the value is one of the allowed names."""
    if not (isinstance(value, str) and value in allowed):
        hint = _suggestion(value, allowed) if isinstance(value, str) else ""
        raise OptionsError(f"{name} is {value!r}{hint}; allowed: {_quoted(allowed)}")


def _check_bool(name: str, value: object) -> None:
    """Raises unless the value is True or False."""
    if not isinstance(value, bool):
        raise OptionsError(f"{name} is {value!r}; allowed: True, False")


def _check_int(name: str, value: object, *, least: int) -> None:
    """Raises unless the value is an integer of at least `least`."""
    # A bool is an int to Python, but nobody means min_bytes=True.
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not (whole and value >= least):  # type: ignore[operator]
        raise OptionsError(f"{name} is {value!r}; allowed: integers of at least {least}")


def _check_factor(name: str, value: object) -> None:
    """Raises unless the value is a finite number that is not negative."""
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not (number and math.isfinite(value) and value >= 0):  # type: ignore[arg-type,operator]
        raise OptionsError(f"{name} is {value!r}; allowed: finite numbers of at least 0")


def _check_precision(precision: str, strategy: str) -> None:
    """Raises for a strategy that a lossy precision makes no sense with."""
    if precision != "exact" and strategy == "recompute":
        raise OptionsError(
            f"precision={precision!r}: strategy='recompute' keeps no derivatives that could be"
            " stored so; use strategy='auto' or 'forward_ad', or precision='exact'"
        )


def _check_activations(activations: str, strategy: str) -> None:
    """Raises for a strategy that can't store activations otherwise."""
    if activations != "exact" and strategy == "forward_ad":
        raise OptionsError(
            f"activations={activations!r}: strategy='forward_ad' keeps activations as they are; use"
            " strategy='auto' or 'recompute', or activations='exact'"
        )


def _check_rounding(options: Options) -> None:
    """Raises if there is nothing that could be rounded at random."""
    integers = ("int8", "int4", "int2")
    if options.rounding != "nearest" and not {options.precision, options.activations} & {*integers}:
        raise OptionsError(
            f"rounding={options.rounding!r}: nothing is kept as integers; name precision or"
            f" activations as well: {_quoted(integers)}"
        )


def _check_verifiable(options: Options) -> None:
    """Raises if the rewritten step is not meant to be the same."""
    if options.verify and options.lossy:
        raise OptionsError(
            f"{options.lossy}: gradients differ from the original's on purpose, so that verify=True"
            " could tell nothing; verify once with everything 'exact'"
        )


def _check_budget(budget: object, strategy: str) -> None:
    """Raises unless the value is None or an amount of memory, and the strategy can keep to it."""
    if budget is None:
        return
    if isinstance(budget, str):
        _bytes_in(budget)
    elif not _is_amount(budget):
        raise OptionsError(f"budget is {budget!r}; allowed: {_BUDGETS}")
    if strategy == "forward_ad":
        raise OptionsError(
            "budget with strategy 'forward_ad': it recomputes nothing; use 'auto' or 'recompute'"
        )


def _check_offload(options: Options) -> None:
    """Raises if what is kept couldn't be moved as it is."""
    if not options.offload:
        return
    if options.strategy == "forward_ad":
        raise OptionsError(
            "offload=True with strategy 'forward_ad': it keeps derivatives where they are made; use"
            " 'auto' or 'recompute'"
        )
    if options.lossy:
        raise OptionsError(
            f"offload=True with {options.lossy}: what is kept moves to the host as it is; use one"
            " or the other"
        )


def _is_amount(budget: object) -> bool:
    """Whether a number is one of bytes, or a fraction."""
    if isinstance(budget, bool) or not isinstance(budget, numbers.Real):
        return False
    number = float(budget)
    return 0 < number < 1 or (number >= 1 and number.is_integer())


def _bytes_in(text: str) -> int:
    """The bytes that a text such as "6GiB" stands for."""
    number = amounts.bytes_in(text)
    if number is None:
        raise OptionsError(f"budget is {text!r}; allowed: {_BUDGETS}")
    return number


def _check_names(values: Iterable[str], source: str) -> None:
    """Raises if one of the names is not an option."""
    known = [field.name for field in dataclasses.fields(Options)]
    for name in values:
        if name not in known:
            hint = _suggestion(name, known)
            raise OptionsError(
                f"{source}: unknown option {name!r}{hint}; options: {', '.join(known)}"
            )


def _suggestion(name: str, known: Iterable[str]) -> str:
    """Returns ' (did you mean ...?)' if a known name is close, else nothing."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _quoted(names: Iterable[str]) -> str:
    """Returns the names quoted and joined by commas."""
    return ", ".join(repr(name) for name in names)
