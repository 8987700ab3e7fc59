"""Distillation: losses, the training loop, and the stages that train teacher and student."""
