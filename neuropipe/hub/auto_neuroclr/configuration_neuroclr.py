"""Configuration of NeuroCLR for Hugging Face's Auto classes, with the fields of the release."""

from transformers import PretrainedConfig


class NeuroCLRConfig(PretrainedConfig):
    """Sizes of the encoder of one region's series, and of the classifier that reads all regions.

    Parameters
    ----------
    TSlength, nhead, nlayer, dim_feedforward : int
        Samples of a series (also the width of the transformer), heads, layers, width inside a layer's MLP
        (default: twice the samples).
    pooling : {"flatten", "mean", "last"}
        How the tokens of a series become one vector; ``flatten`` is for one token.
    normalize_input : bool
        Divide every series by its length.
    projector_out1, projector_out2 : int
        Widths inside and after the projector.
    encoder_dropout, head_dropout : float
        In training.
    n_rois : int
        Regions that the classifier reads.
    freeze_encoder, encoder_eval_when_frozen : bool
        Train the classifier's head alone, and drop nothing in the encoder meanwhile.
    inputs_are_embeddings : bool
        The classifier is given the encoder's vectors instead of series.
    base_filters, kernel_size, stride, groups, n_block, downsample_gap, increasefilter_gap, use_bn, use_do
        Of the ResNet; see ``resnet1d.py``.
    """

    model_type = "neuroclr"

    def __init__(
        self,
        TSlength=128,
        nhead=2,
        nlayer=2,
        dim_feedforward=None,
        pooling="flatten",
        normalize_input=True,
        projector_out1=128,
        projector_out2=64,
        encoder_dropout=0.1,
        n_rois=200,
        freeze_encoder=True,
        encoder_eval_when_frozen=True,
        inputs_are_embeddings=False,
        base_filters=256,
        kernel_size=16,
        stride=2,
        groups=32,
        n_block=48,
        downsample_gap=6,
        increasefilter_gap=12,
        use_bn=True,
        use_do=True,
        head_dropout=0.5,
        **others,
    ):
        self.TSlength = TSlength
        self.nhead = nhead
        self.nlayer = nlayer
        self.dim_feedforward = 2 * TSlength if dim_feedforward is None else dim_feedforward
        self.pooling = pooling
        self.normalize_input = normalize_input
        self.projector_out1 = projector_out1
        self.projector_out2 = projector_out2
        self.encoder_dropout = encoder_dropout
        self.n_rois = n_rois
        self.freeze_encoder = freeze_encoder
        self.encoder_eval_when_frozen = encoder_eval_when_frozen
        self.inputs_are_embeddings = inputs_are_embeddings
        self.base_filters = base_filters
        self.kernel_size = kernel_size
        self.stride = stride
        self.groups = groups
        self.n_block = n_block
        self.downsample_gap = downsample_gap
        self.increasefilter_gap = increasefilter_gap
        self.use_bn = use_bn
        self.use_do = use_do
        self.head_dropout = head_dropout
        super().__init__(**others)
