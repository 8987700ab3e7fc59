"""Weights of a trained network made ready for int8, in PyTorch, so that files of every format profit."""

TREATMENTS = ("corrected", "equalized", "rounded")
"""From the mildest: biases corrected, channels equalized, rounding learned; batch norms are folded first."""
