"""The policy: score samples, update on them, hand its weights out. Every method is collective."""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import tee
from pathlib import Path
from typing import Any

import torch
from egrc_kernels import registry
from egrc_kernels.linear_logprob import linear_logprob, linear_token_loss
from egrc_kernels.masked_logprob import masked_logprob
from egrc_kernels.policy_loss import LossMetrics
from egrc_kernels.trial import try_kernels

from egrc_mega.convert.hf_folder import HfTensors
from egrc_mega.convert.parallel import ParallelLayout, layout_problems
from egrc_mega.convert.source import check_source, open_source
from egrc_mega.errors import ConfigError, PolicyError
from egrc_mega.faults import fault_point
from egrc_mega.observe.pulse import PULSE
from egrc_mega.policy.distributed import device  # first: it bends megatron to the CPU where there is no CUDA
from egrc_mega.sections.policy import MegatronSection, PolicySection
from egrc_mega.sections.stage import LossSection

# isort: split
from megatron.core import parallel_state
from megatron.core.pipeline_parallel import get_forward_backward_func

from egrc_mega.policy import optimizer as optim
from egrc_mega.policy.balance import Load, plan_loads
from egrc_mega.policy.context import TokenSplit
from egrc_mega.policy.copies import CopyStream
from egrc_mega.policy.flops import FlopModel, Work
from egrc_mega.policy.loss import policy_loss
from egrc_mega.policy.masks import among
from egrc_mega.policy.model import build_model, transformer_config
from egrc_mega.policy.offload import OptimizerOnHost
from egrc_mega.policy.overlap import gather_weight, gather_weights
from egrc_mega.policy.packing import Baselines, MicroBatch, build_micro_batch, flat_offsets, packed_length
from egrc_mega.policy.pass_sums import PassSums, TokenStats
from egrc_mega.policy.reference import Reference
from egrc_mega.policy.token_loss import TokenLoss, entropy_slopes, takes_gradient_in_forward
from egrc_mega.policy.weights import export_hf, import_hf
from egrc_mega.types import TrainSample

NO_BASELINES = Baselines()
ForwardResult = tuple[torch.Tensor, partial[tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]]]


@dataclass(frozen=True, slots=True)
class Pass:
    """One forward over samples, and with a loss one backward."""

    samples: Sequence[TrainSample]
    temperature: float
    loss: LossSection | None = None
    """None: log-probs and entropies are all that is wanted."""
    baselines: Baselines = NO_BASELINES


@dataclass(frozen=True, slots=True)
class UpdateResult:
    """What one optimizer step did."""

    loss: float
    grad_norm: float
    """Before clipping."""
    stats: TokenStats
    metrics: LossMetrics
    """Over all samples; its sums are on the host."""


