"""Quantization-aware training: fine-tuning under the rounding that the int8 files do, with the teacher in the loop."""
