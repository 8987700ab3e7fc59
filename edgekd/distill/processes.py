"""Several processes that train one network: who they are, and what they tell one another.

Each process computes its share of every batch and then, on gathered outputs, the loss of the whole batch. That gives
the gradient of one process without any factor: the backward of :meth:`Processes.gather` sums the gradients of the N equal
losses, N times what one process has, and the data-parallel wrapper averages over N. Of a loss that is a mean over the
process's own rows, averaging makes the mean over all. Either way the loss of the batch is the mean over processes.

Messages of the run (which stage, what came out, what went wrong) go through the launcher's key-value store, not through
collectives: nobody hangs on a process that is gone, and a signal ends the waiting.
"""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgekd.distill.global_batchnorm import convert, revert
from edgekd.errors import EdgekdError, UsageError
from edgekd.launcher import launched_count
from edgekd.safe import stop

if TYPE_CHECKING:
    from accelerate import Accelerator

_TIMEOUT = timedelta(hours=24)
"""How long a process may be waited for: the main one converts and measures alone."""
_SECONDS_BETWEEN_LOOKS = 0.05
_SECONDS_FOR_LAST_WORDS = 5.0


class OtherFailed(EdgekdError):
    """Another process of the run failed, with its exit code; that process has said why."""

    def __init__(self, message: str, hint: str | None, exit_code: int) -> None:
        super().__init__(message, hint)
        self.exit_code = exit_code


