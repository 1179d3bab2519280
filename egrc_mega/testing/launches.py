"""Notes which kernels would be launched, and with what, instead of launching them: no GPU is needed.

The launchers run as they are, on tensors without memory; Triton itself says how it would specialise a launch, so that
what is compiled from a note is what a GPU would run, alignments included.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Launch:
    """One launch of a kernel."""

    kernel: Any
    """Triton's JITFunction."""
    values: dict[str, Any]
    """Name of an argument -> its tensor, number or constant."""
    options: dict[str, Any]
    """Of the compiler: warps, stages, registers."""
    grid: tuple[int, ...]

    @property
    def name(self) -> str:
        """The kernel's module below egrc_kernels and its function, e.g. `rmsnorm._forward_kernel`."""
        return f"{self.kernel.__module__.split('.')[-2]}.{self.kernel.__name__}"

    @property
    def constants(self) -> dict[str, Any]:
        """The values of the kernel's compile-time parameters."""
        return {p.name: self.values[p.name] for p in self.kernel.params if p.is_constexpr}

    def source(self, target: Any) -> tuple[Any, dict[str, Any]]:
        """Source and options for Triton's compiler on a `GPUTarget`; on AMD without what launchers leave out there."""
        from triton.compiler import ASTSource, make_backend
        from triton.runtime.jit import create_function_from_signature

        backend = make_backend(target)
        values, own = dict(self.values), dict(self.options)
        if target.backend == "hip":
            own.pop("maxnreg", None)
            values |= {"PTX": False} if "PTX" in values else {}
        binder = create_function_from_signature(self.kernel.signature, self.kernel.params, backend)
        bound, specialisation, _rest = binder(**values, **own)
        packed = self.kernel._pack_args(backend, own, bound, specialisation, own)
        options, signature, constants, attributes = packed
        return ASTSource(self.kernel, signature, constants, attributes), options.__dict__


@contextmanager
def noted_launches() -> Iterator[list[Launch]]:
    """Inside, launches of Triton kernels are added to the list and do nothing else."""
    from triton.runtime import JITFunction

    found: list[Launch] = []

    def note(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
        values = dict(zip(self.arg_names, args, strict=False))
        values |= {name: options.pop(name) for name in self.arg_names if name in options}
        found.append(Launch(self, values, options, tuple(grid)))

    original, JITFunction.run = JITFunction.run, note
    try:
        yield found
    finally:
        JITFunction.run = original
