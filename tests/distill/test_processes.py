"""Several real processes give the gradient of one, and end together when one fails."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgekd.distill.processes import OtherFailed, join_processes
from edgekd.errors import FolderInUse, UsageError
from edgekd.progress import Silent
from edgekd.workspace import open_workspace
from tests.distill.launched import run_function


def _network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 3)).double()


def check_training_step(_folder: Path) -> None:
    """In every process: a loss between samples of the whole batch, one step, as in one process."""
    processes = join_processes()
    alone, network = _network(), _network()
    rows = torch.from_numpy(np.random.default_rng(0).normal(size=(8, 5)))
    indices = processes.share(np.arange(8))
    assert indices.tolist() == list(range(4 * processes.rank, 4 * processes.rank + 4))

    def between(outputs: torch.Tensor) -> torch.Tensor:
        return (outputs @ outputs.T).pow(2).mean() + outputs.logsumexp(1).mean()

    first, made = (torch.optim.SGD(each.parameters(), lr=0.1, momentum=0.9) for each in (alone, network))
    wrapped, second = processes.prepare(network, made)
    for _ in range(3):
        expected = between(alone(rows))
        first.zero_grad()
        expected.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(alone.parameters(), 0.5)
        first.step()
        value = between(processes.gather(wrapped(rows[indices])))
        torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-10)
        second.zero_grad()
        processes.backward(value)
        processes.clip_grad_norm(network.parameters(), 0.5)
        second.step()
    processes.release(network)
    assert type(network[1]) is nn.BatchNorm1d  # type: ignore[index]
    for name, each in alone.state_dict().items():
        torch.testing.assert_close(network.state_dict()[name], each, rtol=1e-9, atol=1e-9)


class _Terms(nn.Module):
    """Returns two terms, of which one may be left out of the loss, and where their gradients are compared."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.adapter = _network(), nn.Linear(3, 3).double()

    def forward(self, rows: torch.Tensor) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        logits = join_processes().gather(self.body(rows))
        terms = {"first": logits.logsumexp(1).mean(), "second": self.adapter(logits).pow(2).mean()}
        return terms, {"second": logits}


def check_terms(_folder: Path) -> None:
    """In every process: terms can be compared where they meet, and left out, their own parameters with them."""
    processes = join_processes()
    lesson = _Terms()
    rows = torch.from_numpy(np.random.default_rng(0).normal(size=(8, 5)))
    wrapped, _ = processes.prepare(lesson, torch.optim.SGD(lesson.parameters(), lr=0.1))
    for step in range(4):
        terms, reaches = wrapped(rows[processes.share(np.arange(8))])
        for each in terms.values():
            (gradient,) = torch.autograd.grad(each, reaches["second"], retain_graph=True)
            assert gradient.abs().sum() > 0
        lesson.zero_grad()
        processes.backward(terms["first"] if step % 2 else terms["first"] + terms["second"])
        assert (lesson.adapter.weight.grad is None) == bool(step % 2)


def check_messages(folder: Path) -> None:
    """In every process."""
    threads = torch.get_num_threads()
    processes = join_processes()
    assert processes is join_processes() and torch.get_num_threads() == threads
    assert processes.count == 2 and processes.is_main == (processes.rank == 0)
    assert processes.sum(1.0, float(processes.rank)) == [2.0, 1.0]
    said = {"a": [1, None]}
    assert processes.broadcast(said if processes.is_main else None) == said
    with processes.main_first():
        if processes.is_main:
            (folder / "made").touch()
        assert (folder / "made").exists()
    with pytest.raises(UsageError, match="7 samples does not divide among 2 processes"):
        processes.share(np.arange(7))
    processes.wait()


def check_stages(folder: Path) -> None:
    """In every process: one works alone, all work together, a second time nothing is done."""
    rank = join_processes().rank
    worked: list[str] = []

    def work(name: str) -> dict[str, int]:
        worked.append(name)
        return {"rank": rank}

    for _ in range(2):
        with open_workspace(folder / "run", Silent()) as workspace:
            assert workspace.follows == (rank == 1)
            for name, together in (("alone", False), ("all", True)):
                done = workspace.stage(
                    name, "", {}, lambda _folder, name=name: work(name), lambda _: "", together  # type: ignore[misc]
                )  # fmt: skip
                assert done.result == {"rank": 0}
    assert worked == (["all"] if rank else ["alone", "all"])
    entries = [json.loads(line) for line in (folder / "run/stages/journal.jsonl").read_text().splitlines() if line]
    assert [each["stage"] for each in entries] == ["alone", "all"]


def check_main_fails(folder: Path) -> None:
    """In every process: an error of the main one alone ends the other."""

    def fail(_folder: Path) -> dict[str, int]:
        raise FolderInUse("the disk is on fire", "put it out")

    expected = pytest.raises(UsageError if join_processes().is_main else OtherFailed, match="on fire")
    with expected as caught, open_workspace(folder / "run", Silent()) as workspace:
        workspace.stage("fails", "", {}, fail, lambda _: "")
    assert caught.value.exit_code == 2 and caught.value.hint == "put it out"


def check_follower_fails(folder: Path) -> None:
    """In every process: an error of a follower during common work ends the main one, which says whose it is."""
    processes = join_processes()

    def work(_folder: Path) -> dict[str, int]:
        if not processes.is_main:
            raise UsageError("no such file")
        while True:
            processes.check_others()

    expected = pytest.raises(OtherFailed if processes.is_main else UsageError, match="no such file")
    with expected as caught, open_workspace(folder / "run", Silent()) as workspace:
        workspace.stage("fails", "", {}, work, lambda _: "", together=True)
    assert caught.value.exit_code == 2
    assert not processes.is_main or caught.value.message.startswith("process 1: ")


@pytest.mark.parametrize("check", ["training_step", "terms", "messages", "stages", "main_fails", "follower_fails"])
def test_in_two_processes(check: str, tmp_path: Path) -> None:
    run_function(f"tests.distill.test_processes:check_{check}", tmp_path)


def test_alone_everything_is_free() -> None:
    processes = join_processes()
    rows = torch.ones(3, 2)
    assert (processes.count, processes.rank, processes.is_main) == (1, 0, True)
    assert processes.gather(rows) is rows and processes.broadcast(5) == 5 and processes.sum(1.5) == [1.5]
    assert not torch.distributed.is_initialized()
