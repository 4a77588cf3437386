"""Chooses the replica of a request. Runs in the proxies of Ray Serve."""

import random

from ray.serve.request_router import PendingRequest, RunningReplica
from ray.serve.request_router import RequestRouter as Router

from rope_ray.session_owner import owner_in_request


class OwnerRouter(Router):
    """The owner of a session gets its requests; others go to the less loaded of two replicas.

    `RequestRouter` is an alpha interface of Ray. The class does not use Ray's FIFOMixin, which
    gives a chosen replica to the oldest request: that may be a request of another session.
    """

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        """Return the replicas of which Ray takes the one with the shorter queue."""
        if pending_request is not None:
            # without it Ray tries a full replica again and again without a pause
            pending_request.routing_context.should_backoff = True
            request = pending_request.args[0] if pending_request.args else None
            owner = owner_in_request(pending_request.metadata.session_id, request)
            owners = [r for r in candidate_replicas if r.replica_id.unique_id == owner]
            if owners:
                return [owners]
        return [random.sample(candidate_replicas, min(2, len(candidate_replicas)))]
