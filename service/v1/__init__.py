"""`/v1` over HTTP: routes, and their OpenAPI description."""
