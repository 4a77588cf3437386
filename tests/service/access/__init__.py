"""Tests of keys, scopes, quotas and Host, over HTTP with and without a plan, and over gRPC."""
