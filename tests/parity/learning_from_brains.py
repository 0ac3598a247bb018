"""The cases of learning-from-brains: its transformers here, data and the other networks in a file of their own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuropipe.hub.layouts import learning_from_brains as layout
from neuropipe.models import csm, embedder, network_bert, sequence_bert
from neuropipe.models.embedder import Sequence, Window
from neuropipe.models.sequence_bert import Pairs
from neuropipe.signals.regions import Regions

from . import learning_from_brains_data as data

FAMILIES = {"GPT": csm, "BERT": sequence_bert, "NetBERT": network_bert}
ACTIVATIONS = {"gelu_new": "gelu_tanh", "gelu": "gelu", "relu": "relu"}

window, batch_single, batch_pair = data.window, data.batch_single, data.batch_pair
split, tar = data.split, data.tar


def config_of(c: dict) -> embedder.TransformerConfig:
    """Return the settings of a case."""
    common = {
        "embed_dim": c["embedding_dim"],
        "projection_layers": c["num_hidden_layers_embedding_model"],
        "reconstruction_layers": c["num_hidden_layers_unembedding_model"] if c["has_unembedder"] else 0,
        "drop_rate": c["dropout"],
        "attn_drop_rate": c["dropout"],
        "time_step_s": c["t_r_precision"],
        "time_span_s": float(c["t_r_max"]),
        "depth": c["num_hidden_layers"],
        "num_heads": c["num_attention_heads"],
        "mlp_ratio": float(c["intermediate_dim_factor"]),
        "activation": ACTIVATIONS[c["hidden_activation"]],
        "n_positions": c["n_positions"],
    }
    if c["architecture"] != "GPT":
        common["mask_share"] = c["masking_rate"]
    config = FAMILIES[c["architecture"]].Config
    return config.model_validate(config.published().model_dump() | common)


def network_of(c: dict, weights: dict | None = None) -> nn.Module:
    """Return the network of a case, with its weights where there are any."""
    model = FAMILIES[c["architecture"]].Model(config_of(c), Regions.plain("a", c["parcellation_dim"]))
    if weights is not None:
        weights = {key: torch.from_numpy(value) for key, value in weights.items()}
    if c["training_style"] == "decoding":
        return model.classifier(c["num_decoding_classes"]) if weights is None else layout.decoder(model, weights)
    return model if weights is None else layout.read(model, weights)


# ------------------------------------------------------------------ forward and backward


def model(c: dict, weights: dict, inputs: dict) -> dict:
    """One forward and backward pass, with all that is on the way."""
    if c["architecture"] not in FAMILIES:
        return data.model(c, weights, inputs)
    network = network_of(c, weights)
    given = {name: torch.from_numpy(value) for name, value in inputs.items() if value is not None}
    stored = window_of(given)
    if c["training_style"] == "decoding":
        seen = decoding(network, stored, given["labels"])
    elif c["architecture"] == "GPT":
        seen = predicting(network, stored, given["masking_i"])
    else:
        seen = pairing(network, stored, given)
    seen["loss/loss"].backward()
    return seen | {"gradnorm": gradient_norms(network)}


def window_of(given: dict[str, Tensor]) -> Window:
    """Return the stored windows, which have all regions."""
    region = torch.ones(given["inputs"].shape[::2], dtype=torch.bool)
    return Window(given["inputs"], given["attention_mask"].bool(), given["t_rs"], region)


def told(model: nn.Module, sequence: Sequence, hidden: Tensor) -> dict[str, Any]:
    """Return what the network reads and what it makes of it, under the names of the cases."""
    config = model.config
    return {
        "prep/inputs_embeds": sequence.tokens,
        "prep/t_rs": sequence.time_s,
        "prep/attention_mask": sequence.attend.long(),
        "emb/tr_position_ids": embedder.time_rows(sequence.time_s, config.time_step_s, config.time_span_s),
        "emb/inputs_embeds": model.embedder(sequence.tokens, sequence.time_s),
        "dec/last_hidden_state": hidden,
    }


def rebuilt(model: nn.Module, sequence: Sequence, hidden: Tensor) -> dict[str, Any]:
    """Return the reconstruction of hidden entries and its error."""
    predicted = model.unembedder(hidden)
    return {
        "prep/modelling_mask": sequence.counted.long(),
        "prep/masked_inputs": sequence.target[sequence.counted],
        "out/outputs": predicted,
        "loss/masking_loss": embedder.mean_error(predicted, sequence.target, sequence.counted),
    }


def predicting(model: csm.Model, stored: Window, chosen: Tensor) -> dict[str, Any]:
    """One sample of each window, predicted from those before it."""
    sequence = csm.one_sample(stored, chosen, model.embedder.tokens["mask"])
    hidden = model.encode(sequence)
    seen = told(model, sequence, hidden) | rebuilt(model, sequence, hidden)
    found = model.predict(sequence)
    return seen | {"loss/loss": embedder.mean_error(found.predicted, found.target, found.counted)}


def pairing(model: sequence_bert.Model, stored: Window, given: dict[str, Tensor]) -> dict[str, Any]:
    """Hidden entries of pairs, and which second parts follow."""
    joined = sequence_bert.join(*cut_again(stored, given["token_type_ids"]), model.lead)
    joined = sequence_bert.Joined(*(field[: len(stored.series)] for field in joined))
    masked = given["network_mask"][:, None].bool() if "network_mask" in given else masked_points(joined, given)
    sequence = model.sequence(joined, masked)
    hidden = model.encode(sequence)
    seen = told(model, sequence, hidden) | rebuilt(model, sequence, hidden)
    pooled = model.pooler(model.pooled_token(hidden))
    seen |= {
        "prep/token_type_ids": sequence.part,
        "dec/pooler_outputs": pooled,
        "out/is_next_logits": model.next_head(pooled),
        "loss/is_next_loss": model.next_loss(hidden, given["is_next"].bool()),
    }
    return seen | {"loss/loss": seen["loss/masking_loss"] + seen["loss/is_next_loss"]}


def cut_again(stored: Window, part: Tensor) -> tuple[Window, Pairs]:
    """Return stored pairs as twice as many windows, second parts behind first parts, and who follows whom.

    The two parts of a pair may have different repetition times.
    """
    n, n_samples = stored.attend.shape
    n_first = (stored.attend & (part == 0)).sum(1)
    n_second = (stored.attend & (part == 1)).sum(1)
    later = (n_first[:, None] + torch.arange(n_samples)).clamp(max=n_samples - 1)
    rows = torch.arange(n)[:, None]
    second = Window(stored.series[rows, later], stored.attend[rows, later], stored.time_s[rows, later], stored.region)
    both = Window(*(torch.cat(fields) for fields in zip(stored, second, strict=True)))
    partner = torch.arange(n, 2 * n).repeat(2)
    none = torch.zeros_like(partner)
    return both, Pairs(n_first.repeat(2), none, n_second.repeat(2), partner, none.bool())


def masked_points(joined: sequence_bert.Joined, given: dict[str, Tensor]) -> Tensor:
    """Return the stored mask of time points at their places, bool (batch, place, 1)."""
    return given["time_mask"].bool().gather(1, joined.order)[:, :, None]


def decoding(network: embedder.DecodingNetwork, stored: Window, labels: Tensor) -> dict[str, Any]:
    """Classes from the pooled token."""
    model = network.model
    last = getattr(model.config, "cls_place", "last") == "last"
    sequence = embedder.with_cls(stored, model.embedder.tokens["cls"], first=not last)
    hidden = model.encode(sequence)
    token = model.pooled_token(*([hidden, sequence.attend] if isinstance(model, csm.Model) else [hidden]))
    pooled = model.pooler(token)
    logits = network.decide(pooled)
    loss = F.cross_entropy(logits, labels)
    seen = {"dec/pooler_outputs": pooled, "out/decoding_logits": logits}
    return told(model, sequence, hidden) | seen | {"loss/decoding_loss": loss, "loss/loss": loss}


def gradient_norms(network: nn.Module) -> dict[str, Tensor]:
    """Return the length of every gradient by released key, 0 of what nothing depends on."""
    own = dict(network.named_parameters())
    found = {}
    for entry in layout.entries(network):
        if entry.use != "fact":
            grad = own[entry.name].grad if entry.name else None
            found[entry.key] = torch.zeros(()) if grad is None else entry.place(grad).norm()
    return found


# ------------------------------------------------------------------ time, keys, files


def tr_ids(c: dict, weights: None, inputs: dict) -> dict:
    """Rows of the time table."""
    rows = embedder.time_rows(torch.from_numpy(inputs["t_rs"]), c["t_r_precision"], c["t_r_max"])
    assert c["spare_row"] == int(c["t_r_max"] / c["t_r_precision"])
    return {"position_ids": rows}


def like(network: nn.Module, entry: Any) -> Tensor:
    """Return what a key of the release looks like."""
    return entry.place(network.state_dict()[entry.name]) if entry.fact is None else entry.fact


def state_dict(c: dict, weights: None, inputs: dict) -> dict:
    """The released keys of a model with the sizes of a case."""
    if c["architecture"] not in FAMILIES:
        return data.state_dict(c, weights, inputs)
    with torch.device("meta"):
        network = network_of(c)
    entries = [(entry, like(network, entry)) for entry in layout.entries(network)]
    listed = [
        {
            "key": entry.key,
            "shape": list(tensor.shape),
            "dtype": str(tensor.dtype).removeprefix("torch."),
            "kind": "buffer" if entry.use == "fact" else "parameter",
        }
        for entry, tensor in entries
    ]
    return {
        "entries": listed,
        "n_parameters": sum(tensor.numel() for entry, tensor in entries if entry.use != "fact"),
        "keys_absent_from_published_file": [e.key for e, _ in entries if e.optional and e.use == "weight"],
    }


def checkpoint(c: dict, weights: dict, inputs: dict) -> dict:
    """A file as it was published, loaded and written down again under its keys."""
    if c["architecture"] not in FAMILIES:
        return data.checkpoint(c, weights, inputs)
    network = network_of(c, weights)
    own = {entry.key: like(network, entry) for entry in layout.entries(network) if entry.use != "dead"}
    dropped = {entry.key for entry in layout.entries(network) if entry.use == "dead"}  # nothing keeps them
    return {"state": own | {key: value for key, value in weights.items() if key in dropped}}
