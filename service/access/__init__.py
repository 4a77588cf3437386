"""Authentication and authorization: API keys, scopes, quotas, certificates, allowed hosts."""
