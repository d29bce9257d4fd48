"""NVIDIA's graphics cards: the part of one that an engine has, and how much memory that is."""

from __future__ import annotations

import re
import subprocess
from typing import NamedTuple, Self

from fruitpipe.errors import UserError

CONTEXT = 512 << 20
"""Bytes of a card that each process takes before it has computed anything."""


class Gpu(NamedTuple):
    """A part of a graphics card. As the device of an engine it is cuda:NUMBER/TASKS."""

    number: int
    """as CUDA counts the cards that there are for this process"""
    tasks: int
    """processes that have such a part, at most"""

    def __str__(self) -> str:
        return f"cuda:{self.number}/{self.tasks}"

    @classmethod
    def at(cls, address: str, tasks: int) -> Self:
        """Of a card by the address that Spark has for it. Raises UserError where that is no number."""
        if not re.fullmatch(r"\d{1,4}", address):
            raise UserError(
                f"Spark has a GPU at address {address}, and CUDA counts them: have the discovery script print numbers "
                "from 0, as /opt/gpus.sh of fruitpipe's image does."
            )
        return cls(int(address), tasks)

    @classmethod
    def named(cls, device: str) -> Self | None:
        """Of the device of an engine; None where that is another."""
        match = re.fullmatch(r"cuda:(\d+)/(\d+)", device)
        return cls(*map(int, match.groups())) if match else None

    @property
    def memory(self) -> int:
        """Bytes that a process may compute in. Raises UserError where nobody says, or it is too little."""
        whole = memory_of(self.number)
        if (part := whole // self.tasks - CONTEXT) <= 0:
            raise UserError(
                f"{self.tasks} tasks are too many for a GPU of {whole >> 20} MiB, of which each takes {CONTEXT >> 20} "
                "MiB before it computes: lower executor.cores, or raise executor.gpu.taskAmount."
            )
        return part


def memory_of(number: int) -> int:
    """Bytes of a card, as its driver says. Raises UserError where that does not answer."""
    command = ["nvidia-smi", f"--id={number}", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
        said = done.stdout.strip() or done.stderr.strip() or f"exit code {done.returncode}"
    except OSError as error:
        said = error.strerror or str(error)
    except subprocess.TimeoutExpired:
        said = "no answer in 30 s"
    if not re.fullmatch(r"\d+", said):
        raise UserError(
            f"nvidia-smi does not say how much memory GPU {number} has ({said.splitlines()[0]}): check NVIDIA's driver "
            "and container toolkit on this node."
        )
    return int(said) << 20
