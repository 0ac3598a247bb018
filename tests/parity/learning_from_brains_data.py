"""The cases of learning-from-brains beside those of its transformers: data, autoencoder, linear baseline."""

from __future__ import annotations

import tarfile
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuropipe import restricted_pickle
from neuropipe.bids.tar_samples import samples
from neuropipe.data import windows
from neuropipe.data.batch import Batch
from neuropipe.data.windows import Window
from neuropipe.hub.layouts import autoencoder as autoencoder_layout
from neuropipe.hub.layouts import linear_baseline as linear_layout
from neuropipe.hub.published import published as load
from neuropipe.models import autoencoder, embedder, linear_baseline
from neuropipe.signals.regions import Regions
from neuropipe.splits import published

N_FIRST = 4  # values of an array that the cases name


def window(c: dict, weights: None, inputs: dict) -> dict:
    """Random windows of one run, and which are possible."""
    n, shortest, longest = c["bold_len"], c["seq_min"], c["seq_max"]
    rng = np.random.RandomState(c["legacy_seed"])
    if c["sample_random_seq"]:
        drawn = [windows.draw(n, shortest, longest, rng) for _ in range(c["n_draws"])]
        least, most = windows.lengths(n, shortest, longest)
    else:
        drawn = [windows.first(n, longest)] * c["n_draws"]
        least = most = windows.first(n, longest).length
    starts = {
        str(length): windows.starts(n, length).tolist() if c["sample_random_seq"] else [0] for length in (least, most)
    }
    return {
        "draws_on_len": np.array(drawn),
        "len_min": least,
        "len_max": most,
        "starts_for_len": starts,
    }


def arrays(found: windows.Cut) -> dict[str, np.ndarray]:
    """Return a cut under the names of the cases."""
    mask = found.valid.astype(np.int64)
    return {
        "inputs": found.series,
        "t_rs": found.seconds,
        "attention_mask": mask,
        "token_type_ids": found.part,
    }


def batch_single(c: dict, weights: None, inputs: dict) -> dict:
    """One window of a run."""
    found = windows.cut(inputs["bold"], float(inputs["t_r"]), Window(c["seq_on"], c["seq_len"]), c["seq_max"])
    return arrays(found) | {"labels": inputs["label"]}


def batch_pair(c: dict, weights: None, inputs: dict) -> dict:
    """Two windows of two runs, each followed by the other's second part, or its own."""
    runs = ("run0", "run1")
    found = windows.pair(
        runs=tuple(inputs[f"{run}_bold"] for run in runs),
        t_r=tuple(float(inputs[f"{run}_t_r"]) for run in runs),
        windows=tuple(Window(c[run]["seq_on"], c[run]["seq_len"]) for run in runs),
        gaps=tuple(c[run]["gap"] for run in runs),
        exchanged=tuple(bool(label) for label in c["is_next"]),
        longest=c["seq_max"],
    )
    both = [arrays(one) for one in found]
    return {name: np.stack([one[name] for one in both]) for name in both[0]} | {"is_next": np.array(c["is_next"])}


def split(c: dict, weights: None, inputs: dict) -> dict:
    """Files on their sides."""
    if c["n_val_subjects_per_dataset"] is None:
        return published.by_runs(inputs["paths"], c["frac_val_per_dataset"], c["seed"])
    return published.by_people(
        inputs["paths"],
        c["n_train_subjects_per_dataset"],
        c["n_val_subjects_per_dataset"],
        c["n_test_subjects_per_dataset"],
        c["seed"],
    )


def tar(c: dict, weights: None, inputs: dict) -> dict:
    """What a tar holds."""
    with tarfile.open(inputs["tar"]) as archive:
        members = archive.getnames()
    found = list(samples(inputs["tar"]))
    told = [{part: told_of(part, content) for part, content in one.members.items()} for one in found]
    return {"members": members, "sample_keys": [one.key for one in found], "samples": told}


def told_of(part: str, content: bytes) -> Any:
    """Return what the cases say of a member: a number, a text, or the outline of an array."""
    if not part.endswith(".pyd"):
        return content.decode()
    value = restricted_pickle.loads(content, part)
    if np.ndim(value) == 0:
        return float(value)
    first, total = value.ravel()[:N_FIRST].tolist(), float(value.sum(dtype=np.float64))
    return {"shape": list(value.shape), "dtype": str(value.dtype), "first": first, "sum": total}


# ------------------------------------------------------------------ networks


def config_of(c: dict) -> autoencoder.Config | linear_baseline.Config:
    """Return the settings of a case."""
    if c["architecture"] == "LinearBaseline":
        return linear_baseline.Config(n_samples=c["linear_n_timesteps"], align="start")
    return autoencoder.Config.published().model_copy(
        update={
            "embed_dim": c["embedding_dim"],
            "projection_layers": c["num_hidden_layers_embedding_model"],
            "reconstruction_layers": c["num_hidden_layers_unembedding_model"] if c["has_unembedder"] else 0,
            "drop_rate": c["dropout"],
            "time_step_s": c["t_r_precision"],
            "time_span_s": float(c["t_r_max"]),
            "depth": c["num_hidden_layers"],
            "teacher_forcing": c["autoen_teacher_forcing_ratio"],
        }
    )


def n_regions(c: dict) -> int:
    """Return how many columns the series of a case have."""
    return c["linear_n_networks"] if c["architecture"] == "LinearBaseline" else c["parcellation_dim"]


