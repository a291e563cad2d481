import dataclasses

import pytest

from nested_fad_tf import options as options_lib
from nested_fad_tf.errors import OptionsError, RewriteError
from nested_fad_tf.options import Options


def test_defaults_are_those_of_the_documentation():
    assert Options().to_dict() == {
        "strategy": "auto",
        "fuse": "auto",
        "precision": "exact",
        "activations": "exact",
        "rounding": "nearest",
        "budget": None,
        "offload": False,
        "min_bytes": 65536,
        "on_error": "fallback",
        "verify": False,
        "nominal_size": None,
        "tradeoff": 1.0,
    }


def test_options_are_values():
    assert Options() == Options()
    assert hash(Options()) == hash(Options())
    with pytest.raises(dataclasses.FrozenInstanceError):
        Options().strategy = "recompute"


def test_replace_leaves_the_original_alone():
    original = Options()
    changed = original.replace(strategy="recompute", verify=True)
    assert (changed.strategy, changed.verify) == ("recompute", True)
    assert original == Options()


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("strategy", "autoo", "'auto', 'forward_ad', 'recompute'"),
        ("strategy", None, "'auto', 'forward_ad', 'recompute'"),
        ("fuse", "jit", "'auto', 'xla', 'ops'"),
        ("precision", "float8", "'exact', 'bfloat16', 'int8', 'int4', 'int2'"),
        ("activations", "float8", "'exact', 'bfloat16', 'int8', 'int4', 'int2'"),
        ("rounding", "up", "'nearest', 'stochastic'"),
        ("on_error", "ignore", "'fallback', 'raise'"),
        ("offload", "yes", "True, False"),
        ("verify", 1, "True, False"),
        ("min_bytes", -1, "integers of at least 0"),
        ("min_bytes", True, "integers of at least 0"),
        ("min_bytes", 1.5, "integers of at least 0"),
        ("nominal_size", 0, "integers of at least 1"),
        ("tradeoff", -0.5, "finite numbers of at least 0"),
        ("tradeoff", float("nan"), "finite numbers of at least 0"),
        ("tradeoff", "1", "finite numbers of at least 0"),
    ],
)
def test_a_bad_value_is_refused_and_the_allowed_ones_named(name, value, allowed):
    with pytest.raises(OptionsError) as caught:
        Options(**{name: value})
    assert name in str(caught.value)
    assert allowed in str(caught.value)


def test_an_options_error_is_a_rewrite_error_and_a_value_error():
    with pytest.raises(RewriteError):
        Options(strategy="no")
    with pytest.raises(ValueError):
        Options(strategy="no")


def test_a_near_miss_gets_a_suggestion():
    with pytest.raises(OptionsError, match="did you mean 'recompute'"):
        Options(strategy="recompue")


LOSSY = ["bfloat16", "int8", "int4", "int2"]


@pytest.mark.parametrize("precision", LOSSY)
@pytest.mark.parametrize("strategy", ["auto", "forward_ad"])
def test_a_lossy_precision_needs_a_strategy_that_keeps_derivatives(precision, strategy):
    assert Options(precision=precision, strategy=strategy).precision == precision
    with pytest.raises(OptionsError, match="use strategy='auto' or 'forward_ad'"):
        Options(precision=precision, strategy="recompute")


@pytest.mark.parametrize("precision", LOSSY)
def test_gradients_that_differ_on_purpose_are_not_verified(precision):
    with pytest.raises(OptionsError, match="verify once with everything 'exact'"):
        Options(precision=precision, verify=True)
    with pytest.raises(OptionsError, match="verify once with everything 'exact'"):
        Options(precision=precision).replace(verify=True)


@pytest.mark.parametrize(
    "budget, expected",
    [(None, None), (1, 1), (3 << 30, 3 << 30), (0.25, 250), ("6GiB", 6 << 30), ("1.5 kb", 1500),
     ("100", 100), ("2MB", 2_000_000), ("2 mib", 2 << 20)],
)  # fmt: skip
def test_budgets(budget, expected):
    assert Options(budget=budget).budget_bytes(peak=1000) == expected


