"""The training loop: one page, for every family.

Nothing random carries over from step to step: clips, masks and dropout are drawn from generators
that are seeded by (seed, step). A checkpoint is therefore weights, optimiser and the step number,
and a run that was killed anywhere goes on exactly as it would have gone.
"""

from __future__ import annotations

import logging
import math
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from neuropipe.data import order
from neuropipe.data.source import Source
from neuropipe.errors import Interrupted, NeuropipeError
from neuropipe.models.base import Spec
from neuropipe.models.together import share_batch_norms
from neuropipe.train import checkpoint, distributed, interrupts, optim
from neuropipe.train.gradients import Gradients, LossOf
from neuropipe.train.progress import Progress
from neuropipe.train.recipe import TrainSettings

log = logging.getLogger("neuropipe")


class Watch(Protocol):
    """Looks at the model between steps, and may end the training early; its state is part of every checkpoint.

    Of several processes each looks for itself and finds the same. The first alone would not be faster, since the others
    could only wait; and they would wait for its gradients, which fails after some minutes where a probe takes longer.
    """

    @property
    def stopped(self) -> bool:
        """Whether no further step is wanted."""

    def look(self, step: int) -> None:
        """Look at the model as it is after `step` steps."""

    def state(self) -> dict[str, Any]:
        """Return tensors and plain containers only."""

    def restore(self, state: dict[str, Any]) -> None:
        """Take up what `state` returned."""


