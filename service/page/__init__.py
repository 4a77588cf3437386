"""The page at `/ui/`: static files, read once, and the routes that answer them."""
