"""GPUs that are not there: tensors stay on the CPU, with real numbers, but obey CUDA's rules.

    with SimulatedGpus(devices=2) as gpus:
        lm = caploc.load_model(folder, "cuda")
        ...
    gpus.peak, gpus.launches, gpus.syncs

A table says which *storages* are pretended to lie on which GPU, so that views, ``.data`` swaps, what autograd saves and
results written in place are where their memory is. Two modes keep it. One sees every kernel, forward and backward:
it refuses operands on different devices, as CUDA does, places results where their operands are, and counts bytes. The
other answers what Python asks of tensors: their device, to be moved, to be made on a device, to become numpy arrays.

Not simulated: speed, another rounding, streams, pinned memory, fragmentation, kernels that CUDA lacks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any, NamedTuple, Self
from unittest import mock

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

CPU = torch.device("cpu")
_ATEN = torch.ops.aten

_INDEXED = {
    _ATEN.index.Tensor,
    _ATEN._unsafe_index.Tensor,
    _ATEN.index_put.default,
    _ATEN.index_put_.default,
    _ATEN._index_put_impl_.default,
}
"""Kernels that take indices from the CPU, too."""
_WAITS = {
    _ATEN._local_scalar_dense.default,
    _ATEN.nonzero.default,
    _ATEN.equal.default,
    _ATEN.masked_select.default,
    _ATEN._unique2.default,
    _ATEN.unique_dim.default,
    _ATEN.repeat_interleave.Tensor,
}
"""Kernels that the CPU has to wait for: what they give, or its size, is a number that Python sees."""


class DeviceMismatch(RuntimeError):
    """Operands on different devices, or a generator on another."""


class _Placed(NamedTuple):
    storage: StorageWeakRef  # while it is held, the storage's address is not given to another
    device: torch.device
    size: int


class SimulatedGpus:
    """Pretends, within ``with``, that the machine has GPUs.

    Args:
        devices: how many.
        memory: bytes that each is said to have in all.

    Attributes:
        limit: bytes that each may hold from now on; None for ``memory``. Beyond, allocations raise
            ``torch.cuda.OutOfMemoryError``.
        peak: by device, the most bytes held so far; may be set back.
        launches: kernels run on a GPU; views run none.
        waits: by kind, how often the CPU had to wait for a GPU.
    """

    def __init__(self, devices: int = 1, memory: int = 80 << 30) -> None:
        self.memory, self.limit = memory, None
        self._gpus = [torch.device("cuda", index) for index in range(devices)]
        self.held = dict.fromkeys(self._gpus, 0)
        self.peak = dict.fromkeys(self._gpus, 0)
        self.launches, self.waits = 0, Counter[str]()
        self._placed: dict[int, _Placed] = {}
        self._target: torch.device | None = None
        self._functions, self._kernels = _Functions(self), _Kernels(self)
        self._stack = ExitStack()

    limit: int | None

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for name, value in self._cuda().items():
                stack.enter_context(mock.patch.object(torch.cuda, name, value))
            run = torch.autograd._engine_run_backward  # type: ignore[attr-defined]

            def backward(*args: Any, **kwargs: Any) -> Any:
                with self._functions:  # Python's own backward functions ask for devices, too
                    return run(*args, **kwargs)

            stack.enter_context(mock.patch.object(torch.autograd, "_engine_run_backward", backward))
            stack.enter_context(self._kernels)
            stack.enter_context(self._functions)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def _cuda(self) -> dict[str, Callable[..., Any]]:
        """What ``torch.cuda`` says instead."""

        def properties(device: Any = None) -> SimpleNamespace:
            return SimpleNamespace(total_memory=self.memory, name="simulated", major=9, minor=0)

        return {
            "is_available": lambda: True,
            "is_initialized": lambda: True,
            "is_bf16_supported": lambda *args, **kwargs: True,
            "device_count": lambda: len(self._gpus),
            "current_device": lambda: 0,
            "get_device_properties": properties,
            "get_device_name": lambda device=None: "simulated",
            "get_device_capability": lambda device=None: (9, 0),
            # as torch's allocator keeps what was freed, the card itself never looks emptier than at the peak
            "mem_get_info": lambda device=None: (
                self.memory - self.peak[self.device(device or 0)],
                self.memory,
            ),
            "memory_allocated": lambda device=None: self.live(device or 0),
            "empty_cache": lambda: None,
            "synchronize": lambda device=None: None,
            "Stream": lambda device=None: SimpleNamespace(wait_stream=lambda other: None),
            "current_stream": lambda device=None: SimpleNamespace(wait_stream=lambda other: None),
            "stream": nullcontext,
            "manual_seed_all": lambda seed: None,
            "get_rng_state": lambda device=None: torch.empty(0, dtype=torch.uint8),
            "set_rng_state": lambda state, device=None: None,
            "_lazy_init": lambda: None,
        }

    # ------------------------------------------------------------------------------------------- where tensors lie

    def device(self, asked: Any) -> torch.device:
        """A device as asked for, with its number. Raises ``RuntimeError`` for a GPU that is not pretended either."""
        device = torch.device("cuda", asked) if isinstance(asked, int) else torch.device(asked)
        if device.type != "cuda":
            return device
        if (device.index or 0) >= len(self._gpus):
            raise RuntimeError("CUDA error: invalid device ordinal")
        return self._gpus[device.index or 0]

    def device_of(self, tensor: Tensor) -> torch.device:
        """Where a tensor is pretended to lie."""
        storage = _storage(tensor)
        placed = self._placed.get(storage._cdata)
        return storage.device if placed is None else placed.device

    def place(self, tensor: Tensor, device: torch.device) -> None:
        """Pretend that a new tensor lies on ``device``."""
        storage = _storage(tensor)
        if device.type != "cuda" or storage.device.type != "cpu" or storage._cdata in self._placed:
            return
        size, most = storage.nbytes(), self.memory if self.limit is None else self.limit
        if self.held[device] + size > min(most, self.peak[device]):
            self._forget_freed()
        if self.held[device] + size > most:
            free = most - self.held[device]
            raise torch.cuda.OutOfMemoryError(  # as torch words it
                f"CUDA out of memory. Tried to allocate {_bytes(size)}. GPU {device.index} has a total capacity of "
                f"{_bytes(most)} of which {_bytes(free)} is free."
            )
        self._placed[storage._cdata] = _Placed(StorageWeakRef(storage), device, size)
        self.held[device] += size
        self.peak[device] = max(self.peak[device], self.held[device])

    def live(self, device: Any = 0) -> int:
        """Bytes that a GPU holds right now."""
        self._forget_freed()
        return self.held[self.device(device)]

    def begin(self) -> dict[torch.device, int]:
        """Measure the peak from here on; what each GPU holds now."""
        self._forget_freed()
        self.peak = dict(self.held)
        return dict(self.held)

    def _forget_freed(self) -> None:
        for key in [key for key, placed in self._placed.items() if placed.storage.expired()]:
            gone = self._placed.pop(key)
            self.held[gone.device] -= gone.size

    @contextmanager
    def making_on(self, device: torch.device) -> Iterator[None]:
        """All that is made within is put on ``device``, wherever its operands lie."""
        before, self._target = self._target, device
        try:
            yield
        finally:
            self._target = before

    def moved(self, tensor: Tensor, device: torch.device, copy: bool = False) -> Tensor:
        """``tensor`` on ``device``, itself if it lies there and no copy is asked for; gradients move back."""
        if self.device_of(tensor) == device and not copy:
            return tensor
        found: Tensor = _Moved.apply(tensor, self, device)
        return found

    def copied(self, tensor: Tensor, device: torch.device) -> Tensor:
        """A copy on ``device``, without a gradient."""
        if device == CPU:
            self.waits["copy to the CPU"] += self.device_of(tensor) != CPU
        source = tensor.detach()
        with self.making_on(device):
            return source.clone()

    # ------------------------------------------------------------------------------------------------- CUDA's rules

    def run(self, kernel: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Run one kernel where its operands lie."""
        device = self._common(kernel, args, kwargs) if self._target is None else self._target
        result = kernel(*args, **kwargs)
        if device.type == "cuda":
            self.launches += not kernel.is_view
            mask = kernel in _INDEXED and any(index.dtype == torch.bool for index in _tensors(args[1]))
            if kernel in _WAITS or mask:
                self.waits[str(kernel)] += 1
            for tensor in _tensors(result):
                self.place(tensor, device)
        return result

    def _common(self, kernel: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> torch.device:
        """Where a kernel runs: all of its operands must lie there, but for single numbers on the CPU."""
        if kernel is _ATEN.copy_.default:
            into, source = self.device_of(args[0]), self.device_of(args[1])
            if into == CPU != source:
                self.waits["copy to the CPU"] += 1
            return into
        if str(kernel).startswith(
            ("aten._foreach_", "aten._fused_")
        ):  # torch itself sorts their lists by device
            return next((self.device_of(one) for one in _tensors(args)), CPU)
        operands = (
            [*_tensors(args[:1]), *_tensors(args[2:])] if kernel in _INDEXED else _tensors((args, kwargs))
        )
        devices = [(self.device_of(one), one.dim()) for one in operands]
        of_arrays = {device for device, dimensions in devices if dimensions or device != CPU}
        if kernel in _INDEXED:
            own = devices[0][0]
            of_arrays |= {own, *(self.device_of(index) for index in _tensors(args[1]))} - {
                CPU if own != CPU else own
            }
        if len(of_arrays) > 1:
            where = ", ".join(
                f"{tuple(one.shape)} on {self.device_of(one)}" for one in _tensors((args, kwargs))
            )
            raise DeviceMismatch(
                f"{kernel}: expected all tensors to be on the same device, but found at least two: {where}"
            )
        device = of_arrays.pop() if of_arrays else CPU
        if device != CPU and kwargs.get("generator") is not None:
            raise DeviceMismatch(f"{kernel}: expected a 'cuda' device type for generator but found 'cpu'")
        return device


class _Moved(torch.autograd.Function):
    """A copy on another device, whose gradient goes back to where the tensor is."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, gpus: SimulatedGpus, device: torch.device) -> Tensor:
        ctx.gpus, ctx.origin = gpus, gpus.device_of(tensor)
        return gpus.copied(tensor, device)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return ctx.gpus.copied(grad, ctx.origin), None, None


class _Kernels(TorchDispatchMode):
    """Sees every kernel, forward and backward."""

    def __init__(self, gpus: SimulatedGpus) -> None:
        super().__init__()
        self._gpus = gpus

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunction():
            return self._gpus.run(func, args, kwargs or {})


class _Functions(TorchFunctionMode):
    """Answers what Python asks of tensors and of those that make them."""

    def __init__(self, gpus: SimulatedGpus) -> None:
        super().__init__()
        self._gpus = gpus
        of = gpus.device_of
        self._answers: dict[Any, Callable[..., Any]] = {
            Tensor.device.__get__: of,
            Tensor.is_cuda.__get__: lambda tensor: of(tensor).type == "cuda",
            Tensor.is_cpu.__get__: lambda tensor: of(tensor).type == "cpu",
            Tensor.get_device: lambda tensor: -1 if of(tensor) == CPU else of(tensor).index,
            Tensor.cpu: lambda tensor, **how: gpus.moved(tensor, CPU),
            Tensor.cuda: lambda tensor, device="cuda", **how: gpus.moved(
                tensor, gpus.device(device or "cuda")
            ),
            Tensor.to: self._to,
            Tensor.type_as: self._to,
            Tensor.pin_memory: lambda tensor, *how: tensor,
            Tensor.numpy: self._numpy,
            Tensor.__array__: self._numpy,
            Tensor.tolist: self._tolist,
            Tensor.__deepcopy__: self._deepcopy,
            Tensor.new_tensor: lambda tensor, data, **how: torch.tensor(
                data, **{"device": of(tensor), "dtype": tensor.dtype, **how}
            ),
            torch.as_tensor: self._as_tensor,
            torch.asarray: self._as_tensor,
        }

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        answer = self._answers.get(func)
        if answer is not None:
            if func is Tensor.new_tensor:
                with self:
                    return answer(*args, **kwargs)
            return answer(*args, **kwargs)
        if kwargs.get("device") is None or func is torch.load:
            return func(*args, **kwargs)
        device = self._gpus.device(kwargs["device"])
        if device.type == "meta":
            return func(*args, **kwargs)
        if device != CPU and kwargs.get("generator") is not None:
            raise DeviceMismatch(f"{func}: expected a 'cuda' device type for generator but found 'cpu'")
        with self._gpus.making_on(device):
            made = func(*args, **{**kwargs, "device": CPU})
        for tensor in _tensors(made):
            self._gpus.place(tensor, device)
        return made

    def _to(self, tensor: Tensor, *args: Any, copy: bool = False, **kwargs: Any) -> Tensor:
        device, dtype = kwargs.get("device"), kwargs.get("dtype")
        for value in (*args[:2], kwargs.get("other")):
            if isinstance(value, Tensor):
                device, dtype = self._gpus.device_of(value), value.dtype
            elif isinstance(value, torch.dtype):
                dtype = value
            elif isinstance(value, (str, torch.device)) or type(value) is int:
                device = value
        layout = kwargs.get("memory_format", torch.preserve_format)
        here = self._gpus.device_of(tensor)
        wanted = here if device is None else self._gpus.device(device)
        if wanted.type == "meta" or here.type == "meta":
            return Tensor.to(tensor, wanted, dtype, copy=copy)
        cast = Tensor.to(tensor, dtype=dtype or tensor.dtype, memory_format=layout)
        return self._gpus.moved(cast, wanted, copy=copy and cast is tensor)

    def _as_tensor(self, data: Any, *args: Any, device: Any = None, **kwargs: Any) -> Tensor:
        made: Tensor = torch.as_tensor(data, *args, **kwargs)
        return made if device is None else self._gpus.moved(made, self._gpus.device(device))

    def _on_cpu(self, tensor: Tensor) -> None:
        device = self._gpus.device_of(tensor)
        if device != CPU:
            raise TypeError(
                f"can't convert {device} device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host "
                "memory first."
            )

    def _numpy(self, tensor: Tensor, *args: Any, force: bool = False, **kwargs: Any) -> Any:
        if force:
            return self._gpus.moved(tensor.detach(), CPU).numpy(force=True)
        self._on_cpu(tensor)
        return tensor.numpy() if not args else tensor.__array__(*args, **kwargs)

    def _tolist(self, tensor: Tensor) -> Any:
        self._gpus.waits["tolist"] += self._gpus.device_of(tensor) != CPU
        return tensor.tolist()

    def _deepcopy(self, tensor: Tensor, memo: Any) -> Tensor:
        made: Tensor = tensor.__deepcopy__(memo)
        self._gpus.place(made, self._gpus.device_of(tensor))
        return made


def _bytes(count: int) -> str:
    return f"{count / (1 << 30):.2f} GiB" if count >= 1 << 30 else f"{count / (1 << 20):.2f} MiB"


def _storage(tensor: Tensor) -> torch.UntypedStorage:
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor.untyped_storage()


def _tensors(tree: Any) -> Iterator[Tensor]:
    """All tensors in nested tuples, lists and dictionaries."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, (tuple, list)):
        for part in tree:
            yield from _tensors(part)
    elif isinstance(tree, dict):
        yield from _tensors(list(tree.values()))
