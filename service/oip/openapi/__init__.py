"""The OpenAPI description of `/v2`."""
