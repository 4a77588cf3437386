"""Number of replicas, by queue, memory of requests and memory of sessions. Runs in the controller.

`AutoscalingContext` and custom policies are alpha interfaces of Ray.
"""

from math import ceil
from typing import Any

from ray.serve.config import AutoscalingContext

ROUNDING = 1e-9


def by_utilization(context: AutoscalingContext, target: float = 0.6) -> tuple[int, dict[str, Any]]:
    """Return the number of replicas at which the highest utilization would be `target`.

    Each utilization (`rope_ray.utilization`) is the mean over the replicas, so one full replica
    alone does not add another. Requests in flight count as in Ray's own policy, by
    `target_ongoing_requests`. Ray applies its minimum, maximum and delays to the number.

    Args:
        context: the replicas and what they recorded.
        target: share of each limit that replicas may use on average, above 0 and at most 1.

    Returns:
        The number of replicas, and the state of the policy, which is empty.
    """
    running = context.current_num_replicas
    wanted = 1
    for values in (context.aggregated_metrics or {}).values():
        if values:
            mean = sum(values.values()) / len(values)
            wanted = max(wanted, ceil(running * mean / target - ROUNDING))
    if context.config is not None:
        ongoing = context.total_num_requests / context.config.get_target_ongoing_requests()
        wanted = max(wanted, ceil(ongoing - ROUNDING))
    return wanted, {}
