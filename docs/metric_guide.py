"""When to worry about each metric, and what to do: the rows of docs/metrics.md."""

from collections.abc import Mapping
from typing import NamedTuple


class Advice(NamedTuple):
    """What an operator does with a metric."""

    worry: str
    action: str


def _limit_of(level: str) -> Advice:
    return Advice(
        f"{level} stays above 80 % of this limit.",
        f"Alert on the ratio of both; see {level} for what to do.",
    )


_SHARE = Advice(
    "Never by itself: compare it with the other times of a request.",
    "Find the step that takes longest. The header Server-Timing of an answer has the times of one "
    "request.",
)

ADVICE: Mapping[str, Advice] = {
    "process_virtual_memory_bytes": Advice(
        "Never: torch reserves addresses that it does not use.",
        "Watch process_resident_memory_bytes.",
    ),
    "process_resident_memory_bytes": Advice(
        "Above 90 % of the container's limit, or growing for days under the same load.",
        "Lower ROPE_MEMORY_BUDGET_BYTES or ROPE_PREFAULT_BYTES, or give the container more memory.",
    ),
    "process_start_time_seconds": Advice(
        "It changes although nobody has deployed.",
        "Look at the exit code (docs/settings.md) and the last lines of the log.",
    ),
    "process_cpu_seconds": Advice(
        "Its rate stays near the CPU quota while rope_predicted_wait_seconds grows.",
        "Add replicas or CPUs; send safetensors instead of JSON.",
    ),
    "process_open_fds": Advice(
        "Above 80 % of process_max_fds.",
        "Raise `ulimit -n`, or lower ROPE_MAX_CONNECTIONS.",
    ),
    "process_max_fds": Advice(
        "Below 2,048 on a service with many clients.",
        "Raise `ulimit -n` (Docker: `--ulimit nofile=`): the default of ROPE_MAX_CONNECTIONS grows "
        "with it.",
    ),
    "python_gc_objects_collected": Advice(
        "Never by itself.", "Use it when you search for the cause of pauses."
    ),
    "python_gc_objects_uncollectable": Advice(
        "Above 0 and growing.", "Report a bug, with the version from rope_build_info."
    ),
    "python_gc_collections": Advice(
        "Never by itself.", "Use it when you search for the cause of pauses."
    ),
    "rope_requests": Advice(
        "Over 1 % of the answers are 429, 500 or above for minutes; or 499 grows.",
        "Look up the `code` of the log lines in docs/errors.md. 503: add replicas. 499: clients "
        "give up before the answer, so compare their timeouts with the durations.",
    ),
    "rope_tenant_requests": Advice(
        "A tenant has outcomes other than `admitted`.",
        "Raise the limit of the tenant in the keys file, or ask the tenant to send less.",
    ),
    "rope_request_duration_seconds": Advice(
        "The 99th percentile is above what your clients accept.",
        "Compare rope_queue_wait_seconds (add replicas) with rope_compute_seconds (smaller calls); "
        "if both are short, the client sends or reads slowly.",
    ),
    "rope_refusals": Advice(
        "`overloaded`, `timed_out`, `kv_memory` or `internal` grow for minutes.",
        "Look up the code in docs/errors.md. `overloaded`: add replicas. Codes with a status of "
        "4xx other than 429 are mistakes of clients.",
    ),
    "rope_device_busy_seconds": Advice(
        "Its rate, divided by rope_device_lanes, is above 0.8 for minutes.",
        "Add replicas before calls wait: see rope_predicted_wait_seconds.",
    ),
    "rope_device_lanes": Advice(
        "Never by itself.", "Divide the rate of rope_device_busy_seconds by it."
    ),
    "rope_queue_depth_at_arrival": Advice(
        "Its 99th percentile is above half of rope_queue_limit.",
        "As rope_queue_depth, which shows only what is there when Prometheus reads.",
    ),
    "rope_queue_wait_seconds": Advice(
        "The 99th percentile is above 0.1 s, or above a tenth of your clients' timeout.",
        "Add replicas, or send fewer long calls to this one.",
    ),
    "rope_copy_seconds": _SHARE,
    "rope_compute_seconds": _SHARE,
    "rope_batch_requests": Advice(
        "It stays at 1 on a busy GPU.",
        "Send requests concurrently; calls of one kind and dtype are computed together.",
    ),
    "rope_batch_tokens": Advice(
        "Runs reach ROPE_MAX_BATCH_TOKENS while calls wait.",
        "Raise ROPE_MAX_BATCH_TOKENS and ROPE_MAX_BATCH_BYTES if the device has memory left.",
    ),
    "rope_backend_calls": Advice(
        "`eager` computes attention on a GPU after the warm-up.",
        "Set ROPE_WARM_UP_SHAPES to the shapes of your models; see rope_kernel_builds.",
    ),
    "rope_kernel_builds": Advice(
        "`failed` is above 0, or `built` still grows an hour after the start.",
        "Read the log line of the kernel; set ROPE_WARM_UP_SHAPES; use the image with prebuilt "
        "kernels (docs/deploy.md).",
    ),
    "rope_kernel_build_seconds": Advice(
        "Builds take seconds at each start.",
        "Keep the folder of TRITON_CACHE_DIR between starts, or prebuild the kernels in the image.",
    ),
    "rope_kernel_builds_waiting": Advice(
        "Above 0 for more than ten minutes.", "See rope_kernel_builds."
    ),
    "rope_kernel_builds_limit": Advice(
        "rope_kernel_builds_waiting is equal to it: further kernels are not built now.",
        "Wait: they are built when their calls come again. Set ROPE_WARM_UP_SHAPES.",
    ),
    "rope_queue_depth": Advice(
        "Above half of rope_queue_limit, or growing for a minute.",
        "Add replicas. If few calls are long, lower ROPE_MAX_CALL_S; if many are short, send "
        "several sequences in one call.",
    ),
    "rope_queue_limit": _limit_of("rope_queue_depth"),
    "rope_predicted_wait_seconds": Advice(
        "Above half of rope_predicted_wait_limit_seconds.",
        "Add replicas: beyond the limit, calls are refused with 503. Use this metric for "
        "autoscaling.",
    ),
    "rope_predicted_wait_limit_seconds": _limit_of("rope_predicted_wait_seconds"),
    "rope_late_calls": Advice(
        "It grows: the device works for clients that do not wait any more.",
        "Raise the timeouts of the clients, or lower ROPE_MAX_QUEUE_S and ROPE_MAX_CALL_S.",
    ),
    "rope_queued_bytes": Advice(
        "It is most of rope_admitted_bytes while rope_queue_depth is low.",
        "Few large calls hold the memory: split them, or raise ROPE_MEMORY_BUDGET_BYTES.",
    ),
    "rope_admitted_bytes": Advice(
        "Above 80 % of rope_admission_limit_bytes.",
        "Raise ROPE_MEMORY_BUDGET_BYTES and the container's memory, send safetensors instead of "
        "JSON, or add replicas. If the queue is empty, clients read their answers slowly.",
    ),
    "rope_admission_limit_bytes": _limit_of("rope_admitted_bytes"),
    "rope_device_memory_bytes": Advice(
        "Above 90 % of rope_device_memory_limit_bytes, or 503 with `device_memory`.",
        "Lower ROPE_MAX_BATCH_BYTES or ROPE_MEMORY_BUDGET_BYTES; let no other process use the GPU.",
    ),
    "rope_device_memory_limit_bytes": _limit_of("rope_device_memory_bytes"),
    "rope_connections": Advice(
        "Above 80 % of rope_connections_limit.",
        "Raise ROPE_MAX_CONNECTIONS and `ulimit -n`; let clients keep and share connections.",
    ),
    "rope_connections_limit": _limit_of("rope_connections"),
    "rope_log_lines_dropped": Advice(
        "It grows: lines are missing.",
        "Free the disk, or repair the log collector that reads standard output. Requests are still "
        "answered.",
    ),
    "rope_sessions": Advice(
        "It grows for hours: clients create sessions and do not delete them.",
        "Delete sessions that are no longer needed; lower ROPE_SESSION_TTL_S.",
    ),
    "rope_session_pages": Advice(
        "`free` is near 0.", "See rope_kv_bytes, which has the same in bytes."
    ),
    "rope_kv_bytes": Advice(
        "`reserved` is above 90 % of `reserved` and `free` together.",
        "Raise ROPE_KV_BYTES, add replicas, or create sessions with a smaller `max_tokens`. If "
        "`used` is far below `reserved`, clients reserve more than they need.",
    ),
    "rope_kv_pages_copied": Advice(
        "It grows with each step, and rope_session_step_seconds as well.",
        "Fork when a branch begins and not before each step; a fork copies one page at its first "
        "write.",
    ),
    "rope_session_ops": Advice(
        "Over 1 % of the operations have another code than `ok`.",
        "Look up the code in docs/errors.md. `session_conflict`: two writers of one session. "
        "`kv_memory`: see rope_kv_bytes. `wrong_owner`: repair the routing by the id.",
    ),
    "rope_session_repeats": Advice(
        "It grows faster than 1 % of rope_session_ops.",
        "Answers are lost on the way: compare the timeouts of clients and proxies with "
        "rope_session_step_seconds.",
    ),
    "rope_session_step_seconds": Advice(
        "The 99th percentile is above the time that clients have for a layer of a token.",
        "Compare rope_queue_wait_seconds (add replicas) with rope_compute_seconds (shorter "
        "sessions, or a window). Send long prompts in chunks.",
    ),
    "rope_kv_restore_seconds": Advice(
        "It grows with each step: sessions leave the device and come back.",
        "Raise ROPE_KV_BYTES, add replicas, or pin the sessions that must stay on the device.",
    ),
    "rope_session_gone": Advice(
        "`evicted` or `device_lost` grow, or `expired` although clients delete their sessions.",
        "`evicted`: see rope_kv_bytes. `device_lost`: replace the device. `expired`: clients have "
        "crashed, or create sessions with a larger `ttl_s`.",
    ),
    "rope_session_segments": Advice(
        "It stays above 4: each segment rotates the queries once more.",
        "Evict and shift in larger ranges, such as half of the context.",
    ),
    "rope_step_rows": Advice(
        "It stays at 1 on a busy GPU.",
        "Step several rows or sessions in one request (`batch`, POST /v1/step), or send requests "
        "concurrently.",
    ),
    "rope_ready": Advice(
        "0 for longer than the start: seconds on a CPU, minutes on a GPU that builds kernels.",
        "Read the log from the start: the warm-up logs its failure.",
    ),
    "rope_build": Advice(
        "Replicas differ for longer than a deployment takes.", "Finish the deployment."
    ),
    "nv_inference_request_success": Advice(
        "It does not grow although clients send requests.", "See rope_requests."
    ),
    "nv_inference_count": Advice("See nv_inference_request_success.", "See rope_requests."),
    "nv_inference_exec_count": Advice(
        "It is near nv_inference_count on a busy GPU: calls are not batched.",
        "See rope_batch_requests.",
    ),
    "nv_inference_pending_request_count": Advice("See rope_queue_depth.", "See rope_queue_depth."),
    "nv_inference_request_duration_us": Advice(
        "Its ratio to nv_inference_request_success grows.",
        "See rope_request_duration_seconds, which has percentiles.",
    ),
    "nv_inference_queue_duration_us": Advice(
        "It is most of nv_inference_request_duration_us.", "See rope_queue_wait_seconds."
    ),
    "nv_inference_compute_input_duration_us": _SHARE,
    "nv_inference_compute_infer_duration_us": _SHARE,
    "nv_inference_compute_output_duration_us": _SHARE,
    "nv_inference_request_failure": Advice(
        "It grows faster than 1 % of the requests.",
        "Read the `code` in the log lines of failed requests.",
    ),
}
"""By the name of the metric, without the suffixes of its samples."""
