"""The run-time checker of tensor shapes that conftest.py installs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

from beartype import beartype
from jaxtyping import AbstractArray


def check_shapes(function: Callable[..., Any]) -> Callable[..., Any]:
    """beartype on the parameters and results that declare a tensor's shape and dtype, and on no other.

    Wrong values of other types are the library's own to refuse, with errors that these tests expect.
    """
    hints = function.__annotations__
    function.__annotations__ = {name: hint for name, hint in hints.items() if _is_shaped(hint)}
    return beartype(function)


def _is_shaped(hint: Any) -> bool:
    if isinstance(hint, type) and issubclass(hint, AbstractArray):
        return True
    return any(_is_shaped(part) for part in get_args(hint))
