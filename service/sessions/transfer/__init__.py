"""Export of sessions as safetensors, and import of such bodies."""
