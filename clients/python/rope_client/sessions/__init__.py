"""KV sessions: caches of keys and values that the service keeps between calls."""