@pytest.mark.parametrize("lossy", [{}, {"precision": "inverse"}, {"activations": "bfloat16"}])
def test_without_integers_nothing_is_rounded_at_random(lossy):
    with pytest.raises(OptionsError, match="as well: 'int8', 'int4', 'int2'"):
        Options(rounding="stochastic", **lossy)
    assert Options(rounding="stochastic", **{**lossy, "activations": "int4"}).lossy


@pytest.mark.parametrize(
    "budget", [0, -1, 0.0, 1.5, True, "", "GiB", "-1GiB", "6 bananas", [1], float("inf")]
)
def test_budgets_that_are_none_are_refused(budget):
    with pytest.raises(OptionsError, match='allowed: None, bytes, a text such as "6GiB"'):
        Options(budget=budget)


def test_what_recomputes_nothing_takes_no_budget():
    with pytest.raises(OptionsError, match="it recomputes nothing; use 'auto' or 'recompute'"):
        Options(strategy="forward_ad", budget=0.5)


@pytest.mark.parametrize(
    "other", [{"strategy": "forward_ad"}, {"precision": "int8"}, {"activations": "int4"}]
)
def test_what_is_not_kept_as_it_is_does_not_move_to_the_host(other):
    with pytest.raises(OptionsError, match="offload=True with"):
        Options(offload=True, **other)


def test_replace_refuses_unknown_names():
    with pytest.raises(OptionsError, match=r"unknown option 'stategy' .did you mean 'strategy'"):
        Options().replace(stategy="auto")


def test_dictionary_round_trip():
    options = Options(strategy="forward_ad", min_bytes=0)
    assert Options.from_dict(options.to_dict()) == options


def test_the_documented_presets_exist():
    documented = {"exact", "paper", "recompute", "low_memory", "lossy_int8"}
    assert documented <= set(options_lib.preset_names())


@pytest.mark.parametrize("name", options_lib.preset_names())
def test_every_preset_loads(name):
    assert isinstance(Options.preset(name), Options)


def test_presets_say_what_their_names_promise():
    assert Options.preset("exact") == Options()
    assert Options.preset("paper").strategy == "forward_ad"
    assert Options.preset("recompute").strategy == "recompute"
    assert Options.preset("lossy_int8") == Options(precision="int8", activations="int8")
    low_memory = Options.preset("low_memory")
    assert low_memory.strategy == "auto"
    assert low_memory.min_bytes < Options().min_bytes
    assert low_memory.tradeoff == 0


def test_an_unknown_preset_is_refused_with_a_suggestion():
    with pytest.raises(OptionsError) as caught:
        Options.preset("papr")
    assert "did you mean 'paper'" in str(caught.value)
    assert "low_memory" in str(caught.value)


def test_a_preset_name_is_no_path():
    with pytest.raises(OptionsError, match="unknown preset"):
        Options.preset("../configs/exact")


def test_presets_are_found_without_an_installation(monkeypatch):
    def missing(package):
        raise ModuleNotFoundError(package)

    monkeypatch.setattr(options_lib.importlib.resources, "files", missing)
    assert Options.preset("exact") == Options()


def test_from_file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('[options]\nstrategy = "recompute"\nmin_bytes = 0\n')
    assert Options.from_file(path) == Options(strategy="recompute", min_bytes=0)
    assert Options.from_file(str(path)) == Options(strategy="recompute", min_bytes=0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[options\n", "not valid TOML"),
        ('strategy = "auto"\n', r"table \[options\]; found 'strategy'"),
        ("options = 3\n", r"table \[options\]"),
        ("[options]\nstrategi = 1\n", "unknown option 'strategi'"),
        ('[options]\nstrategy = "no"\n', "strategy is 'no'"),
    ],
)
def test_from_file_says_what_is_wrong(tmp_path, text, message):
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(OptionsError, match=message):
        Options.from_file(path)


def test_from_file_of_a_missing_file(tmp_path):
    with pytest.raises(OptionsError, match=r"cannot read .*nothing.toml: No such file"):
        Options.from_file(tmp_path / "nothing.toml")
