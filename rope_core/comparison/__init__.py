"""Compare two ropes: their parameters, and the first position at which their angles differ."""
