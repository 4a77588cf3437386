"""What a device does for plans: write keys and values, attend, move tokens."""
