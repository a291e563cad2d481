"""Tapes as reinforcement learning uses them: persistent, several at once, over epochs in a loop.

After the agents of TF-Agents, which isn't released for this TensorFlow: their `train` is a
`tf.function` around tapes that watch only the variables they are told to.
"""

from __future__ import annotations

import collections
import copy
import functools
import itertools

import pytest
import tensorflow as tf
from traced import mish
from trainers import OPTIONS, assert_fired, assert_same, numbers

import nested_fad_tf as nfad

ROWS, STATE, ACTION, WIDTH = 256, 16, 4, 64

Transition = collections.namedtuple("Transition", "state action reward next_state")


class Net(tf.Module):
    """Dense layers with mish between them."""

    def __init__(self, *widths, seed=0):
        super().__init__()
        self.kernels = [
            tf.Variable(numbers(*shape, seed=seed + i, scale=shape[0] ** -0.5))
            for i, shape in enumerate(itertools.pairwise(widths))
        ]
        self.biases = [tf.Variable(tf.zeros(width)) for width in widths[1:]]

    def __call__(self, x):
        for kernel, bias in zip(self.kernels, self.biases, strict=True):
            x = x @ kernel + bias
            x = x if kernel is self.kernels[-1] else mish(x)
        return x


def transition(seed=0):
    return Transition(
        state=tf.constant(numbers(ROWS, STATE, seed=seed)),
        action=tf.constant(numbers(ROWS, ACTION, seed=seed + 1)),
        reward=tf.constant(numbers(ROWS, 1, seed=seed + 2)),
        next_state=tf.constant(numbers(ROWS, STATE, seed=seed + 3)),
    )


class Agent(tf.Module):
    """An actor, a critic with a slow copy, and a temperature, as in soft actor-critic."""

    def __init__(self):
        super().__init__()
        self.actor = Net(STATE, WIDTH, WIDTH, 2 * ACTION, seed=10)
        self.critic = Net(STATE + ACTION, WIDTH, WIDTH, 1, seed=20)
        self.slow_critic = copy.deepcopy(self.critic)
        self.temperature = tf.Variable(0.1)
        self.random = tf.random.Generator.from_seed(3)
        self.rate = 0.01

    def act(self, state):
        mean, log_scale = tf.split(self.actor(state), 2, axis=-1)
        noise = self.random.normal(tf.shape(mean))
        action = tf.tanh(mean + tf.exp(tf.clip_by_value(log_scale, -5.0, 2.0)) * noise)
        likelihood = -0.5 * tf.square(noise) - log_scale - tf.math.log(1.0 - action**2 + 1e-6)
        return action, tf.reduce_sum(likelihood, -1, keepdims=True)

    def losses(self, batch):
        next_action, likelihood = self.act(batch.next_state)
        value = self.slow_critic(tf.concat([batch.next_state, next_action], -1))
        target = batch.reward + 0.9 * (value - self.temperature * likelihood)
        guess = self.critic(tf.concat([batch.state, batch.action], -1))
        critic_loss = tf.reduce_mean(tf.square(guess - tf.stop_gradient(target)))
        action, likelihood = self.act(batch.state)
        worth = self.critic(tf.concat([batch.state, action], -1))
        actor_loss = tf.reduce_mean(tf.stop_gradient(self.temperature) * likelihood - worth)
        temperature_loss = -tf.reduce_mean(self.temperature * tf.stop_gradient(likelihood + 4.0))
        return critic_loss, actor_loss, temperature_loss

    def groups(self):
        return self.critic.variables, self.actor.variables, (self.temperature,)

    def apply(self, variables, gradients):
        gradients, _ = tf.clip_by_global_norm(gradients, 1.0)
        for variable, gradient in zip(variables, gradients, strict=True):
            variable.assign_sub(self.rate * gradient)

    def follow(self):
        pairs = zip(self.slow_critic.variables, self.critic.variables, strict=True)
        for slow, fast in pairs:
            slow.assign(0.95 * slow + 0.05 * fast)


def one_persistent_tape(agent, batch):
    """All losses under one tape; each group of variables follows its own."""
    with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
        tape.watch(agent.groups())
        losses = agent.losses(batch)
    gradients = [tape.gradient(*pair) for pair in zip(losses, agent.groups(), strict=True)]
    for variables, group in zip(agent.groups(), gradients, strict=True):
        agent.apply(variables, group)
    agent.follow()
    return losses, gradients


def updates_between_gradients(agent, batch):
    """The persistent tape gives a second gradient after the first has been applied."""
    with tf.GradientTape(persistent=True) as tape:
        losses = agent.losses(batch)
    gradients = []
    for loss, variables in zip(losses, agent.groups(), strict=True):
        gradients.append(tape.gradient(loss, variables))
        agent.apply(variables, gradients[-1])
    del tape
    return losses, gradients


