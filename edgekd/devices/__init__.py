"""Target profiles: the devices that artifacts are made for, read from ``devices/*.toml``."""
