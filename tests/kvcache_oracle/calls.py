"""Calls of a program: data that can be run again, shortened and printed."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Numbers:
    """A tensor of normal numbers that depends on its seed alone."""

    seed: int
    shape: tuple[int, ...]
    dtype: str

    @cached_property
    def tensor(self) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        numbers = torch.randn(self.shape, generator=generator, dtype=torch.float64)
        return numbers.to(DTYPES[self.dtype])


@dataclass(frozen=True)
class Given:
    """A tensor of whole numbers or truth values, written out."""

    values: Any
    dtype: str = "int64"

    @cached_property
    def tensor(self) -> Tensor:
        return torch.tensor(self.values, dtype=getattr(torch, self.dtype))


@dataclass(frozen=True)
class Call:
    """An operation of a session.

    `session`, and `source` in `params`, are numbers of sessions in the order of their creation;
    `create` and `fork` name the number of the (first) new one in `new`.
    """

    session: int
    operation: str
    params: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, Numbers | Given] = field(default_factory=dict)
    new: int = -1
    delivery: str = "once"
    """`once`; `twice`: sent again with the same bytes; `dropped`: the first answer is lost."""

    @property
    def tensors(self) -> dict[str, Tensor]:
        return {name: each.tensor for name, each in self.inputs.items()}


@dataclass
class Answer:
    """What an operation answers: members of the answer, and tensors."""

    members: dict[str, Any]
    tensors: dict[str, Tensor] = field(default_factory=dict)


class Refused(Exception):
    """An operation was refused; nothing has changed.

    `code` may be empty: any code of this status. `also`: other codes that are as good, where the
    contract does not say which of two reasons is told. `members` are those of the problem.
    """

    def __init__(
        self, status: int, code: str = "", *, also: tuple[str, ...] = (), **members: Any
    ) -> None:
        super().__init__(f"{status} {code} {members}")
        self.status, self.code, self.also, self.members = status, code, also, members
