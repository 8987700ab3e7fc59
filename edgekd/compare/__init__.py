"""Comparing: two models of any framework, layer by layer where they differ, and a run folder with itself."""
