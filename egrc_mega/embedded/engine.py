"""The generation thread: admits requests into batches, steps them in turn, and runs commands between steps."""

import os
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from transformers import PreTrainedModel

from egrc_mega.convert.hf_folder import HfReader
from egrc_mega.convert.hf_model import load_hf_model
from egrc_mega.embedded.batch import DecodingBatch, Request
from egrc_mega.embedded.tensors import hf_tensors
from egrc_mega.errors import ModelError
from egrc_mega.sync.checksums import checksum

GATHER_S = 0.004
"""New requests wait this long for company that is still arriving."""
MAX_GATHER_S = 0.05

PauseMode = Literal["abort", "retract", "in_place"]


class WeightUpdateError(ValueError):
    """New weights that do not fit; the old ones stay."""


class Engine:
    """Owns the model. Everything that touches it runs in one thread, so that numerics are those of one thread."""

    def __init__(self, model_path: Path, weight_version: str, max_batch_size: int) -> None:
        self.model_path, self.version, self.max_batch_size = model_path, weight_version, max_batch_size
        self.model = load_hf_model(model_path)
        self.vocab_size = int(self.model.config.vocab_size)
        self.max_length = int(self.model.config.max_position_embeddings)
        self.eos_ids = _eos_ids(self.model)
        self.num_steps = 0
        self.num_tokens = 0
        self._waiting: deque[Request] = deque()
        self._batches: list[DecodingBatch] = []
        self._commands: deque[tuple[Callable[[], Any], bool, Future[Any]]] = deque()
        self._paused = False
        self._last_arrival = 0.0
        self._wake = threading.Condition()
        threading.Thread(target=self._loop, name="engine", daemon=True).start()

    def submit(self, request: Request) -> None:
        """Queue a request; its future gets it back when it is finished."""
        request.uniforms = request.params.uniforms()
        with self._wake:
            self._waiting.append(request)
            self._last_arrival = time.monotonic()
            self._wake.notify()

    def run(self, command: Callable[[], Any], *, when_idle: bool = False) -> Future[Any]:
        """Run a command between two steps; `when_idle` waits until nothing is being generated (or all is paused)."""
        future: Future[Any] = Future()
        with self._wake:
            self._commands.append((command, when_idle, future))
            self._wake.notify()
        return future

    def pause(self, mode: PauseMode) -> None:
        """Command: stop generating. abort ends what runs; retract sends it back to the queue; in_place keeps it."""
        self._paused = True
        if mode == "abort":
            self.abort(None)
        elif mode == "retract":
            retracted = [r for batch in self._batches for r in batch.rows if r.finish_reason is None]
            for request in retracted:
                request.num_retractions += 1
            self._batches.clear()
            with self._wake:
                self._waiting.extendleft(reversed(retracted))

    def resume(self) -> None:
        """Command: generate again after a pause."""
        self._paused = False

    def abort(self, rid: str | None) -> None:
        """Command: end one request, or all of them."""
        with self._wake:
            requests = [*self._waiting, *(r for batch in self._batches for r in batch.rows)]
            chosen = [r for r in requests if r.finish_reason is None and rid in (None, r.rid)]
            self._waiting = deque(r for r in self._waiting if r not in chosen)
        for request in chosen:
            request.finish({"type": "abort", "message": "Aborted", "status_code": None, "err_type": None})
        self._batches = [batch for batch in self._batches if not batch.is_done]

    @property
    def is_paused(self) -> bool:
        """Between a pause and its end."""
        return self._paused

    @property
    def load(self) -> tuple[int, int]:
        """Requests that run, and that wait."""
        return sum(len(batch.rows) for batch in self._batches), len(self._waiting)

    @property
    def holds_cache(self) -> bool:
        """True while some request's KV cache is alive."""
        return bool(self._batches)

    def update_weights(self, model_path: Path, version: str | None) -> None:
        """Command: take the weights of a folder, all of them or none.

        Raises:
            WeightUpdateError: unreadable, or names or shapes differ from the model's.
        """
        state = hf_tensors(self.model)
        tied = {"lm_head.weight"} if self.model.config.tie_word_embeddings else set()
        try:
            reader = HfReader(model_path)
            tensors = {name: reader.tensor(name) for name in reader.names()}
        except (ModelError, OSError, SafetensorError) as error:
            raise WeightUpdateError(str(error)) from error
        problems = [f"{name} is missing" for name in state.keys() - tensors.keys() - tied]
        problems += [f"{name} is unknown" for name in tensors.keys() - state.keys()]
        problems += [
            f"{name} is {tuple(tensors[name].shape)}, the model has {tuple(state[name].shape)}"
            for name in state.keys() & tensors.keys()
            if tensors[name].shape != state[name].shape
        ]
        if problems:
            raise WeightUpdateError(f"{model_path}: {'; '.join(sorted(problems))}")
        for name, tensor in tensors.items():
            state[name].copy_(tensor)
        self.model_path = model_path
        self.version = self.version if version is None else version

    def checksums(self) -> dict[str, str]:
        """Command: the first 8 bytes of each parameter's SHA-256, in hex."""
        return {name: checksum(tensor) for name, tensor in self.model.named_parameters()}

    def _loop(self) -> None:
        torch.set_num_threads(1)
        try:
            with torch.inference_mode():
                while True:
                    self._turn()
        except BaseException:
            # a server that accepts and never answers is worse than none: the trainer sees the exit code and this log
            traceback.print_exc()
            os._exit(1)

    def _turn(self) -> None:
        """Commands, then new requests, then one token for every row."""
        self._run_commands()
        self._wait_for_work()
        if self._paused:
            return
        self._admit()
        for batch in self._batches:
            self.num_tokens += batch.step(self.version)
            self.num_steps += 1
        self._batches = [batch for batch in self._batches if not batch.is_done]

    def _run_commands(self) -> None:
        while self._commands:
            command, when_idle, future = self._commands[0]
            if when_idle and self._batches and not self._paused and not future.cancelled():
                return
            self._commands.popleft()
            if not future.set_running_or_notify_cancel():
                continue  # whoever asked has gone
            try:
                future.set_result(command())
            except Exception as error:  # the caller gets it; the engine lives on
                future.set_exception(error)

    def _wait_for_work(self) -> None:
        """Sleep while there is nothing to do, or while new requests are still arriving in a burst."""
        with self._wake:
            while not self._commands and (self._paused or not (self._batches or self._waiting)):
                self._wake.wait()
            if self._batches or not self._waiting:
                return
            first = time.monotonic()
            while not self._commands and not self._is_gathered(first):
                self._wake.wait(GATHER_S)

    def _is_gathered(self, first: float) -> bool:
        now = time.monotonic()
        is_quiet = now - self._last_arrival >= GATHER_S or now - first >= MAX_GATHER_S
        return is_quiet or len(self._waiting) >= self.max_batch_size

    def _admit(self) -> None:
        """Start waiting requests: one new batch for each padded width."""
        if any(when_idle for _command, when_idle, _future in self._commands):
            return
        by_width: dict[int, list[Request]] = {}
        with self._wake:
            is_arriving = self._batches and time.monotonic() - self._last_arrival < GATHER_S
            free = self.max_batch_size - sum(len(batch.rows) for batch in self._batches)
            for _ in range(0 if is_arriving else min(free, len(self._waiting))):
                request = self._waiting.popleft()
                by_width.setdefault(request.width, []).append(request)
        self._batches += [DecodingBatch(self.model, by_width[width], self.version) for width in sorted(by_width)]


def _eos_ids(model: PreTrainedModel) -> frozenset[int]:
    """Of config.json and of generation_config.json; each may name one id, several, or none."""
    stated = (model.config.eos_token_id, getattr(model.generation_config, "eos_token_id", None))
    return frozenset(i for ids in stated for i in (ids if isinstance(ids, list) else [ids]) if isinstance(i, int))
