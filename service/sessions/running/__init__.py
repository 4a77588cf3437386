"""Jobs of sessions: what the batcher runs, in which pieces, and what follows the run."""
