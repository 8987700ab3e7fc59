"""Latency: the measuring protocol, and the targets it runs on."""
