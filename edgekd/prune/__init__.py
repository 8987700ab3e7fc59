"""Structured pruning: which channels to cut for a budget, cutting them, and a record that does it again anywhere."""