class Policy:
    """Megatron-core's model, DDP, optimizer and schedule around our packing, loss and log-probs."""

    def __init__(
        self, model_path: Path, megatron: MegatronSection, policy: PolicySection, *, keeps_reference: bool = False
    ) -> None:
        """Load a Hugging Face folder or a Megatron checkpoint into this rank's shards. Process groups must exist.

        Args:
            keeps_reference: the weights of `model_path` are kept in host memory for `score_reference`.

        Raises:
            ModelError: the checkpoint is missing, torn, of a family without a table, or does not fit the layout.
        """
        self.section, self.megatron = policy, megatron
        _choose_kernels(policy.kernels)
        source = open_source(model_path)
        self.architecture, self.companions = source.architecture, source.companions
        self.split = TokenSplit(
            context_size=parallel_state.get_context_parallel_world_size(),
            context_rank=parallel_state.get_context_parallel_rank(),
            sequence_size=megatron.tensor_model_parallel_size if megatron.sequence_parallel else 1,
        )
        self.copies = CopyStream(device())
        self.flops, self.work = FlopModel.of(self.architecture), Work()
        check_source(source, any_dtype=True, more=layout_problems(self.architecture, ParallelLayout.of(megatron)))
        self.config = transformer_config(self.architecture, megatron)
        self.pieces = build_model(self.architecture, self.config, megatron.transformer_impl)
        import_hf(self.pieces, source)
        self.reference = Reference(self.pieces) if keeps_reference else None
        self.model = optim.wrap_model(self.pieces, self.config, megatron)
        self.optimizer = optim.build_optimizer(self.model, megatron)
        self.optimizer_on_host = OptimizerOnHost(self.optimizer) if policy.offload_optimizer else None

    def score(self, samples: Sequence[TrainSample], temperature: float) -> TokenStats:
        """Log-probs and entropies of the outputs, without gradient."""
        for piece in self.model:
            piece.eval()
        with torch.no_grad():
            return self._run(Pass(samples, temperature)).joined().stats

    def score_reference(self, samples: Sequence[TrainSample], temperature: float) -> torch.Tensor:
        """Log-probs of the outputs under the reference model, flat. Its weights take the policy's place meanwhile."""
        assert self.reference is not None, "the policy was built without a reference"
        gather_weights(self.model)
        with self.reference.in_place():
            return self.score(samples, temperature).logprobs

    def update(
        self,
        samples: Sequence[TrainSample],
        temperature: float,
        loss: LossSection,
        lr: float,
        baselines: Baselines = NO_BASELINES,
        inspect: Callable[[TokenStats], None] | None = None,
    ) -> UpdateResult:
        """One optimizer step on all samples; their token weights must already normalise the loss over the batch.

        Args:
            baselines: log-probs before the batch's first update, and the reference model's where `loss` needs them.
            inspect: sees the statistics before any weight moves, and may raise.

        Raises:
            PolicyError: a sample exceeds the packing budget, or loss or gradient norm is not finite; nothing has moved.
        """
        for piece in self.model:
            piece.train()
            piece.zero_grad_buffer()
        self.optimizer.zero_grad()
        collected = self._run(Pass(samples, temperature, loss, baselines))
        with self.optimizer_on_host.on_device() if self.optimizer_on_host else nullcontext():
            # before the statistics are read: the host then waits for the device once, with all its work queued
            grad_norm = optim.gradient_norm(self.optimizer)
            found = collected.joined()
            if inspect is not None:
                inspect(found.stats)
            if not math.isfinite(found.loss):
                raise PolicyError(f"loss is {found.loss}: the step is not taken; look at the batch's log-probs")
            fault_point("policy.before_optimizer")
            optim.step(self.optimizer, grad_norm, lr, self.megatron)
            fault_point("policy.after_optimizer")
        return UpdateResult(found.loss, grad_norm, found.stats, found.metrics)

    def reset_optimizer(self) -> None:
        """Forget Adam's moments and step count."""
        optim.forget_moments(self.optimizer)

    def sharded_state(self, *, is_loading: bool) -> dict[str, Any]:
        """Model and optimizer as megatron's sharded state dict; a checkpoint of it loads under any other layout."""
        model = self.sharded_model()
        return {"model": model, "optimizer": optim.sharded_state(self.optimizer, model, is_loading=is_loading)}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take over what was loaded into `sharded_state(is_loading=True)`."""
        self.load_model(state["model"])
        optim.load_state(self.optimizer, state["optimizer"])
        if self.optimizer_on_host:
            self.optimizer_on_host.to_host()

    def sharded_model(self) -> dict[str, Any]:
        """The weights alone as megatron's sharded state dict. Collective."""
        gather_weights(self.model)
        return {str(place): piece.sharded_state_dict() for place, piece in enumerate(self.pieces)}

    def load_model(self, state: dict[str, Any]) -> None:
        """Take over weights that were loaded into `sharded_model`."""
        for place, piece in enumerate(self.pieces):
            # strict would miss the `_extra_state` of Transformer Engine's modules, which the local spec does not have
            piece.load_state_dict(state[str(place)], strict=False)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        dtype: torch.dtype = self.config.params_dtype
        return dtype

    def export_hf(self) -> HfTensors:
        """Hugging Face tensors of the current weights; see `weights.export_hf`."""
        gather_weights(self.model)
        return export_hf(self.pieces, self.architecture)

    def _plan(self, samples: Sequence[TrainSample]) -> list[Load]:
        """This rank's micro-batches: all ranks have as many, and nearly the same work."""
        lengths = [sample.num_tokens for sample in samples]
        costs = [self.flops.forward([sample.num_tokens], len(sample.output_ids)) for sample in samples]
        ranks, rank = parallel_state.get_data_parallel_world_size(), parallel_state.get_data_parallel_rank()
        # the interleaved schedule takes micro-batches in groups of as many as there are stages
        multiple = self.config.pipeline_model_parallel_size if len(self.pieces) > 1 else 1
        return plan_loads(lengths, costs, self.section.max_tokens_per_micro_batch, ranks, multiple)[rank]

    def _run(self, pass_: Pass) -> PassSums:
        """All micro-batches of this rank through megatron's schedule; backward too where there is a loss."""
        samples, forward_only = pass_.samples, pass_.loss is None
        loads = self._plan(samples)
        longest = max(packed_length(samples, load, self.split) for load in loads)
        # see variable_seq_lengths in `transformer_config`
        length = None if self.config.variable_seq_lengths else longest
        # built when the schedule asks for them, while the device is busy with those before; virtual stages share them
        build = partial(build_micro_batch, samples, baselines=pass_.baselines, device=device(), split=self.split)
        batches = (self.copies.made(partial(build, load, num_tokens=length)) for load in loads)
        num_outputs = int(flat_offsets(samples)[-1])
        sums = PassSums(num_outputs)
        get_forward_backward_func()(
            forward_step_func=partial(self._forward_step, pass_=pass_, sums=sums),
            data_iterator=list(tee(batches, len(self.pieces))),
            model=self.model,
            num_microbatches=len(loads),
            seq_length=longest,
            micro_batch_size=1,
            forward_only=forward_only,
        )
        lengths = [sample.num_tokens for sample in samples]
        count = self.flops.forward if forward_only else self.flops.training
        self.work += Work(sum(lengths), count(lengths, num_outputs))
        return sums

    def _forward_step(
        self, data_iterator: Iterator[MicroBatch], model: Any, *, pass_: Pass, sums: PassSums
    ) -> ForwardResult:
        PULSE.beat()
        fault_point("policy.forward")
        batch = next(data_iterator)
        output = model(batch.input_ids_1T, batch.position_ids_1T, None, packed_seq_params=batch.packed)
        return output, partial(self._loss, batch=batch, pass_=pass_, sums=sums)

    def _loss(
        self, hidden_TH: torch.Tensor, *, batch: MicroBatch, pass_: Pass, sums: PassSums
    ) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
        """The scalar that backward starts from, in megatron's form; zero for a pass without a loss."""
        scalar, metrics = hidden_TH.new_zeros(()), None
        weight_VH = self.pieces[-1].output_weight_VH
        gather_weight(self.model[-1], weight_VH)
        hidden_RH = hidden_TH[batch.rows_R].to(weight_VH.dtype)
        is_sharded = self.config.tensor_model_parallel_size > 1
        how: dict[str, Any] = {
            "temperature": pass_.temperature,
            "vocab_size": self.architecture.vocab_size,
            "group": parallel_state.get_tensor_model_parallel_group() if is_sharded else None,
        }
        is_fused = self.section.fused_output_layer
        loss = pass_.loss
        is_in_forward = loss is not None and takes_gradient_in_forward(loss, hidden_RH.device, is_fused)
        if loss is not None and is_in_forward and batch.masks is None:
            token_loss = TokenLoss(batch.rows, loss)
            slopes_R = entropy_slopes(batch.rows, loss)
            scalar, stats = linear_token_loss(
                hidden_RH, weight_VH, batch.targets_R, token_loss, entropy_slopes_T=slopes_R, **how
            )
            metrics = token_loss.metrics()
        else:
            # of the whole vocabulary, tokens that were all drawn from a part of it need the entropy at most
            is_idle = batch.masks is not None and batch.masks.covers_all and not (loss and loss.entropy_coef)
            with torch.no_grad() if is_idle else nullcontext():
                stats = linear_logprob(hidden_RH, weight_VH, batch.targets_R, fuses_gradients=is_fused, **how)
            if batch.masks is not None:
                stats = among(batch.masks, stats, masked_logprob(hidden_RH, weight_VH, batch.masks, **how))
            if loss is not None:
                scalar, metrics = policy_loss(stats.logprob_T, batch.rows, loss, stats.entropy_T)
        sums.add(batch, stats)
        if metrics is not None:
            sums.add_loss(scalar, metrics)
        if pass_.loss is not None:
            fault_point("policy.backward")
        # the count is unused: the loss is normalised already (optimizer._sum_gradients)
        return scalar, torch.ones((), dtype=torch.int), {}


def _choose_kernels(kernels: str) -> None:
    """For the rest of the process; `auto` leaves it to the environment, and to what runs here.

    Raises:
        ConfigError: they were asked for, and cannot run here.
    """
    if kernels != "auto":
        os.environ[registry.VARIABLE] = kernels
    try:
        try_kernels(device())
        registry.uses_triton(torch.empty(0, device=device()))
    except RuntimeError as error:
        raise ConfigError(f"policy.kernels: {kernels}: {error}") from error
