"""Whole networks trained to tell the labels of clips: one per fold, and one per number of people of the grid."""

from __future__ import annotations

import shutil
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from neuropipe.data import order
from neuropipe.data.batch import Batch
from neuropipe.evaluate.clip_features import Clip, batch_of, read_clip, windows
from neuropipe.evaluate.decoding import Decoded, Decoder
from neuropipe.evaluate.protocol import System, run_facts
from neuropipe.evaluate.question import Fold
from neuropipe.evaluate.trials import N_INNER_PIECES, Trials
from neuropipe.hub import export
from neuropipe.hub.export import Saved
from neuropipe.models.base import ClipSpec
from neuropipe.models.network import Network, on_top_of
from neuropipe.paths import atomic
from neuropipe.provenance import STAGE_VERSIONS, hash_json, read_json, write_json
from neuropipe.train import loop
from neuropipe.train.finetune import EarlyStopping
from neuropipe.train.recipe import FinetuneSettings

READOUT = "finetune"
LABEL = "state"  # in `Batch.labels`


@dataclass(frozen=True, eq=False)
class ClipSource:
    """Some clips of a decoding task, as the training loop asks for them.

    Attributes
    ----------
    trials : Trials
    rows : int ndarray
        Of `Trials.table`.
    device : torch.device
    """

    trials: Trials
    rows: np.ndarray
    device: torch.device

    def training_batch(self, spec: ClipSpec, batch_size: int, seed: int, step: int) -> Batch:
        """Return the batch of `step`: every clip once before any comes again, of a long one a random window."""
        rng = order.step_rng(seed, step)
        chosen = self.rows[order.batch_people(len(self.rows), batch_size, seed, step)]
        return self._batch([(i, _window(read_clip(self.trials, i), spec.n_samples, rng)) for i in chosen], spec)

    def logits(self, network: Network, spec: ClipSpec, n_rows: int = 64) -> Tensor:
        """Return what a network in evaluation mode says of every clip, float64 (n_clips, n_labels) on the host.

        The outputs of the windows of a long clip are averaged.
        """
        cut = [(k, w) for k, i in enumerate(self.rows) for w in windows(read_clip(self.trials, i), spec.n_samples)]
        total = torch.zeros(len(self.rows), len(self.trials.labels), dtype=torch.float64)
        count = torch.zeros(len(self.rows), 1, dtype=torch.float64)
        with torch.inference_mode():
            for start in range(0, len(cut), n_rows):
                part = cut[start : start + n_rows]
                places = torch.tensor([k for k, _ in part])
                said = network(self._batch([(self.rows[k], w) for k, w in part], spec)).double().cpu()
                total.index_add_(0, places, said)
                count.index_add_(0, places, torch.ones(len(part), 1, dtype=torch.float64))
        return total / count

    def _batch(self, held: list[tuple[int, Clip]], spec: ClipSpec) -> Batch:
        clips, rows = [clip for _, clip in held], np.array([i for i, _ in held])
        labels = {LABEL: torch.from_numpy(self.trials.y[rows])}
        return batch_of(clips, self.trials.t_r(rows), spec.n_samples, labels).to(self.device)


def _window(clip: Clip, n_samples: int, rng: np.random.Generator) -> Clip:
    """Return a random window of at most `n_samples`."""
    start = int(rng.integers(0, max(0, len(clip.series) - n_samples), endpoint=True))
    cut = slice(start, start + n_samples)
    return Clip(clip.series[cut], clip.valid_time[cut], clip.valid_region)


class ClipStopping(EarlyStopping):
    """Keeps the weights with which the labels of the validation clips are told best; see `EarlyStopping`."""

    def measure(self) -> float:
        """Return the mean cross-entropy of the validation clips."""
        y = torch.from_numpy(self.validation.trials.y[self.validation.rows])
        return F.cross_entropy(self.validation.logits(self.network, self.spec), y, self.objective).item()


