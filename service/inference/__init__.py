"""The one path of all protocols: the handler, the engine, and the choice of a backend."""
