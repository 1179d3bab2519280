"""`egrc bench`: microbenchmarks of the kernels against their peers."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Measure the kernels against their peers.", no_args_is_help=True)

Names = Annotated[str, typer.Option(help="Names separated by commas.")]


@app.callback()
def bench() -> None:
    """Measure the kernels against their peers."""


@app.command()
def kernels(
    op: Names = "logprob,linear_logprob,policy_loss,rmsnorm,swiglu,rope",
    tokens: Annotated[int | None, typer.Option(min=1, help="Rows. Default: 8192, on a CPU 64.")] = None,
    hidden: Annotated[int | None, typer.Option(min=8, help="Hidden size. Default: 3584, on a CPU 64.")] = None,
    vocab: Annotated[int | None, typer.Option(min=2, help="Vocabulary. Default: 152064, on a CPU 1000.")] = None,
    dtype: Annotated[str | None, typer.Option(help="bf16, fp16 or fp32. Default: bf16, on a CPU fp32.")] = None,
    baseline: Names = "eager,compile,torch,liger,megatron",
    rounds: Annotated[int, typer.Option(min=1, help="Calls whose median is taken.")] = 20,
    out: Annotated[Path | None, typer.Option(help="Folder for kernels.json, kernels.txt and kernels.png.")] = None,
) -> None:
    """Check each implementation against float64, then time it. Without a GPU at toy size: such figures mean nothing."""
    import torch

    from egrc_mega.bench.kernels import DTYPES, run, table, write
    from egrc_mega.bench.ops import Sizes
    from egrc_mega.errors import ConfigError

    has_gpu = torch.cuda.is_available()
    chosen = dtype or ("bf16" if has_gpu else "fp32")
    if chosen not in DTYPES:
        raise ConfigError(f"--dtype: {chosen} is unknown; choose from {', '.join(DTYPES)}")
    default = (8192, 3584, 152064) if has_gpu else (64, 64, 1000)
    sizes = Sizes(tokens or default[0], hidden or default[1], vocab or default[2], DTYPES[chosen])
    if not has_gpu and baseline == "eager,compile,torch,liger,megatron":
        baseline = "eager"  # compiling takes longer than it tells here
    result = run(_split(op), sizes, _split(baseline), rounds)
    print(table(result))
    if out is not None:
        write(result, out)


def _split(names: str) -> list[str]:
    return [name.strip() for name in names.split(",") if name.strip()]
