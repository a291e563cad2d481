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

# What can be measured. `nested_fad_tf.bench.command` makes a table of each.
WHAT = ("memory", "time", "gradients", "losses", "fit")

# Types of weights and activations in which gradients are compared.
DTYPES = ("float32", "float64")
