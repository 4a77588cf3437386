"""The process: application, warm-up, uvicorn, status routes, and the drain at the end."""
