"""`egrc convert`: brings model folders from Hugging Face's format to Megatron's and back."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from egrc_mega.convert.parallel import ParallelLayout

app = typer.Typer(no_args_is_help=True, help="Convert between Hugging Face folders and Megatron checkpoints.")

Source = Annotated[Path, typer.Argument(help="What to read.")]
Target = Annotated[Path, typer.Argument(help="Folder to write; must not exist.")]
Model = Annotated[
    Path | None,
    typer.Option("--model", help="Hugging Face folder for config and tokenizer, for checkpoints that carry none."),
]
Dtype = Annotated[str | None, typer.Option("--dtype", help="float32, float16 or bfloat16; else as it is.")]
ShardSize = Annotated[str, typer.Option("--shard-size", help="Largest file, e.g. 5GB or 500MB.")]
Tensor = Annotated[int, typer.Option("--tp", min=1, help="Tensor-parallel size.")]
Pipeline = Annotated[int, typer.Option("--pp", min=1, help="Pipeline-parallel size.")]
Expert = Annotated[int, typer.Option("--ep", min=1, help="Expert-parallel size.")]
First = Annotated[int | None, typer.Option("--first-stage-layers", min=1, help="Layers of the first pipeline stage.")]
Last = Annotated[int | None, typer.Option("--last-stage-layers", min=1, help="Layers of the last pipeline stage.")]


@app.command("hf-to-megatron")
def hf_to_megatron(
    source: Source,
    target: Target,
    tp: Tensor = 1,
    pp: Pipeline = 1,
    ep: Expert = 1,
    first_stage_layers: First = None,
    last_stage_layers: Last = None,
    dtype: Dtype = None,
    shard_size: ShardSize = "1GB",
) -> None:
    """Hugging Face folder to a Megatron (torch_dist) checkpoint.

    It loads at any layout; the one given here is proven to be possible, and sets the padding of the vocabulary.
    """
    from egrc_mega.convert import conversion
    from egrc_mega.convert.source import open_source
    from egrc_mega.observe.progress import byte_progress

    layout = _layout(tp, pp, ep, first_stage_layers, last_stage_layers)
    wanted, limit = conversion.parse_dtype(dtype), conversion.parse_size(shard_size)
    opened = open_source(source)
    with byte_progress(conversion.total_bytes(opened, wanted), "hf-to-megatron", target) as advance:
        conversion.hf_to_megatron(
            opened, target, parallel=layout, dtype=wanted, max_shard_bytes=limit, advance=advance, note=_note
        )


@app.command("megatron-to-hf")
def megatron_to_hf(
    source: Source, target: Target, model: Model = None, dtype: Dtype = None, shard_size: ShardSize = "5GB"
) -> None:
    """Megatron checkpoint (from hf-to-megatron, a step of a run, another tool) to a Hugging Face folder."""
    from egrc_mega.convert import conversion
    from egrc_mega.convert.source import open_source, unless_removed
    from egrc_mega.observe.progress import byte_progress

    wanted, limit = conversion.parse_dtype(dtype), conversion.parse_size(shard_size)
    with unless_removed(source):
        opened = open_source(source, model)
        with byte_progress(conversion.total_bytes(opened, wanted), "megatron-to-hf", target) as advance:
            conversion.megatron_to_hf(opened, target, dtype=wanted, max_shard_bytes=limit, advance=advance, note=_note)


@app.command("verify")
def verify(
    a: Annotated[Path, typer.Argument(help="A checkpoint of any format.")],
    b: Annotated[Path, typer.Argument(help="Another, of any format.")],
    model: Model = None,
    logits: Annotated[bool, typer.Option("--logits", help="Also compare logits of packed prompts.")] = False,
) -> None:
    """Compare config.json, then tensors, bit by bit; names the first difference, and exits with 8 then.

    With --logits both are also computed, in float32: exit code 8 when rounding cannot explain the difference.
    """
    from egrc_mega.convert.conversion import total_bytes
    from egrc_mega.convert.source import open_source, unless_removed
    from egrc_mega.convert.verify import compare
    from egrc_mega.errors import CheckpointError
    from egrc_mega.observe.progress import byte_progress

    with unless_removed(a), unless_removed(b):
        first, second = open_source(a, model), open_source(b, model)
        with byte_progress(total_bytes(first, None), "verify") as advance:
            found = compare(first, second, advance)
    if found.difference is None:
        print(f"{found.num_tensors} tensors are equal, bit by bit")
    if logits and first.architecture.vocab_size == second.architecture.vocab_size:
        from egrc_mega.training.comparison import compare_logits

        with unless_removed(a), unless_removed(b):
            computed = compare_logits(a, b, model)
        print(computed.line())
        found = found if computed.are_equal or found.difference else replace(found, difference=computed.line())
    if found.difference is not None:
        raise CheckpointError(f"the checkpoints differ: {found.difference}")


@app.command("inspect")
def inspect(
    what: Annotated[str, typer.Argument(help="A checkpoint of any format, or a preset.", metavar="CHECKPOINT")],
    tp: Tensor = 1,
    pp: Pipeline = 1,
    ep: Expert = 1,
    first_stage_layers: First = None,
    last_stage_layers: Last = None,
    model: Model = None,
) -> None:
    """Names, shapes, dtypes, and the parameters on each rank of a layout."""
    from egrc_mega.convert import inspect as page

    print(page.inspect(what, _layout(tp, pp, ep, first_stage_layers, last_stage_layers), model))


def _note(text: str) -> None:
    typer.echo(f"egrc: note: {text}", err=True)


def _layout(tp: int, pp: int, ep: int, first: int | None, last: int | None) -> "ParallelLayout":
    from egrc_mega.convert.parallel import ParallelLayout

    return ParallelLayout(tp, pp, ep, first, last)
