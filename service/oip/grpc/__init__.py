"""The protocol over gRPC: the same models and documents as over HTTP, behind a port of its own."""
