"""TensorFlow Probability: variational autoencoders, and the trainers that it brings along."""

from __future__ import annotations

import functools

import pytest
import tensorflow as tf
from trainers import INSTALL, OPTIONS, assert_fired, assert_same, numbers

import nested_fad_tf as nfad

# Without tf_keras TensorFlow Probability can't be imported.
tf_keras = pytest.importorskip("tf_keras", reason=f"tf_keras is {INSTALL}")
tfp = pytest.importorskip("tensorflow_probability", reason=f"tensorflow-probability is {INSTALL}")
tfd, tfpl, layers = tfp.distributions, tfp.layers, tf_keras.layers

ROWS, PIXELS, LATENT, WIDTH = 256, 64, 8, 64
IMAGES = (numbers(ROWS, PIXELS) > 0.0).astype("float32")


def hidden(inputs):
    return [layers.Input([inputs]), layers.Dense(WIDTH, "gelu"), layers.Dense(WIDTH, "mish")]


def prior():
    return tfd.MultivariateNormalDiag(tf.zeros(LATENT))


class Autoencoder(tf.Module):
    """With distributions, and a sample that gradients flow through."""

    def __init__(self):
        super().__init__()
        self.encoder = tf_keras.Sequential([*hidden(PIXELS), layers.Dense(2 * LATENT)])
        self.decoder = tf_keras.Sequential([*hidden(LATENT), layers.Dense(PIXELS)])
        self.optimizer = tf_keras.optimizers.Adam(1e-3)
        self.optimizer.build(self.weights)

    @property
    def weights(self):
        return self.encoder.trainable_variables + self.decoder.trainable_variables

    def losses(self, x, seed, analytic):
        mean, scale = tf.split(self.encoder(x), 2, axis=-1)
        posterior = tfd.MultivariateNormalDiag(mean, 1e-3 + tf.nn.softplus(scale))
        code = posterior.sample(seed=seed)
        images = tfd.Independent(tfd.Bernoulli(logits=self.decoder(code)), 1)
        if analytic:
            divergence = tfd.kl_divergence(posterior, prior())
        else:
            divergence = posterior.log_prob(code) - prior().log_prob(code)
        return tf.reduce_mean(divergence - images.log_prob(x))

    def step(self, x, seed=None, analytic=True):
        with tf.GradientTape() as tape:
            loss = self.losses(x, seed, analytic)
        gradients = tape.gradient(loss, self.weights)
        self.optimizer.apply_gradients(zip(gradients, self.weights, strict=True))
        return loss, gradients


@pytest.mark.parametrize("analytic", [True, False])
@pytest.mark.parametrize("seed", ["stateless", "stateful"])
def test_a_step_of_an_autoencoder(seed, analytic):
    """With TensorFlow's seeded generator as with a key of one's own, the samples are the same."""
    runs = []
    for wrap in (tf.function, functools.partial(nfad.function, options=OPTIONS)):
        tf_keras.utils.set_random_seed(1)
        model = Autoencoder()
        function = wrap(functools.partial(model.step, analytic=analytic))
        seeds = [tf.constant([1, i]) if seed == "stateless" else None for i in range(3)]
        results = [function(tf.constant(IMAGES), s) for s in seeds]
        runs.append((results, [w.numpy() for w in model.weights]))
    assert_fired(function.reports)
    assert_same(runs[1][0][0], runs[0][0][0])
    assert_same(runs[1], runs[0], 1e-4)  # Adam divides what is small by what is small


def layered():
    """The same of its layers: the loss is a likelihood, the divergence a regularizer."""
    regularizer = tfpl.KLDivergenceRegularizer(prior(), weight=0.5)
    size = tfpl.MultivariateNormalTriL.params_size(LATENT)
    posterior = tfpl.MultivariateNormalTriL(LATENT, activity_regularizer=regularizer)
    encoder = tf_keras.Sequential([*hidden(PIXELS), layers.Dense(size), posterior])
    images = tfpl.IndependentBernoulli([PIXELS])
    decoder = tf_keras.Sequential([*hidden(LATENT), layers.Dense(PIXELS), images])
    return tf_keras.Model(encoder.inputs, decoder(encoder.outputs[0]))


