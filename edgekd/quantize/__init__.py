"""Quantization after training, of the exported files. Each quantizer runs in a child process."""
