"""HTTP in ASGI events: headers, bodies, problems, and the middleware around every request."""