def window_of(inputs: dict) -> tuple[Batch, embedder.Window]:
    """Return the stored windows as a batch, and with their own times."""
    series, attend = torch.from_numpy(inputs["inputs"]), torch.from_numpy(inputs["attention_mask"]).bool()
    batch = Batch.of_series(series)
    stored = embedder.Window(series, attend, torch.from_numpy(inputs["t_rs"]), batch.valid_region)
    return batch, stored


def model(c: dict, weights: dict, inputs: dict) -> dict:
    """One forward and backward pass, with all that is on the way."""
    weights = {key: torch.from_numpy(value) for key, value in weights.items()}
    batch, stored = window_of(inputs)
    seen = {f"prep/{name}": inputs[name] for name in ("t_rs", "attention_mask")}
    seen |= {"prep/inputs_embeds": inputs["inputs"]}
    if c["architecture"] == "LinearBaseline":
        network = linear_layout.read(weights, Regions.plain("a", n_regions(c)), config_of(c))
        seen |= {"emb/inputs_embeds": inputs["inputs"], "out/decoding_logits": network(batch)}
        return seen | judged(network, linear_layout.entries(network, weights), seen["out/decoding_logits"], inputs)
    rows = embedder.time_rows(stored.time_s, c["t_r_precision"], c["t_r_max"])
    seen |= {"emb/tr_position_ids": rows}
    if c["training_style"] == "decoding":
        return seen | decoding(c, weights, stored, inputs)
    network = load("autoencoder", weights, Regions.plain("a", n_regions(c)), config_of(c))
    return seen | reconstruction(c, network, stored)


def reconstruction(c: dict, network: autoencoder.Model, stored: embedder.Window) -> dict:
    """Windows that are written again."""
    forced = torch.tensor(c["autoen_teacher_forcing_ratio"] == 1) if c["train"] else None
    tokens, lengths = network.embedder(stored.series, stored.time_s), None
    last, pooled = network.encoder(tokens, lengths)
    shown = None if forced is None else network.shown(tokens, pooled)
    written = network.decoder(last, pooled, tokens.shape[1], shown, forced)
    predicted, window = network.write(stored, forced)
    loss = embedder.mean_error(predicted, window.series, window.attend[:, :, None])
    loss.backward()
    return {
        "emb/inputs_embeds": tokens,
        "dec/last_hidden_state": written,
        "dec/pooler_outputs": pooled,
        "out/outputs": predicted,
        "loss/reconstruction_loss": loss,
        "loss/loss": loss,
        "gradnorm": gradient_norms(network, autoencoder_layout.entries(network)),
    }


def decoding(c: dict, weights: dict, stored: embedder.Window, inputs: dict) -> dict:
    """Classes from the pooled vector."""
    network = autoencoder_layout.decoder(weights, Regions.plain("a", n_regions(c)), config_of(c))
    tokens = network.model.embedder(stored.series, stored.time_s)
    pooled = network.model.encoder(tokens)[1]
    logits = network.decide(pooled)
    seen = {"emb/inputs_embeds": tokens, "dec/pooler_outputs": pooled, "out/decoding_logits": logits}
    return seen | judged(network, autoencoder_layout.entries(network), logits, inputs)


def judged(network: nn.Module, entries: list, logits: Tensor, inputs: dict) -> dict:
    """The loss of logits and its gradients."""
    loss = F.cross_entropy(logits, torch.from_numpy(inputs["labels"]))
    loss.backward()
    return {"loss/decoding_loss": loss, "loss/loss": loss, "gradnorm": gradient_norms(network, entries)}


def gradient_norms(network: nn.Module, entries: list) -> dict[str, Tensor]:
    """Return the length of every gradient by released key, 0 of what nothing depends on."""
    own = dict(network.named_parameters())
    gradients = {entry.key: own[entry.name].grad if entry.name else None for entry in entries}
    return {key: torch.zeros(()) if grad is None else grad.norm() for key, grad in gradients.items()}


def checkpoint(c: dict, weights: Any, inputs: dict) -> dict:
    """A file as it was published, loaded and written down again under its keys."""
    tensors = {key: torch.from_numpy(np.asarray(value)) for key, value in weights.items()}
    network = load("autoencoder", tensors, Regions.plain("a", n_regions(c)), config_of(c))
    return {"state": state(network, autoencoder_layout.entries(network))}


def state(network: nn.Module, entries: list) -> dict[str, Tensor]:
    """Return the weights by released key."""
    own = network.state_dict()
    return {entry.key: own[entry.name] for entry in entries}


def state_dict(c: dict, weights: None, inputs: dict) -> dict:
    """The released keys of a model with the sizes of a case."""
    regions = Regions.plain("a", n_regions(c))
    n_classes = c["num_decoding_classes"]
    if c["architecture"] == "LinearBaseline":
        network: nn.Module = linear_baseline.Model(config_of(c), regions).classifier(n_classes, None)
        dead = embedder.unembedder(autoencoder.Config(embed_dim=c["embedding_dim"]), c["parcellation_dim"])
        unused = {
            f"unembedder.model.{4 * i}.{n}": p for i, m in enumerate(dead.layers) for n, p in m.named_parameters()
        }
        entries = linear_layout.entries(network, unused)
        shapes = state(network, [entry for entry in entries if entry.name]) | unused
    else:
        network = autoencoder.Model(config_of(c), regions)
        network = network.classifier(n_classes, None) if c["training_style"] == "decoding" else network
        entries = autoencoder_layout.entries(network)
        shapes = state(network, entries)
    listed = [
        {"key": e.key, "shape": list(shapes[e.key].shape), "dtype": "float32", "kind": "parameter"} for e in entries
    ]
    n_parameters = sum(value.numel() for value in shapes.values())
    return {"entries": listed, "n_parameters": n_parameters, "keys_absent_from_published_file": []}
