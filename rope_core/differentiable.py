"""Rotation with gradients: if x' = R x, the gradient of x is R^T times that of x'."""

from typing import Any

import torch
from torch import Tensor

from rope_core.calls import Rotate, Rotated, with_fields
from rope_core.gradients import refuse_gradients
from rope_core.rotary import run_rotate

CONSTANTS = ("positions", "cu_seqlens", "frequencies")
"""Tensors of a rotation that its gradient reads unchanged."""


def rotate_with_gradients(call: Rotate, backend: str | None = None) -> Rotated:
    """Rotate q and k; autograd can differentiate the result, any number of times.

    Arguments and errors are those of `run_rotate`.

    Raises:
        ShapeError: frequencies or positions require gradients.
    """
    refuse_gradients(call, "rotate", "q", "k")
    q, k, name = _Rotation.apply(call.q, call.k, call, backend, False)  # type: ignore[no-untyped-call]
    return Rotated(q, k, name)


class _Rotation(torch.autograd.Function):
    """x -> R x of q and k; None for None. Gradients are rotated in their own dtype."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor | None,
        k: Tensor | None,
        call: Rotate,
        backend: str | None,
        transposed: bool,
    ) -> tuple[Tensor | None, Tensor | None, str]:
        # autograd reports an error if one of them is written to before the gradient is computed
        ctx.save_for_backward(*(getattr(call, name) for name in CONSTANTS))
        ctx.call = with_fields(call, dict.fromkeys(("q", "k", *CONSTANTS)))
        ctx.backend, ctx.transposed = backend, transposed
        ctx.set_materialize_grads(False)
        rotated = run_rotate(with_fields(call, {"q": q, "k": k}), None, backend, transposed)
        outs = rotated.q, rotated.k
        constant = [
            out
            for out, needed in zip(outs, ctx.needs_input_grad[:2], strict=True)
            if out is not None and not needed
        ]
        ctx.mark_non_differentiable(*constant)
        return *outs, rotated.backend

    @staticmethod
    def backward(
        ctx: Any, q_grad: Tensor | None, k_grad: Tensor | None, _: None
    ) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        if q_grad is None and k_grad is None:
            return None, None, None, None, None
        call = with_fields(ctx.call, dict(zip(CONSTANTS, ctx.saved_tensors, strict=True)))
        q, k, _name = _Rotation.apply(  # type: ignore[no-untyped-call]
            q_grad, k_grad, call, ctx.backend, not ctx.transposed
        )
        return q, k, None, None, None
