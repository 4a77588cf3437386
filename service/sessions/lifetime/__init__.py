"""Sessions from their creation to their end: ids, leases, turns, names, quotas and repeats."""
