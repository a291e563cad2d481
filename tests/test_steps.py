"""Training steps of the kinds that memory savers are known to get wrong, one by one."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
import traced

import nested_fad_tf as nfad
from nested_fad_tf import pipeline
from nested_fad_tf.emit import edit

ROWS, COLUMNS = 512, 64  # 128 KiB a tensor
OPTIONS = nfad.Options(on_error="raise", fuse="ops")


def numbers(*shape, seed=0, scale=1.0):
    values = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    return tf.constant(scale * values)


def mish(x):
    return x * tf.tanh(tf.nn.softplus(x))


class Net:
    """Four dense layers; every test makes its own."""

    def __init__(self, activation=mish, depth=4):
        self.activation = activation
        self.weights = [
            tf.Variable(numbers(COLUMNS, COLUMNS, seed=i, scale=COLUMNS**-0.5))
            for i in range(depth)
        ]

    def __call__(self, x):
        for weight in self.weights:
            x = self.activation(x @ weight)
        return x


def batch(rows=ROWS):
    return numbers(rows, COLUMNS, seed=9)


def state_of(variables):
    return [v.numpy() for v in variables]


assert_same = functools.partial(traced.assert_same, rtol=2e-6)


def check(make, *args, calls=2, options=OPTIONS, fires=True, **tf_function_kwargs):
    """Compares a step with its rewrite: results of each call, then variables.

    Args:
        make: Gives a fresh step and its variables; called once for each of the two.
        *args: What the step is called with.
        calls: How often.
        options: Of the rewrite.
        fires: Whether it has to be rewritten.
        **tf_function_kwargs: For both.

    Returns:
        The rewritten step.
    """
    runs = []
    for wrap in (tf.function, functools.partial(nfad.function, options=options)):
        step, variables = make()
        function = wrap(step, **tf_function_kwargs)
        results = [tf.nest.map_structure(np.asarray, function(*args)) for _ in range(calls)]
        runs.append((results, state_of(variables)))
    assert_same(runs[1], runs[0])
    assert function.reports[-1].changed == fires, function.reports[-1].reason
    return function


def make_plain(net=Net, **kwargs):
    """A step that returns the loss and the gradients."""
    model = net(**kwargs)

    def step(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(x)))
        return loss, tape.gradient(loss, model.weights)

    return step, model.weights


@pytest.mark.parametrize("strategy", ["auto", "recompute"])
@pytest.mark.parametrize("fuse", ["ops", "xla", "auto"])
def test_every_strategy_keeps_less_and_computes_the_same(strategy, fuse):
    options = OPTIONS.replace(strategy=strategy, fuse=fuse)
    report = check(make_plain, numbers(4096, COLUMNS), options=options).reports[-1]
    assert report.predicted_peak_after < 0.7 * report.predicted_peak_before


def test_derivatives_are_kept():
    options = OPTIONS.replace(strategy="forward_ad", fuse="xla")
    report = check(make_plain, numbers(8192, COLUMNS), options=options).reports[-1]
    assert report.kept_bytes_after <= 0.7 * report.kept_bytes_before


@pytest.mark.parametrize("activation", [tf.nn.relu, tf.nn.elu, tf.nn.selu])
@pytest.mark.parametrize("strategy", ["auto", "recompute", "forward_ad"])
def test_activations_that_keep_one_tensor_are_not_made_worse(activation, strategy):
    options = OPTIONS.replace(strategy=strategy)
    make = functools.partial(make_plain, activation=activation)
    step, _ = make()
    function = nfad.function(step, options=options)
    results, expected = function(batch()), tf.function(step)(batch())
    assert_same(tf.nest.map_structure(np.asarray, results), expected)
    (report,) = function.reports
    assert report.predicted_peak_after <= report.predicted_peak_before
    assert report.kept_bytes_after <= 1.01 * report.kept_bytes_before
    if not report.changed:
        assert "nothing to be gained" in report.reason


def test_dropout_masks_are_those_of_the_forward_pass():
    x = tf.ones([ROWS, COLUMNS])

    def make():
        net = Net()

        def step(x):
            with tf.GradientTape(persistent=True) as tape:
                hidden = mish(net(x))
                dropped = tf.nn.experimental.stateless_dropout(hidden, 0.5, seed=[1, 2])
                loss = tf.reduce_sum(tf.square(mish(dropped @ net.weights[0])))
            return dropped, tape.gradient(loss, hidden), tape.gradient(loss, net.weights)

        return step, net.weights

    function = check(make, x)
    dropped, gradient, _ = function(x)
    np.testing.assert_array_equal(dropped.numpy() == 0, gradient.numpy() == 0)


def test_stateful_random_numbers_are_drawn_once():
    def make():
        net, generator = Net(), tf.random.Generator.from_seed(7)

        def step(x):
            with tf.GradientTape() as tape:
                hidden = net(x)
                mask = tf.cast(generator.uniform(tf.shape(hidden)) < 0.7, tf.float32)
                loss = tf.reduce_sum(tf.square(mish(hidden * mask)))
            return loss, tape.gradient(loss, net.weights)

        return step, [*net.weights, generator.state]

    check(make, batch())  # the generator's counter is one of the variables compared


def test_a_stateful_op_with_a_kernel_state_of_its_own_runs_once():
    def make():
        tf.random.set_seed(3)
        net = Net()

        def step(x):
            with tf.GradientTape(persistent=True) as tape:
                hidden = mish(tf.nn.dropout(net(x), 0.4, seed=5))
                loss = tf.reduce_sum(tf.square(hidden))
            return hidden, tape.gradient(loss, hidden), tape.gradient(loss, net.weights)

        return step, net.weights

    check(make, batch(), calls=3)


def test_python_side_effects_happen_once_a_trace():
    seen = []

    def make():
        net = Net()

        def step(x):
            seen.append(1)
            with tf.GradientTape() as tape:
                hidden = tf.py_function(lambda t: (seen.append(2), t)[1], [net(x)], x.dtype)
                hidden.set_shape(x.shape)
                loss = tf.reduce_sum(mish(hidden))
            return tape.gradient(loss, net.weights)

        return step, net.weights

    check(make, batch())
    assert seen == [1, 2, 2] * 2


def test_moving_averages_of_a_normalisation():
    def make():
        net, mean, variance = Net(), tf.Variable(tf.zeros(COLUMNS)), tf.Variable(tf.ones(COLUMNS))

        def normalise(x):
            m, v = tf.nn.moments(x, [0])
            mean.assign(0.9 * mean + 0.1 * m)
            variance.assign_sub(0.1 * (variance - v))
            return mish((x - m) * tf.math.rsqrt(v + 1e-3) + mean)

        def step(x):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(tf.square(normalise(normalise(net(x)))))
            return loss, tape.gradient(loss, net.weights)

        return step, [*net.weights, mean, variance]

    check(make, batch(), calls=3)


def test_a_variable_is_read_assigned_and_read_again():
    def make():
        net, scale = Net(), tf.Variable(numbers(ROWS, COLUMNS, seed=1))

        def step(x):
            with tf.GradientTape(persistent=True) as tape:
                first = net(mish(x * scale))
                before = tf.reduce_sum(first)
                scale.assign(2.0 * scale + 1.0)
                loss = before + tf.reduce_sum(net(mish(first * scale)))
            gradients = tape.gradient(loss, [scale, first, *net.weights])
            scale.assign_sub(0.1 * gradients[0])
            return loss, gradients

        return step, [*net.weights, scale]

    check(make, batch())


def test_two_steps_in_one_function():
    def make():
        net = Net()

        def step(x):
            losses = []
            for _ in range(2):
                with tf.GradientTape() as tape:
                    losses.append(tf.reduce_mean(tf.square(net(x))))
                for v, g in zip(net.weights, tape.gradient(losses[-1], net.weights), strict=True):
                    v.assign_sub(0.1 * g)
            return losses

        return step, net.weights

    check(make, batch())


def test_custom_gradients_without_scopes():
    @tf.custom_gradient
    def own(x):
        gate = tf.sigmoid(x)
        return x * gate, lambda dy: tf.clip_by_value(dy, -1e-3, 1e-3) * (gate + x * tf.exp(-x * x))

    check(functools.partial(make_plain, activation=lambda x: mish(own(x))), batch())


def test_loss_scaling_and_accumulated_gradients():
    def make():
        net = Net()
        sums = [tf.Variable(tf.zeros_like(w)) for w in net.weights]

        def step(x):
            for part in tf.split(x, 2):
                with tf.GradientTape() as tape:
                    scaled = 512.0 * tf.reduce_mean(tf.square(net(part)))
                gradients = tape.gradient(scaled, net.weights)
                for total, gradient in zip(sums, gradients, strict=True):
                    total.assign_add(gradient / 512.0)
            return scaled

        return step, [*net.weights, *sums]

    check(make, batch())


def test_a_persistent_tape_with_two_gradients():
    def make():
        net = Net()

        def step(x):
            with tf.GradientTape(persistent=True) as tape:
                hidden = net(x)
                one, two = tf.reduce_mean(hidden), tf.reduce_sum(tf.sin(mish(hidden)))
            return tape.gradient(one, net.weights), tape.gradient(two, net.weights)

        return step, net.weights

    check(make, batch())


def test_a_gradient_penalty():
    def make():
        net = Net()

        def step(x):
            with tf.GradientTape() as outer:
                with tf.GradientTape() as inner:
                    inner.watch(x)
                    score = tf.reduce_sum(net(x))
                norm = tf.norm(inner.gradient(score, x), axis=1)
                loss = score + tf.reduce_mean(tf.square(norm - 1.0))
            return loss, outer.gradient(loss, net.weights)

        return step, net.weights

    check(make, batch())


def test_tf_gradients():
    def make():
        net = Net()

        def step(x):
            loss = tf.reduce_sum(net(x))
            return tf.gradients(loss, [x]), tf.gradients(tf.square(loss), [x])

        return step, net.weights

    check(make, batch())


@pytest.mark.parametrize("given", ["argument", "computed", "ones"])
def test_output_gradients(given):
    def make():
        net = Net()

        def step(x):
            with tf.GradientTape() as tape:
                out = net(x)
            dy = {"argument": x, "computed": tf.tanh(out) * x, "ones": tf.ones_like(out)}[given]
            return tape.gradient(out, net.weights, output_gradients=dy)

        return step, net.weights

    check(make, batch())


def test_a_target_that_is_not_reduced():
    def make():
        net = Net()

        def step(x):
            with tf.GradientTape() as tape:
                y = net(x)
            return tape.gradient(y, net.weights)

        return step, net.weights

    spec = [tf.TensorSpec([None, COLUMNS])]
    options = OPTIONS.replace(nominal_size=ROWS)
    check(make, batch(), input_signature=spec, options=options)


def test_returned_activations():
    def make():
        net = Net()

        def step(x):
            with tf.GradientTape() as tape:
                first = mish(x @ net.weights[0])
                second = tf.nn.softplus(net(first))
                loss = tf.reduce_mean(mish(second))
            return first, second, loss, tape.gradient(loss, net.weights)

        return step, net.weights

    check(make, batch())


def test_an_unknown_batch_size_and_a_smaller_last_batch():
    options = OPTIONS.replace(nominal_size=ROWS)
    spec = [tf.TensorSpec([None, COLUMNS])]
    function = check(make_plain, batch(), options=options, input_signature=spec)
    step, _ = make_plain()
    expected = tf.function(step, input_signature=spec)(batch(37))
    assert_same(function(batch(37)), expected)
    assert len(function.reports) == 1
    assert function.reports[0].nominal_size == ROWS


def test_methods_are_bound_one_by_one():
    class Trainer:
        def __init__(self, seed):
            self.net = Net()
            self.factor = float(seed)

        @nfad.function(options=OPTIONS)
        def step(self, x, power=2):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(self.factor * self.net(x) ** power)
            return loss, tape.gradient(loss, self.net.weights)

    one, two = Trainer(1), Trainer(2)
    assert float(two.step(batch())[0]) == pytest.approx(2 * float(one.step(batch())[0]))
    cubed = one.step(batch(), power=3)
    plain = tf.function(Trainer.step.python_function)
    assert_same(cubed, plain(one, batch(), power=3))
    assert [r.changed for r in one.step.reports] == [True, True]
    assert len(two.step.reports) == 1


def test_keyword_arguments_and_defaults():
    def step(x, *, weight, scale=2.0):
        with tf.GradientTape() as tape:
            tape.watch(weight)
            for _ in range(4):
                x = mish(x @ weight)
            loss = tf.reduce_sum(scale * x)
        return tape.gradient(loss, weight)

    weight = numbers(COLUMNS, COLUMNS, scale=COLUMNS**-0.5)
    function = nfad.function(step, options=OPTIONS)
    plain = tf.function(step)
    assert_same(function(batch(), weight=weight), plain(batch(), weight=weight))
    assert_same(
        function(batch(), weight=weight, scale=3.0), plain(batch(), weight=weight, scale=3.0)
    )
    assert [r.changed for r in function.reports] == [True, True]


def test_control_flow_around_and_inside_the_step():
    def make():
        net, steps = Net(), tf.Variable(0)

        def step(x):
            with tf.GradientTape() as tape:
                hidden = net(x)
                if tf.reduce_sum(hidden) > 0.0:  # noqa: SIM108
                    hidden = mish(hidden)
                else:
                    hidden = tf.tanh(mish(hidden))
                loss = tf.reduce_mean(tf.square(hidden))
            if steps % 2 == 0:
                steps.assign_add(1)
            return loss, tape.gradient(loss, net.weights)

        return step, [*net.weights, steps]

    check(make, batch())


def make_loop():
    net = Net()

    def step(x):
        with tf.GradientTape() as tape:
            hidden, i = net(x), 0
            while i < tf.constant(3):
                hidden, i = mish(hidden), i + 1
            loss = tf.reduce_mean(tf.square(hidden))
        return loss, tape.gradient(loss, net.weights)

    return step, net.weights


def test_a_loop_in_the_step():
    check(make_loop, batch())


def test_a_function_called_in_the_step():
    inner = tf.function(lambda x: mish(mish(x)))
    check(functools.partial(make_plain, activation=lambda x: tf.nn.gelu(inner(x))), batch())


def test_differentiating_the_rewritten_step_from_outside():
    x = batch()
    results = []
    for wrap in (tf.function, functools.partial(nfad.function, options=OPTIONS)):
        step, weights = make_plain()
        function = wrap(step)
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                loss, gradients = function(x)
                total = loss + tf.add_n([tf.reduce_sum(tf.square(g)) for g in gradients])
            first = inner.gradient(total, [x, *weights])
            again = tf.reduce_sum(tf.square(first[0]))
        results.append([loss, gradients, first, outer.gradient(again, [x, *weights])])
    assert function.reports[-1].changed
    assert_same(results[1], results[0], rtol=1e-5)


@pytest.mark.parametrize("fuse", ["ops", "xla"])
@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_keras_fit(fuse, jit_compile):
    def train(context):
        keras.utils.set_random_seed(1)
        layers = [keras.layers.Dense(128, activation="mish") for _ in range(3)]
        model = keras.Sequential(
            [keras.Input([COLUMNS]), *layers, keras.layers.BatchNormalization(),
             keras.layers.Activation("gelu"), keras.layers.Dropout(0.2), keras.layers.Dense(1)]
        )  # fmt: skip
        model.compile("adam", "mse", jit_compile=jit_compile)
        x = batch(1000).numpy()
        with context as session:
            history = model.fit(x, x[:, :1], batch_size=256, epochs=2, verbose=0, shuffle=False)
        return session, [history.history["loss"], model.get_weights()]

    options = OPTIONS.replace(fuse=fuse, min_bytes=1024, nominal_size=256)
    session, actual = train(nfad.rewriting(options))
    _, expected = train(tf.name_scope(""))
    assert any(r.changed for r in session.reports)
    # Adam blows up rounding, how far depends on the processor: in float64 the two differ by 4e-14.
    # Each of the eight updates is 1e-3, in weights of up to 0.2.
    assert_same(actual, expected, rtol=1e-3)


@pytest.mark.parametrize("stage", ["find_roles", "make_plan"])
def test_a_failure_leaves_the_step_as_it_was_and_warns_once(stage, monkeypatch):
    def fail(*args, **kwargs):
        raise ValueError(f"no {stage} today")

    warnings = []
    monkeypatch.setattr(pipeline, stage, fail)
    monkeypatch.setattr(pipeline.logging, "warning", lambda *args: warnings.append(args))
    for _ in range(2):
        function = check(make_plain, batch(), options=nfad.Options(), fires=False)
        assert f"no {stage} today" in function.reports[-1].reason
    assert len(warnings) == 1
    with pytest.raises(nfad.RewriteError, match=f"no {stage} today"):
        check(make_plain, batch())


def test_a_failure_halfway_through_an_edit_changes_no_result(monkeypatch):
    redirect, done = edit._Edit._redirect_op, []

    def fail_at_the_third(self, node):
        done.append(node)
        if len([n for n in done if n.op_type == "Mul"]) >= 3:
            raise ValueError("interrupted")
        redirect(self, node)

    monkeypatch.setattr(edit._Edit, "_redirect_op", fail_at_the_third)
    function = check(make_plain, batch(), options=nfad.Options(fuse="ops"), fires=False)
    assert "interrupted" in function.reports[-1].reason