def bayesian():
    """Weights that are drawn anew for each example of a batch."""
    rows = [layers.Input([PIXELS])]
    rows += [tfpl.DenseFlipout(WIDTH, activation="gelu") for _ in range(3)]
    return tf_keras.Sequential(
        [*rows, tfpl.DenseFlipout(PIXELS), tfpl.IndependentBernoulli(PIXELS)]
    )


@pytest.mark.parametrize("make", [layered, bayesian])
def test_fit(make):
    runs = []
    for optimized in (False, True):
        tf_keras.utils.set_random_seed(1)
        model = make()
        if optimized:
            nfad.keras.optimize(model, OPTIONS)
        optimizer = tf_keras.optimizers.SGD(1e-4)
        model.compile(optimizer, loss=lambda x, images: -images.log_prob(x))
        history = model.fit(IMAGES, IMAGES, batch_size=100, epochs=2, verbose=0).history
        runs.append((history, model.get_weights()))
    assert_fired(nfad.keras.reports(model))
    assert_same(runs[1], runs[0])


def surrogate():
    """A posterior over 64 scales of a network's inputs, fitted by the package's own loop."""
    x = tf.constant(numbers(ROWS, PIXELS))
    kernels = [tf.constant(numbers(PIXELS, PIXELS, seed=i, scale=PIXELS**-0.5)) for i in range(3)]
    mean, scale = tf.Variable(tf.zeros(PIXELS)), tf.Variable(tf.zeros(PIXELS))

    def log_density(w):
        h = x * w[..., None, :]
        for kernel in kernels:
            h = tf.nn.gelu(h @ kernel)
        likelihood = tfd.Normal(tf.reduce_sum(h, -1), 1.0).log_prob(tf.reduce_sum(x, 1))
        return prior_of_weights.log_prob(w) + tf.reduce_sum(likelihood, -1)

    prior_of_weights = tfd.MultivariateNormalDiag(tf.zeros(PIXELS))
    posterior = tfd.MultivariateNormalDiag(mean, tfp.util.DeferredTensor(scale, tf.nn.softplus))
    losses = tfp.vi.fit_surrogate_posterior(
        log_density, posterior, optimizer=tf_keras.optimizers.Adam(0.01), num_steps=5,
        sample_size=4, seed=1,
    )  # fmt: skip
    return losses, mean.numpy(), scale.numpy()


def test_variational_inference():
    tf.random.set_seed(1)
    expected = surrogate()
    tf.random.set_seed(1)
    with nfad.rewriting(OPTIONS) as session:
        actual = surrogate()
    assert_fired(session.reports)
    assert_same(actual, expected, 1e-4)


def test_hamiltonian_monte_carlo():
    """Gradients in the body of its loops; differences grow, so the first samples are compared."""
    kernels = [tf.constant(numbers(WIDTH, WIDTH, seed=i, scale=WIDTH**-0.5)) for i in range(3)]

    def log_density(x):
        h = x
        for kernel in kernels:
            h = h * tf.tanh(tf.nn.softplus(h @ kernel))
        return -0.5 * tf.reduce_sum(x**2, -1) - 0.1 * tf.reduce_sum(h**2, -1)

    def sample():
        return tfp.mcmc.sample_chain(
            3,
            tf.constant(numbers(ROWS, WIDTH, seed=5)),
            kernel=tfp.mcmc.HamiltonianMonteCarlo(log_density, 0.01, 3),
            trace_fn=lambda _, results: results.is_accepted,
            seed=tf.constant([1, 2]),
        )

    expected = tf.function(sample)()
    with nfad.rewriting(OPTIONS) as session:
        actual = tf.function(sample)()
    assert_fired(session.reports)
    assert_same(actual[0], expected[0])
    assert bool(tf.reduce_all(actual[1] == expected[1]))
