"""What can be benchmarked, by name; --help reads it without waiting for TensorFlow."""

# Small models first. `nested_fad_tf.bench.models` builds them.
MODELS = (
    "linear_mlp",
    "relu_mlp",
    "elu_mlp",
    "selu_mlp",
    "mish_mlp",
    "gelu_mlp",
    "gelu_tanh_mlp",
    "swish_mlp",
    "mish_convnet",
    "gelu_convnet",
    "depthwise_convnet",
    "long_transformer",
    "mixer",
    "efficientnetv2b0",
    "mobilenetv3small",
    "convnexttiny",
    "resnet50",
    "bert",
    "gpt2",
    "llama",
    "vit",
)

# Other ways to save memory. `nested_fad_tf.bench.peers` applies them.
PEERS = {
    "recompute_activations": "tf.recompute_grad around every activation function",
    "recompute_blocks": "tf.recompute_grad around every block of layers",
    "remat_activations": "keras.RematScope(mode='activations')",
    "remat_full": "keras.RematScope(mode='full')",
    "jit_compile": "tf.function(jit_compile=True)",
}

# What can be measured. `nested_fad_tf.bench.command` makes a table of each.
WHAT = ("memory", "time", "gradients", "losses", "fit")
# Of these, what peers can be measured by.
WHAT_OF_PEERS = ("memory", "time", "gradients")

# Types of weights and activations in which gradients are compared.
DTYPES = ("float32", "float64")
