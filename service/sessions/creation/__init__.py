"""The configuration of a new session, from its parameters or from a model."""
