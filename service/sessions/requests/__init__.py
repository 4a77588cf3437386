"""What a request asks of a session: its parameters, tensors and guards, checked."""