@dataclass(frozen=True, eq=False)
class ClipTuner:
    """What the networks of all folds of one system share.

    Attributes
    ----------
    decoder : Decoder
        The task, and its grid: of each number of people, one draw is trained.
    settings : FinetuneSettings
    start : callable
        Of a fold: the pretrained model.
    pretrained : bool
        Whether its weights are taken over; else random ones of the same shape begin.
    device : torch.device
    seed : int
        Of new layers, order, windows and dropout.
    """

    decoder: Decoder
    settings: FinetuneSettings
    start: Callable[[Fold], Saved]
    pretrained: bool
    device: torch.device
    seed: int

    def answer(self, system: System, root: Path) -> Decoded:
        """Return what networks trained for the task say; they are kept below `root`."""
        begun, found, trials = time.perf_counter(), Decoded(), self.decoder.trials
        for fold in trials.question.folds:
            folder = root / trials.question.split / fold.name
            all_of = self._trained(folder, fold, fold.train)
            self.decoder.record(found, system, READOUT, fold, all_of)
            facts = run_facts(trials.question, system, READOUT, fold)
            for n_people, draw, people in self.decoder.draws(fold, 1):
                whole = len(people) == len(fold.train)
                said = all_of if whole else self._trained(folder / f"people-{n_people}", fold, people)
                row = facts | {"n_people": n_people, "draw": draw, "n_clips": len(trials.of(people))}
                found.efficiency.extend(self.decoder.scores(row, fold, said))
        seconds = time.perf_counter() - begun
        found.costs.append(facts | {"measure": "training and prediction", "value": seconds, "unit": "s"})
        return found

    def _trained(self, folder: Path, fold: Fold, people: np.ndarray) -> np.ndarray:
        """Return probabilities (clips of `fold.judged`, n_labels) of the network that `people` train.

        A network that lies in `folder` already is not trained again.
        """
        trials, saved = self.decoder.trials, self.start(fold)
        spec = saved.model.config.reads()
        train, validation = sides(trials, fold, people, self.settings.validation)
        network = self._network(saved).to(self.device)
        identity = self._identity(saved, train, validation)
        if (folder / "config.json").is_file() and read_json(folder / "config.json").get("identity") == identity:
            network.load_state_dict(load_file(folder / "model.safetensors"))
        else:
            best = self._train(network, spec, train, validation, folder, identity)
            state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in network.state_dict().items()}
            with atomic(folder / "model.safetensors") as temporary:
                save_file(state, str(temporary))
            about = {"identity": identity, "family": saved.about["family"], "labels": trials.labels, **best}
            about |= {"model": saved.model.config.model_dump(mode="json"), "n_people": len(people)}
            write_json(folder / "config.json", about | {"settings": self.settings.model_dump(mode="json")})
        network.eval()
        judged = ClipSource(trials, trials.of(fold.judged), self.device)
        return judged.logits(network, spec).softmax(dim=1).numpy()

    def _train(
        self, network: Network, spec: ClipSpec, train: np.ndarray, validation: np.ndarray, folder: Path, identity: str
    ) -> dict[str, float]:
        """Train in place, leave the weights that tell validation clips best, and return their step and loss."""
        trials, settings = self.decoder.trials, self.settings
        weight = class_weights(trials, train) if settings.class_weights == "balanced" else None
        source, held = (ClipSource(trials, rows, self.device) for rows in (train, validation))
        host = None if weight is None else weight.double()
        watch = ClipStopping(network, held, {}, host, spec, settings)
        device_weight = None if weight is None else weight.to(self.device)

        def loss_of(batch: Batch, generator: torch.Generator, progress: float) -> dict[str, Tensor]:
            output = network(batch, generator)
            with torch.autocast(output.device.type, enabled=False):
                loss = F.cross_entropy(output.float(), batch.labels[LABEL], device_weight)
            return (
                {"loss": loss}
                if device_weight is None
                else {"loss": loss, "weight": device_weight[batch.labels[LABEL]].sum()}
            )

        what = f"{trials.question.target.task} {folder.parent.name}/{folder.name}"
        places = {"folder": folder / "checkpoints", "identity": identity, "what": what}
        loop.train(network, source, spec, settings, seed=self.seed, loss_of=loss_of, watch=watch, **places)
        network.load_state_dict(watch.best)
        shutil.rmtree(folder / "checkpoints")
        return watch.best_row

    def _network(self, saved: Saved) -> Network:
        """Return the network that is trained; random weights are never frozen."""
        model, settings = saved.model, self.settings
        if not self.pretrained:
            model = export.build(saved.about["family"], model.config, saved.regions, self.seed)
        torch.manual_seed(self.seed)
        shape = (settings.drop_rate, settings.hidden_dim, settings.head_norm)
        network = on_top_of(model, len(self.decoder.trials.labels), *shape)
        if self.pretrained:
            network.freeze(settings.frozen, settings.unfreeze_at)
        return network

    def _identity(self, saved: Saved, train: np.ndarray, validation: np.ndarray) -> str:
        """Return the hash of everything that decides the weights."""
        trials = self.decoder.trials
        clips = [trials.table[["key", "label"]].iloc[rows].to_numpy().tolist() for rows in (train, validation)]
        weights = hash_json({k: zlib.crc32(v.cpu().numpy().tobytes()) for k, v in saved.model.state_dict().items()})
        begun = [weights if self.pretrained else None, saved.about["family"], self.seed]
        begun.append(saved.model.config.model_dump(mode="json"))
        data = trials.question.facts.get("data_hash")
        return hash_json([STAGE_VERSIONS["finetune"], begun, self.settings.decisive(), clips, data])


def class_weights(trials: Trials, rows: np.ndarray) -> Tensor:
    """Return a weight per label (float32), so that all labels that some clips `rows` have weigh the same."""
    counts = np.bincount(trials.y[rows], minlength=len(trials.labels))
    share = len(rows) / (max((counts > 0).sum(), 1) * np.maximum(counts, 1))
    return torch.from_numpy(share.astype(np.float32))


def sides(trials: Trials, fold: Fold, people: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the clips that weights are fitted to, and those that choose the step; test people play no part.

    Parameters
    ----------
    people : int ndarray
        Training people (rows of `People.table`).
    share : float
        Of the persons who are held out where the split has no validation side; kin stay together. Of a single person
        it is the last piece of the clips.
    """
    if len(fold.validation):
        return trials.of(people), trials.of(fold.validation)
    persons = trials.question.people.table["person"].to_numpy()[people]
    known = np.array(sorted(set(persons)))
    if len(known) < 2:
        clips = trials.of(people)
        cut = max(1, len(clips) // N_INNER_PIECES)
        return clips[:-cut], clips[-cut:]
    rng = np.random.default_rng([trials.question.seed, *fold.name.encode(), fold.repeat])
    n = min(max(round(share * len(known)), 1), len(known) - 1)
    held = np.isin(persons, rng.permutation(known)[:n])
    return trials.of(people[~held]), trials.of(people[held])
