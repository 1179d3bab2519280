"""The GPUs that can be planned for, with what their makers print of them."""

from dataclasses import dataclass

from egrc_mega.errors import ConfigError

GIB = 2**30


@dataclass(frozen=True, slots=True)
class Gpu:
    """One kind of GPU. All rates are the printed ones, which nothing reaches."""

    name: str
    memory_bytes: int
    """What CUDA reports as the device's total."""
    bf16_flops: float
    """Dense bf16 products, per second."""
    float32_flops: float
    """Dense float32 products in TF32, per second: what float32 training may use at most."""
    memory_bytes_per_s: float
    link_bytes_per_s: float
    """NVLink, one direction."""
    network_bytes_per_s: float
    """One direction, per GPU, of the usual node: one network card a GPU."""
    host_bytes_per_s: float
    """To the host's memory, one direction."""
    gpus_per_node: int
    """GPUs that NVLink joins."""


def _gpu(
    name: str,
    gib: float,
    tflops: float,
    tf32: float,
    tb_per_s: float,
    link_gb_per_s: float,
    gigabits: float,
    host_gb_per_s: float,
    node: int = 8,
) -> Gpu:
    return Gpu(
        name,
        int(gib * GIB),
        tflops * 1e12,
        tf32 * 1e12,
        tb_per_s * 1e12,
        link_gb_per_s * 1e9,
        gigabits / 8 * 1e9,
        host_gb_per_s * 1e9,
        node,
    )


GPUS = {
    gpu.name: gpu
    for gpu in (
        _gpu("a100-40g", 39.4, 312, 156, 1.555, 300, 200, 32),
        _gpu("a100-80g", 79.1, 312, 156, 2.039, 300, 200, 32),
        _gpu("h20-96g", 95.1, 148, 74, 4.0, 450, 400, 64),
        _gpu("h800-80g", 79.1, 989, 494.5, 3.35, 200, 400, 64),
        _gpu("h100-80g", 79.18, 989, 494.5, 3.35, 450, 400, 64),
        _gpu("h200-141g", 139.8, 989, 494.5, 4.8, 450, 400, 64),
        _gpu("b200-180g", 178.4, 2250, 1125, 7.7, 900, 400, 64),
        _gpu("gb200-186g", 184.0, 2500, 1250, 8.0, 900, 400, 450, 72),
        _gpu("b300-288g", 268.0, 2250, 1125, 8.0, 900, 800, 64),
    )
}
"""By the name that `--gpu` takes. NVIDIA's printed figures, without sparsity:

- A100: data sheet "NVIDIA A100 Tensor Core GPU" (312 TFLOP/s, 1,555 and 2,039 GB/s, NVLink 600 GB/s both ways); DGX
  A100: 200 Gb/s a GPU.
- H100 SXM, H200: their data sheets (1,979 TFLOP/s with sparsity, so 989; 3.35 and 4.8 TB/s; NVLink 900 GB/s both ways);
  DGX H100 and H200: eight cards of 400 Gb/s. The H100's memory is what CUDA reported on the card of
  benchmarks/results/h100.
- H800: an H100 with NVLink at 400 GB/s both ways. H20: 148 TFLOP/s, 96 GB at 4.0 TB/s, NVLink 900 GB/s, as resellers
  print it; NVIDIA has no public data sheet.
- B200: DGX B200 data sheet divided by eight (36 PFLOP/s bf16 with sparsity, 1,440 GB, 62 TB/s, NVLink 14.4 TB/s both
  ways). GB200: "GB200 NVL72" divided by 72 (360 PFLOP/s with sparsity, 13.4 TB at 576 TB/s, NVLink 130 TB/s). B300:
  DGX B300 (2.3 TB in all, 800 Gb/s a GPU); its bf16 rate is taken to be the B200's.

To the host PCIe 4 or 5 of 16 lanes (32 and 64 GB/s one way), on GB200 NVLink-C2C (900 GB/s both ways).
Memory is 0.99 of the printed gigabytes in GiB where nobody has read it off a card."""
ALIASES = {
    "a100": "a100-80g",
    "h100": "h100-80g",
    "h200": "h200-141g",
    "b200": "b200-180g",
    "b200-192g": "b200-180g",
    "gb200": "gb200-186g",
}


def find_gpu(name: str) -> Gpu:
    """The GPU of that name.

    Raises:
        ConfigError: nobody knows it.
    """
    found = GPUS.get(ALIASES.get(name.lower(), name.lower()))
    if found is None:
        raise ConfigError(f"--gpu: {name} is not known; known are {', '.join(sorted(GPUS))}")
    return found
