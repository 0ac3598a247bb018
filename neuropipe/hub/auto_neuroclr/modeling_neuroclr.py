"""NeuroCLR for Hugging Face's Auto classes: the encoder of one region's series, and the classifier of all regions."""

from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from .configuration_neuroclr import NeuroCLRConfig
from .resnet1d import ResNet1D, keep

SERIES_AT_ONCE = 4096  # that a frozen encoder reads at once


@dataclass
class NeuroCLROutput(ModelOutput):
    """What the encoder makes of series.

    Attributes
    ----------
    h : tensor (series, TSlength)
    z : tensor (series, projector_out2)
    """

    h: torch.FloatTensor | None = None
    z: torch.FloatTensor | None = None


@dataclass
class NeuroCLRClassifierOutput(ModelOutput):
    """What the classifier makes of people.

    Attributes
    ----------
    loss : tensor (), with labels only
    logits : tensor (row, num_labels)
    hidden : tensor (row, n_rois, TSlength)
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    hidden: torch.FloatTensor | None = None


class NeuroCLRPreTrainedModel(PreTrainedModel):
    """What both models have in common."""

    config_class = NeuroCLRConfig
    base_model_prefix = "encoder"

    def _init_weights(self, module):
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
        elif hasattr(module, "_reset_parameters"):  # torch's attention
            module._reset_parameters()


class NeuroCLRModel(NeuroCLRPreTrainedModel):
    """The encoder: a transformer whose tokens are whole series, and a projector."""

    def __init__(self, config):
        super().__init__(config)
        layer = nn.TransformerEncoderLayer(
            config.TSlength, config.nhead, config.dim_feedforward, config.encoder_dropout, batch_first=True
        )
        self.transformer_encoder = nn.TransformerEncoder(layer, config.nlayer, enable_nested_tensor=False)
        self.projector = nn.Sequential(
            nn.Linear(config.TSlength, config.projector_out1),
            nn.BatchNorm1d(config.projector_out1),
            nn.ReLU(),
            nn.Linear(config.projector_out1, config.projector_out2),
        )
        self.post_init()

    def encode(self, x):
        """Map series (series, token, TSlength) to vectors (series, TSlength)."""
        if self.config.normalize_input:
            x = F.normalize(x, dim=-1, eps=1e-12)
        x = self.transformer_encoder(x)
        if self.config.pooling == "mean":
            return x.mean(1)
        if self.config.pooling == "last":
            return x[:, -1]
        if self.config.pooling != "flatten":
            raise ValueError(f"pooling: expected flatten, mean or last, found {self.config.pooling!r}.")
        x = x.reshape(len(x), -1)
        if x.shape[1] != self.config.TSlength:
            raise ValueError(f"pooling 'flatten' needs series (batch, 1, {self.config.TSlength}); use mean or last.")
        return x

    def forward(self, x, return_dict=True):
        """Map series (series, 1, TSlength) to `h` and `z`."""
        h = self.encode(x)
        output = NeuroCLROutput(h=h, z=self.projector(h))
        return output if return_dict else output.to_tuple()


class NeuroCLRForSequenceClassification(NeuroCLRPreTrainedModel):
    """The classifier: every region encoded by itself, then a ResNet with the regions as channels."""

    def __init__(self, config):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.encoder = NeuroCLRModel(config)
        self.head = ResNet1D(
            config.n_rois,
            config.num_labels,
            base_filters=config.base_filters,
            kernel_size=config.kernel_size,
            stride=config.stride,
            groups=config.groups,
            n_block=config.n_block,
            downsample_gap=config.downsample_gap,
            increasefilter_gap=config.increasefilter_gap,
            use_bn=config.use_bn,
            use_do=config.use_do,
        )
        self.post_init()

    def train(self, mode=True):
        """Set training or evaluation; a frozen encoder stays in evaluation.

        It is frozen here, because weights that `from_pretrained` puts in place of the first ones are not; both
        `from_pretrained` and any training come by.
        """
        super().train(mode)
        self.encoder.requires_grad_(not self.config.freeze_encoder)
        if self.config.freeze_encoder and self.config.encoder_eval_when_frozen:
            self.encoder.eval()
        return self

    def encode(self, x):
        """Map (row, n_rois, TSlength) to vectors of the same shape, every region by itself."""
        if self.config.inputs_are_embeddings:
            return x
        series = x.reshape(-1, 1, x.shape[-1])
        if not self.config.freeze_encoder:
            return self.encoder.encode(series).view(x.shape)
        with torch.no_grad():
            return torch.cat([self.encoder.encode(part) for part in series.split(SERIES_AT_ONCE)]).view(x.shape)

    def forward(self, x, labels=None, return_dict=True):
        """Map series (row, n_rois, TSlength) to `logits`, and with `labels` to a `loss`.

        Integers (row,) are classes, floats (row, num_labels) are several yes or no, or, for one label, a number.
        """
        drop = partial(F.dropout, p=self.config.head_dropout) if self.training else keep
        hidden = self.encode(x)
        logits = self.head(hidden, drop)
        output = NeuroCLRClassifierOutput(loss=self.loss(logits, labels), logits=logits, hidden=hidden)
        return output if return_dict else output.to_tuple()

    def loss(self, logits, labels):
        """Return the loss that the type of `labels` asks for; None without any."""
        if labels is None:
            return None
        if self.num_labels == 1:
            return F.mse_loss(logits[:, 0], labels.view(-1).to(logits.dtype))
        if labels.is_floating_point():
            return F.binary_cross_entropy_with_logits(logits, labels)
        return F.cross_entropy(logits, labels)
