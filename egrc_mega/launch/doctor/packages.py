"""Packages of the trainer's environment against the tested ranges, and the name that ours must not take away."""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata, version
from importlib.util import find_spec
from pathlib import Path

from packaging.specifiers import SpecifierSet

from egrc_mega.launch.doctor.finding import Finding, Verdict, fail, ok, warn

INSTALL = "pip install -c scripts/constraints.txt"


@dataclass(frozen=True, slots=True)
class Package:
    """A package that a run needs, or could use."""

    name: str
    purpose: str
    required: str | None = None
    """Version range; None: optional, any version."""
    helps_gpu: bool = False
    """Its absence costs speed where there is a GPU."""


PACKAGES = (
    Package("torch", "tensors and process groups", ">=2.11"),
    Package("megatron-core", "policy training", ">=0.16,<0.17"),
    Package("transformers", "tokenizers, the embedded server", ">=5.17"),
    Package("math-verify", "grading", ">=0.9,<0.10"),
    Package("safetensors", "weights", ">=0.5"),
    Package("aiohttp", "client and embedded server", ">=3.10"),
    Package("pydantic", "configuration", ">=2.10"),
    Package("psutil", "without it megatron's checkpoint writer hangs", ">=5.9"),
    Package("triton", "GPU kernels", helps_gpu=True),
    Package("sglang", "belongs into an environment of its own"),
    Package("transformer-engine", "fused layers on a GPU", helps_gpu=True),
    Package("apex", "fused optimizer and norms on a GPU"),
    Package("pyarrow", "parquet data"),
    Package("kernels", "Hugging Face's; must not be shadowed by our folder of that name"),
)


def installed_versions() -> dict[str, str]:
    """Of the packages that are here."""
    found = {}
    for package in PACKAGES:
        try:
            found[package.name] = version(package.name)
        except PackageNotFoundError:
            continue
    return found


def apex_is_nvidias() -> bool:
    """False where another project of that name is installed, as `pip install apex` does."""
    try:
        return "nvidia" in str(metadata("apex")).lower()
    except PackageNotFoundError:
        return False


def package_findings(found: Mapping[str, str], *, has_gpu: bool, is_true_apex: bool) -> Iterator[Finding]:
    """One for each package; `found` has the versions of what is installed."""
    for package in PACKAGES:
        here = found.get(package.name)
        needed = package.required or "optional"
        if package.name == "apex" and here and not is_true_apex:
            told = f"{here}, another project of that name", "pip uninstall apex; NVIDIA's is built from its repository"
            yield Finding("apex", Verdict.WARN, *told, needed)
        elif package.name == "sglang" and here:
            told = f"{here}, in the trainer's environment", "its pins break the trainer's: see scripts/serve_env.sh"
            yield Finding("sglang", Verdict.WARN, *told, needed)
        else:
            yield _by_range(package, here, needed, has_gpu)


def _by_range(package: Package, here: str | None, needed: str, has_gpu: bool) -> Finding:
    if here is None and package.required:
        return Finding(package.name, Verdict.FAIL, "missing", f"{INSTALL} '{package.name}{package.required}'", needed)
    if here is None and package.helps_gpu and has_gpu:
        return Finding(package.name, Verdict.WARN, "absent", f"{INSTALL} {package.name}: {package.purpose}", needed)
    if here and package.required and not SpecifierSet(package.required).contains(here, prereleases=True):
        fix = f"{INSTALL} '{package.name}{package.required}'"
        return Finding(package.name, Verdict.FAIL, f"{here}, out of range", fix, needed)
    return Finding(package.name, Verdict.OK, here or "absent", "", needed)


def engine_finding(here: str, *, imports: bool) -> Finding:
    """Whether megatron-core could import the Transformer Engine that is installed: else it trains without, silently."""
    if imports:
        return ok("Transformer Engine", f"{here} can be imported")
    return fail(
        "Transformer Engine", f"{here} cannot be imported", "rebuild it for this torch and CUDA, or uninstall it"
    )


def name_finding(folder: Path, distribution: str | None) -> Finding:
    """Whether `import kernels` finds Hugging Face's package or none: any other breaks the import of a model.

    Args:
        folder: from which commands are started, so which Python may put before everything that is installed.
        distribution: version of Hugging Face's package; None: it is not installed.
    """
    name, trap = "the name kernels", folder / "kernels" / "__init__.py"
    if trap.exists():
        return fail(name, f"{trap} shadows Hugging Face's package", "remove that file: kernels/ is a plain folder")
    spec = find_spec("kernels")
    if spec is None or spec.origin is None:
        return ok(name, "free")
    if distribution is None:
        return fail(name, f"{spec.origin} is not Hugging Face's package", "remove it from sys.path, or rename it")
    return ok(name, f"Hugging Face's {distribution}")


def python_finding(found: tuple[int, ...] = sys.version_info[:3]) -> Finding:
    """The interpreter against what the package says it needs."""
    text = ".".join(map(str, found))
    if found < (3, 11):
        return fail("python", text, "take Python 3.11 or newer")
    return warn("python", text, "tested up to 3.13: take that") if found >= (3, 14) else ok("python", text)