def a_tape_each(agent, batch):
    """One tape a loss, one after the other, as the agents of TF-Agents do it."""
    losses, gradients = [], []
    for index, variables in enumerate(agent.groups()):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(variables)
            losses.append(agent.losses(batch)[index])
        gradients.append(tape.gradient(losses[-1], variables))
        agent.apply(variables, gradients[-1])
    agent.follow()
    return losses, gradients


def nested_persistent_tapes(agent, batch):
    """A critic whose slope in the action is held down: a gradient of a gradient."""
    with tf.GradientTape(persistent=True) as outer:
        others = agent.losses(batch)
        with tf.GradientTape(persistent=True) as inner:
            inner.watch((batch.state, batch.action))
            guess = agent.critic(tf.concat([batch.state, batch.action], -1))
            sharp = tf.reduce_sum(tf.square(guess))
        slope = inner.gradient(guess, batch.action)
        other = inner.gradient(sharp, batch.state)
        losses = (
            others[0] + tf.reduce_mean(tf.square(slope)),
            others[1] + tf.reduce_mean(tf.square(other)),
        )
    gradients = [
        outer.gradient(loss, agent.critic.variables, unconnected_gradients="zero")
        for loss in losses
    ]
    for group in gradients:
        agent.apply(agent.critic.variables, group)
    return losses, gradients


def run(train, wrap):
    """Some steps of a fresh agent: what they return, and its variables."""
    agent = Agent()
    function = wrap(functools.partial(train, agent))
    results = [tf.nest.map_structure(tf.identity, function(transition(i))) for i in range(3)]
    return results, [v.numpy() for v in agent.variables], function


@pytest.mark.parametrize(
    "train",
    [one_persistent_tape, updates_between_gradients, a_tape_each, nested_persistent_tapes],
)
def test_an_agents_step(train):
    *actual, function = run(train, functools.partial(nfad.function, options=OPTIONS))
    *expected, _ = run(train, tf.function)
    assert_fired(function.reports)
    assert_same(actual, expected)


def test_an_agent_of_somebody_else():
    """Whose `train` is a `tf.function` already, and nests others."""
    expected = run(one_persistent_tape, lambda step: tf.function(tf.function(step)))[:2]
    with nfad.rewriting(OPTIONS) as session:
        actual = run(one_persistent_tape, lambda step: tf.function(tf.function(step)))[:2]
    assert_fired(session.reports)
    assert_same(actual, expected)


def epochs(agent, batch):
    """Several passes over shuffled parts of what was collected, as in PPO, in a graph's loop."""
    before = tf.stop_gradient(agent.act(batch.state)[1])
    total = tf.constant(0.0)
    for _ in tf.range(2):
        order = tf.argsort(agent.random.uniform([ROWS]))
        for part in tf.range(2):
            chosen = tf.reshape(order, [2, ROWS // 2])[part]
            rows = tf.nest.map_structure(functools.partial(tf.gather, indices=chosen), batch)
            with tf.GradientTape(persistent=True) as tape:
                _, likelihood = agent.act(rows.state)
                ratio = tf.exp(0.1 * (likelihood - tf.gather(before, chosen)))
                clipped = tf.clip_by_value(ratio, 0.8, 1.2)
                policy_loss = -tf.reduce_mean(tf.minimum(ratio, clipped) * rows.reward)
                value = agent.critic(tf.concat([rows.state, rows.action], -1))
                value_loss = tf.reduce_mean(tf.square(value - rows.reward))
            actor, critic = agent.actor.variables, agent.critic.variables
            agent.apply(actor, tape.gradient(policy_loss, actor))
            agent.apply(critic, tape.gradient(value_loss, critic))
            total += policy_loss + value_loss
    return total


def test_epochs_in_a_loop():
    expected = run(epochs, tf.function)[:2]
    with nfad.rewriting(OPTIONS) as session:
        actual = run(epochs, tf.function)[:2]
    assert_fired(session.reports)
    assert_same(actual, expected)


def test_an_eager_persistent_tape_around_a_rewritten_network():
    """Two gradients of what was rewritten, each computed from outside."""
    runs = []
    for rewritten in (False, True):
        agent, batch = Agent(), transition()
        function = nfad.function(agent.losses, options=OPTIONS)
        losses_of = function if rewritten else tf.function(agent.losses)
        with tf.GradientTape(persistent=True) as tape:
            losses = losses_of(batch)
        pairs = zip(losses, agent.groups(), strict=True)
        gradients = [tape.gradient(*pair, unconnected_gradients="zero") for pair in pairs]
        runs.append((losses, gradients))
    assert any(r.changed for r in function.reports)
    assert_same(runs[1], runs[0])
