"""What TensorFlow ops mean: tables of ops, derivative rules, and formulas made of them."""
