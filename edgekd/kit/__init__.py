"""The deploy kit: what a developer copies to a device, with a program that proves it works there."""
