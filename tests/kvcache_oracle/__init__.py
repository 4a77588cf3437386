"""An independent judge of caches and sessions: a list of tokens, in float64.

`cache` and `sessions` say what each operation does and what it refuses; they share no code with
the library or the service. `programs` writes random programs, `judge` runs them on the lists and on
a driver (the library, HTTP, a WebSocket), compares, and shortens a program that fails.
"""
