"""The protocol over gRPC: the same models and documents as over HTTP, on a separate port."""
