"""The Open Inference Protocol over HTTP: routes, codec, compression, control."""
