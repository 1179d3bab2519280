"""SwiGLU with float32 inside."""

from egrc_kernels.swiglu.api import swiglu

__all__ = ["swiglu"]
