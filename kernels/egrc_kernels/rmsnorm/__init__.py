"""Root-mean-square norm with float32 inside."""

from egrc_kernels.rmsnorm.api import rmsnorm

__all__ = ["rmsnorm"]
