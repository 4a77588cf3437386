"""rope-service in replicas of Ray Serve (docs/deploy/ray.md)."""