class Processes:
    """The processes that run a recipe together; make them with :func:`join_processes`. This one is alone.

    Attributes:
        count: How many there are.
        rank: Number of this one, from 0.
        device: Where this one computes.
    """

    count, rank = 1, 0

    def __init__(self) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    @property
    def is_main(self) -> bool:
        """Whether this one writes and prints."""
        return self.rank == 0

    def prepare(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, torch.optim.Optimizer]:
        """Return ``module`` so that its backward averages gradients over processes, and the optimizer of its parameters.

        Weights and buffers of the main process are copied to all; batch normalisation becomes that of the whole batch. Where
        ``module`` returns a pair, :meth:`backward` is for losses made of its first part; the second comes as it is.

        Raises:
            ModelError: The batch normalisation of ``module`` is of an unknown kind.
        """
        return module, optimizer

    def release(self, module: nn.Module) -> None:
        """Undo in ``module``, not the one wrapped, what :meth:`prepare` did."""

    def backward(self, loss: Tensor) -> None:
        """Compute the gradients of ``loss``."""
        loss.backward()  # type: ignore[no-untyped-call]

    def clip_grad_norm(self, parameters: Iterable[nn.Parameter], norm: float) -> None:
        """Scale gradients down to ``norm`` where they are larger; the same on every process."""
        torch.nn.utils.clip_grad_norm_(parameters, norm)

    def share(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return this process's part of a global batch: contiguous, all of one length, in rank order.

        Raises:
            UsageError: The batch does not divide into equal parts.
        """
        return indices

    def gather(self, rows: Tensor) -> Tensor:
        """Return ``rows [n, ...]`` of all processes in rank order, ``[count * n, ...]``; gradients flow back."""
        return rows

    def sum(self, *numbers: float) -> list[float]:
        """Return each number summed over processes; all have to call it."""
        return list(numbers)

    def broadcast(self, value: Any = None) -> Any:
        """Return the main process's ``value``, plain JSON; all have to call it, and only the others wait.

        Raises:
            OtherFailed: The main process failed.
            Interrupted: A stop signal came.
        """
        return value

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Run what is inside on the main process before any other."""
        yield

    def wait(self) -> None:
        """Wait until every process is here."""

    def check_others(self) -> None:
        """Raise :class:`OtherFailed` if another process has failed."""

    def failed(self, error: BaseException) -> BaseException:
        """Tell the others that this process failed; return the error to raise: theirs, if it is what caused this one."""
        return error


@cache
def join_processes() -> Processes:
    """Join the processes that the launcher started; without one, this process is alone and nothing is set up.

    Raises:
        UsageError: The launcher's environment variables make no sense.
    """
    return _Launched() if launched_count() > 1 else Processes()


class _Launched(Processes):
    """One of several processes, on top of accelerate."""

    def __init__(self) -> None:
        self._accelerator = _accelerator()
        self.count, self.rank = self._accelerator.num_processes, self._accelerator.process_index
        self.device = self._accelerator.device
        # The launcher's own store; a name of its own for each restart, so that old messages are not read.
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = torch.distributed.TCPStore(address, port, is_master=False, timeout=_TIMEOUT)  # type: ignore[attr-defined]
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        self._store = torch.distributed.PrefixStore(f"edgekd/{attempt}", store)  # type: ignore[attr-defined]
        self._messages = 0

    def prepare(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, torch.optim.Optimizer]:
        self._accelerator.free_memory()
        convert(module, self.device)
        # The optimizer's parameters stay the same objects, so it needs no wrapper.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch renames an option that accelerate passes on
            return _Averaged(module, self._accelerator), optimizer

    def release(self, module: nn.Module) -> None:
        revert(module)

    def backward(self, loss: Tensor) -> None:
        self._accelerator.backward(loss)

    def share(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        if len(indices) % self.count:
            raise UsageError(
                f"a batch of {len(indices)} samples does not divide among {self.count} processes",
                f"set the batch_size of the recipe to a multiple of {self.count}",
            )
        each = len(indices) // self.count
        return indices[self.rank * each : (self.rank + 1) * each]

    def gather(self, rows: Tensor) -> Tensor:
        gathered: Tensor = _Gather.apply(rows)  # type: ignore[no-untyped-call]
        return gathered

    def sum(self, *numbers: float) -> list[float]:
        # Metal and the like have no float64, but NCCL and gloo do.
        sums = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(sums)
        return [float(each) for each in sums]

    def broadcast(self, value: Any = None) -> Any:
        self._messages += 1
        name = f"message/{self._messages}"
        if self.is_main:
            self._store.set(name, json.dumps(value))
            return value
        while not self._store.check([name]):
            self.check_others()
            stop.check_stop()
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        return json.loads(self._store.get(name))

    @contextmanager
    def main_first(self) -> Iterator[None]:
        if not self.is_main:
            self.broadcast()
        yield
        if self.is_main:
            self.broadcast()

    def wait(self) -> None:
        self._accelerator.wait_for_everyone()

    def check_others(self) -> None:
        for rank in range(self.count):
            name = f"error/{rank}"
            if rank != self.rank and self._store.check([name]):
                told = json.loads(self._store.get(name))
                message = told["message"] if rank == 0 else f"process {rank}: {told['message']}"
                raise OtherFailed(message, told["hint"], told["exit_code"])

    def failed(self, error: BaseException) -> BaseException:
        if isinstance(error, OtherFailed):
            self._say_error(error)
            return error
        if not isinstance(error, EdgekdError) and isinstance(error, RuntimeError):
            # A connection that broke says nothing; the process at its other end knows why.
            until = time.monotonic() + _SECONDS_FOR_LAST_WORDS
            while time.monotonic() < until:
                try:
                    self.check_others()
                except OtherFailed as cause:
                    self._say_error(cause)
                    return cause
                except RuntimeError:
                    break  # the store is gone too
                time.sleep(_SECONDS_BETWEEN_LOOKS)
        self._say_error(error)
        return error

    def _say_error(self, error: BaseException) -> None:
        if isinstance(error, EdgekdError):
            told = {"message": error.message, "hint": error.hint, "exit_code": error.exit_code}
        else:
            code = 130 if isinstance(error, KeyboardInterrupt) else 1
            told = {"message": f"{type(error).__name__}: {error}", "hint": None, "exit_code": code}
        try:
            self._store.set(f"error/{self.rank}", json.dumps(told))
        except RuntimeError:
            return  # the store went with the process that kept it: there is nobody left to tell
        if self.is_main:
            self._let_others_read()

    def _let_others_read(self) -> None:
        """Stay for a moment: where this process keeps the store, it would be gone before the others look."""
        time.sleep(4 * _SECONDS_BETWEEN_LOOKS)


class _Averaged(nn.Module):
    """A module in accelerate's data-parallel wrapper, which puts a function of its own behind every tensor it returns.

    Gradients of one output at another would therefore not be found. So the second part of a pair goes around the wrapper.
    """

    def __init__(self, module: nn.Module, accelerator: Accelerator) -> None:
        super().__init__()
        self._around = _Around(module)
        self._parallel = accelerator.prepare(self._around)

    def forward(self, *inputs: Any) -> Any:
        through = self._parallel(*inputs)
        beside, self._around.beside = self._around.beside, ()
        return (through, *beside) if beside else through


class _Around(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.beside: tuple[Any, ...] = ()

    def forward(self, *inputs: Any) -> Any:
        made = self.module(*inputs)
        if isinstance(made, tuple) and len(made) == 2:
            self.beside = made[1:]
            return made[0]
        return made


def _accelerator() -> Accelerator:
    threads = torch.get_num_threads()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it chooses a number of threads, which is undone below
        from accelerate import Accelerator
        from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

        made = Accelerator(
            cpu=not torch.cuda.is_available(),
            mixed_precision="no",
            kwargs_handlers=[
                DistributedDataParallelKwargs(find_unused_parameters=True, broadcast_buffers=False),
                InitProcessGroupKwargs(timeout=_TIMEOUT),
            ],
        )
    torch.set_num_threads(threads)
    return made


class _Gather(torch.autograd.Function):
    """Rows of all processes. Backward: each gets the sum over processes of the gradients at its own rows."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        rows = rows.contiguous()
        ctx.length = len(rows)
        parts = [torch.empty_like(rows) for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather(parts, rows)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        whole = gradients[0].contiguous().clone()
        torch.distributed.all_reduce(whole)
        start = torch.distributed.get_rank() * ctx.length
        return whole[start : start + ctx.length]
