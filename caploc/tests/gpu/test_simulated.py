"""The simulated GPUs obey CUDA's rules, and count what they hold."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from caploc.tests.gpu.simulated import CPU, DeviceMismatch, SimulatedGpus

FIRST, SECOND = torch.device("cuda:0"), torch.device("cuda:1")
MIB = 1 << 20


@pytest.fixture
def gpus() -> Iterator[SimulatedGpus]:
    with SimulatedGpus(devices=2) as simulated:
        yield simulated


def test_made_and_moved_tensors_say_where_they_are(gpus: SimulatedGpus) -> None:
    number = torch.ones(3, device="cuda")
    assert number.device == FIRST and number.is_cuda and not number.is_cpu and number.get_device() == 0
    assert number.view(1, 3).device == number.expand(2, 3).device == (number * 2).device == FIRST
    assert number.new_zeros(2).device == torch.zeros_like(number).device == FIRST
    assert number.new_tensor([1.0]).device == torch.tensor([1], device="cuda").device == FIRST
    assert (
        torch.zeros_like(number, device="cpu").device == number.cpu().device == number.to("cpu").device == CPU
    )
    assert (
        number.to("cuda:1").device
        == number.cuda(1).device
        == torch.as_tensor([1], device="cuda:1").device
        == SECOND
    )
    assert number.to("cuda") is number and number.to("cuda", copy=True) is not number
    assert number.to(torch.ones(1, dtype=torch.float64)).dtype == torch.float64
    places = torch.arange(3)
    assert places.to("cuda").device == FIRST and places.device == CPU
    assert torch.ones(3).device == CPU and copy.deepcopy(number).device == FIRST
    assert nn.Linear(3, 2).to("cuda:1").weight.device == SECOND
    with torch.device("cuda:1"):
        assert nn.Linear(3, 2).weight.device == SECOND
    assert torch.ones(3, device="meta").device.type == "meta"


MIXED: dict[str, Callable[[Tensor, Tensor], object]] = {
    "sum": lambda gpu, cpu: gpu + cpu,
    "product": lambda gpu, cpu: gpu @ cpu,
    "lists": lambda gpu, cpu: torch.cat([gpu, cpu]),
    "in place": lambda gpu, cpu: gpu.add_(cpu),
    "other in place": lambda gpu, cpu: cpu.mul_(gpu),
    "two cards": lambda gpu, cpu: gpu + gpu.to("cuda:1"),
    "choice": lambda gpu, cpu: torch.where(gpu > 0, gpu, cpu),
    "indices on the card": lambda gpu, cpu: cpu[gpu.long()],
    "indices on another card": lambda gpu, cpu: gpu[gpu.to("cuda:1").long()],
    "values on the CPU": lambda gpu, cpu: gpu.index_put((cpu.long(),), cpu),
    "row choice": lambda gpu, cpu: gpu.index_select(0, cpu.long()),
    "a generator": lambda gpu, cpu: gpu.normal_(generator=torch.Generator()),
    "a generator of what is made": lambda gpu, cpu: torch.rand(2, device="cuda", generator=torch.Generator()),
}


@pytest.mark.parametrize("name", MIXED)
def test_devices_do_not_mix(gpus: SimulatedGpus, name: str) -> None:
    with pytest.raises(DeviceMismatch):
        MIXED[name](torch.ones(2, device="cuda"), torch.ones(2))


def test_what_cuda_lets_pass(gpus: SimulatedGpus) -> None:
    number = torch.arange(4.0, device="cuda")
    assert (number + torch.tensor(2.0)).device == (torch.tensor(2.0) * number).device == FIRST
    assert number[torch.tensor([1, 2])].device == FIRST
    number[torch.tensor([True, False, False, False])] = torch.tensor(5.0)
    number.copy_(torch.zeros(4))
    assert torch.zeros(4).copy_(number).device == CPU
    with pytest.raises(RuntimeError, match="invalid device ordinal"):
        torch.ones(1, device="cuda:2")


def test_arrays_come_from_the_cpu(gpus: SimulatedGpus) -> None:
    number = torch.ones(2, device="cuda")
    for convert in (number.numpy, lambda: np.asarray(number)):
        with pytest.raises(TypeError, match="host memory first"):
            convert()
    assert number.numpy(force=True).tolist() == number.cpu().numpy().tolist() == number.tolist() == [1, 1]


class _Python(torch.autograd.Function):
    @staticmethod
    def forward(ctx, states):  # type: ignore[no-untyped-def]
        return states * 2

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        return grad * torch.full((1,), 2.0, device=grad.device)


def test_gradients_are_where_their_tensors_are(gpus: SimulatedGpus) -> None:
    leaf = torch.ones(2, device="cuda", requires_grad=True)
    moved = _Python.apply(leaf.to("cuda:1"))
    (gradient,) = torch.autograd.grad((moved * torch.ones(2, device="cuda:1")).sum().cpu(), leaf)
    assert gradient.device == FIRST and gradient.tolist() == [2, 2]
    moved.sum().backward()
    assert leaf.grad is not None and leaf.grad.device == FIRST


def test_a_mismatch_in_backward_is_seen(gpus: SimulatedGpus) -> None:
    class Wrong(_Python):
        @staticmethod
        def backward(ctx, grad):  # type: ignore[no-untyped-def]
            return grad * torch.full((2,), 2.0)

    leaf = torch.ones(2, device="cuda", requires_grad=True)
    with pytest.raises(DeviceMismatch):
        Wrong.apply(leaf).sum().backward()


def test_memory_is_counted_by_device(gpus: SimulatedGpus) -> None:
    kept = torch.zeros(MIB, dtype=torch.uint8, device="cuda")
    gone = torch.zeros(2 * MIB, dtype=torch.uint8, device="cuda:1")
    view = kept[: MIB // 2]
    assert (gpus.live(0), gpus.live(1)) == (MIB, 2 * MIB)
    del gone, kept
    assert (gpus.live(0), gpus.live(1)) == (MIB, 0) and gpus.peak[SECOND] == 2 * MIB
    del view
    gpus.begin()
    assert gpus.live(0) == gpus.peak[SECOND] == 0


def test_memory_runs_out(gpus: SimulatedGpus) -> None:
    gpus.limit = 3 * MIB
    half, ran_out = torch.zeros(2 * MIB, dtype=torch.uint8, device="cuda"), False
    try:
        half + half
    except torch.cuda.OutOfMemoryError:
        ran_out = True
    other = half.to("cuda:1")  # has a limit of its own
    del half
    assert ran_out and torch.zeros(3 * MIB, dtype=torch.uint8, device="cuda").device == FIRST
    gpus.limit = None
    assert (other + other).device == SECOND


def test_work_is_counted(gpus: SimulatedGpus) -> None:
    number = torch.ones(4, device="cuda")
    before = gpus.launches
    assert float((number * 2).sum()) == 8
    torch.ones(3) * 2  # none of theirs
    assert gpus.launches - before == 3 and sum(gpus.waits.values()) == 1
    number[number > 0].cpu()
    assert gpus.waits["copy to the CPU"] == 1 and sum(gpus.waits.values()) == 3


def test_torch_is_as_it_was_afterwards() -> None:
    found = torch.cuda.is_available()
    with pytest.raises(ZeroDivisionError), SimulatedGpus(devices=3):
        kept = torch.ones(2, device="cuda:2")
        assert torch.cuda.is_available() and torch.cuda.device_count() == 3
        1 / 0  # noqa: B018
    assert torch.cuda.is_available() == found and kept.device == CPU and (kept + torch.ones(2)).device == CPU
