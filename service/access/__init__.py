"""Who may do what: `tenant.Tenant` is who a request is from, and what it may do."""