def train(
    model: nn.Module,
    source: Source,
    spec: Spec,
    settings: TrainSettings,
    *,
    seed: int,
    folder: Path,
    identity: str,
    tensorboard: Path | None = None,
    what: str = "pretrain",
    loss_of: LossOf | None = None,
    watch: Watch | None = None,
) -> list[dict[str, float]]:
    """Train `model` in place and return its metrics, one row per `settings.log_every` steps.

    Parameters
    ----------
    model : Module
        A family's model, freshly initialised, on the device of `source`.
    source : Source
        The samples of the training side, nobody else's.
    spec : Spec
        What the family reads, and how it wants it cut.
    settings : TrainSettings
        From the recipe.
    seed : int
        Decides order, clips, masks and dropout; the initial weights are the caller's.
    folder : path
        For checkpoints; what is found there with the same `identity` is continued.
    identity : str
        Hash of recipe, data and seed: checkpoints of anything else are not continued, and give way to this run's.
    tensorboard : path, optional
        Folder for TensorBoard's event files, where that is installed.
    loss_of : callable, optional
        ``(batch, generator, progress) -> {"loss": ..., ...}``; default the family's own loss.
    watch : Watch, optional
        Asked after every step; default all steps are taken.

    Raises
    ------
    NeuropipeError
        The loss is not finite, or the device's memory too small.
    Interrupted
        The process was asked to stop; its work is saved.
    """
    device, group = source.device, distributed.current()
    if group.size > 1 and settings.across_processes:
        share_batch_norms(model)
    optimizer = optim.build(model, settings)
    rows: list[dict[str, float]] = []
    window: list[dict[str, Tensor]] = []  # losses since the last row, on the device
    begin = 0
    if (state := checkpoint.latest(folder, device)) and state["identity"] == identity:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        rows, window, begin = state["rows"], state["window"], state["step"]
        if watch is not None:
            watch.restore(state["watch"])
    if group.agreed(begin) != begin:  # a file server that shows one machine what is old
        raise NeuropipeError(
            f"{what}: process {group.rank} finds step {begin} saved in {folder}, the first one another. Run it again; "
            "if that does not help, see that all machines share this folder."
        )
    group.share_weights(model)
    autocast = torch.autocast(device.type, torch.bfloat16) if settings.precision == "bf16" else nullcontext()
    loss_of = loss_of or model.loss
    loss_of = torch.compile(loss_of) if settings.compile else loss_of
    n_parts = group.agreed(max(settings.accumulate, checkpoint.parts(folder, identity)))
    if n_parts > settings.accumulate and group.writes:
        log.info("%s: a batch is computed in %d parts, as memory did not do before", what, n_parts)
    remember = partial(checkpoint.remember_parts, folder, identity)
    shared = group, settings.across_processes, spec.n_copies
    gradients = Gradients(model, loss_of, autocast, *shared, n_parts, remember, what)
    writer = _tensorboard(tensorboard, begin) if group.writes else None
    progress = Progress(what, settings.n_steps, begin) if group.writes else None
    clock = time.perf_counter()
    model.train()
    done, stop = begin, False
    with interrupts.noticed() as notice:
        for step in range(begin, settings.n_steps):
            if watch is not None and watch.stopped:
                break
            share, step_seed = step / settings.n_steps, order.step_seed(seed, step)
            torch.manual_seed(step_seed)  # dropout of torch's own layers
            lr = optim.set_schedules(optimizer, settings, step)
            batch = source.training_batch(spec, settings.batch_size, seed, step)
            if hasattr(model, "before_step"):
                model.before_step(share)
            losses, stop = gradients.compute(batch, step_seed, share, notice.given)
            window.append(losses)
            if settings.clip_norm is not None:
                window[-1]["grad_norm"] = nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm)
            optimizer.step()
            if hasattr(model, "after_step"):
                model.after_step(share)
            done = step + 1
            if watch is not None:
                watch.look(done)
            stop = stop or (notice.given and group.size == 1)  # others are told in the next step
            last = done == settings.n_steps or (watch is not None and watch.stopped)
            if done % settings.log_every == 0 or last:
                n_samples = len(window) * batch.n_people
                rows.append(_row(window, done, lr, n_samples, clock, what))
                if gradients.n_parts != settings.accumulate:
                    rows[-1]["accumulate"] = gradients.n_parts
                window, clock = [], time.perf_counter()
                _say(writer, rows[-1])
            if progress is not None:
                progress.advance(f"loss {rows[-1]['loss']:.4f}" if rows else "")
            if group.writes and (done % settings.checkpoint_every == 0 or last or stop):
                state = {"identity": identity, "rows": rows, "window": window}
                state |= {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
                state |= {} if watch is None else {"watch": watch.state()}
                checkpoint.save(folder, done, state)
            if stop:
                break
        stop = stop or notice.given  # also where it came with the last step
    if progress is not None:
        progress.close()
    if writer is not None:
        writer.close()
    if stop:
        raise Interrupted(f"{what}: asked to stop, saved at step {done} of {settings.n_steps}; run it again.")
    return rows


def _row(
    window: list[dict[str, Tensor]], step: int, lr: float, n_samples: int, clock: float, what: str
) -> dict[str, float]:
    """Return one row of metrics: means since the last row. The only place where the device is waited for."""
    names = window[-1].keys()
    means = torch.stack([torch.stack([w[name].float() for w in window]).mean() for name in names]).tolist()
    seconds = time.perf_counter() - clock
    row = {"step": step, "lr": lr, **dict(zip(names, means, strict=True))}
    if not math.isfinite(row["loss"]):
        raise NeuropipeError(
            f"{what}: the loss is {row['loss']} at step {step}. Lower `lr`, lengthen `warmup`, or look for damaged "
            "recordings in the quality tables; the last checkpoint from before is kept."
        )
    return row | {"seconds": seconds, "samples_per_s": n_samples / seconds}


def _tensorboard(folder: Path | None, begin: int):
    """Return a writer that drops what an earlier process wrote after `begin`; None where TensorBoard is missing."""
    if folder is None:
        return None
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=begin)


def _say(writer, row: dict[str, Any]) -> None:
    """Write one row of metrics as scalars."""
    if writer is not None:
        for name, value in row.items():
            if name != "step":
                writer.add_scalar(name, value, row["step"])
