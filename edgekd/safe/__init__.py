"""The only code that touches untrusted bytes or the outside: atomic files, child processes, signals."""
