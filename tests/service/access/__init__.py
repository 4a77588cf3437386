"""Keys, scopes, the names in Host, and their enforcement on all ways."""
