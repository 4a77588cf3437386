"""What each endpoint reads from a message: parameters, ropes and calls."""
