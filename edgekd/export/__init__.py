"""Export: the student as an ONNX and a TFLite file. Each converter runs in a child process."""
