"""The operations of a session: each reads its message, and changes or asks a cache."""
