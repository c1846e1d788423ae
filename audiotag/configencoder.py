"""Configuration of encoders."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from audiotag.configbase import Count, Fraction, Positive, Section

PerStack = Annotated[list[Count], Field(min_length=1)] | Count


class FreezableEncoder(Section):
    """What all encoders share."""

    freeze: bool = False
    """A probe: the encoder stays as it begins, each clip's mean embedding is computed once and kept on disk,
    and the head alone is trained on these. Augmentation and what is about training an encoder are refused."""


class AstEncoder(FreezableEncoder):
    """Audio Spectrogram Transformer of any size and stride."""

    name: Literal["ast"] = "ast"
    """Which encoder."""
    embed_dim: Count = 768
    """Width of the transformer."""
    depth: Count = 12
    """Number of blocks."""
    num_heads: Count = 12
    """Attention heads; must divide `embed_dim`."""
    mlp_ratio: Positive = 4.0
    """Hidden width of the feed-forward part over `embed_dim`."""
    patch_size: Count = 16
    """Side of the square patches, in mel bins and frames."""
    freq_stride: Count = 10
    """Step between patches along frequency."""
    time_stride: Count = 10
    """Step between patches along time."""
    dropout: Fraction = 0.0
    """Dropout after the position embedding and inside the feed-forward part."""
    attention_dropout: Fraction = 0.0
    """Dropout of attention weights."""
    drop_path: Fraction = 0.0
    """Stochastic depth: rate at the last block, rising linearly from 0 at the first."""
    block_norm_eps: Positive = 1e-6
    """LayerNorm eps inside the blocks (original checkpoints 1e-6, Hugging Face 1e-12)."""
    final_norm_eps: Positive = 1e-6
    """LayerNorm eps after the last block (original 1e-6, Hugging Face 1e-12)."""
    head_norm_eps: Positive = 1e-5
    """LayerNorm eps before the linear head (original 1e-5, Hugging Face 1e-12)."""

    @model_validator(mode="after")
    def _heads_divide_width(self) -> AstEncoder:
        if self.embed_dim % self.num_heads:
            raise ValueError(f"num_heads {self.num_heads} does not divide embed_dim {self.embed_dim}")
        return self


class ZipformerEncoder(FreezableEncoder):
    """Zipformer of any size: stacks of layers at several frame rates.

    Settings of the stacks are lists with a value for each; one number stands for all.
    """

    name: Literal["zipformer"] = "zipformer"
    """Which encoder."""
    num_encoder_layers: PerStack = [2, 2, 3, 4, 3, 2]
    """Layers of each stack."""
    downsampling_factor: PerStack = [1, 2, 4, 8, 4, 2]
    """Frames of 20 ms that each stack makes one of."""
    encoder_dim: PerStack = [192, 256, 384, 512, 384, 256]
    """Width of each stack; the largest is that of the embeddings."""
    encoder_unmasked_dim: PerStack = [192, 192, 256, 256, 256, 192]
    """Channels of each stack that training never masks; at most `encoder_dim`."""
    num_heads: PerStack = [4, 4, 4, 8, 4, 4]
    """Attention heads of each stack."""
    query_head_dim: PerStack = 32
    """Width of a head's queries and keys."""
    pos_head_dim: PerStack = 4
    """Width of a head's queries for relative positions."""
    value_head_dim: PerStack = 12
    """Width of a head's values."""
    feedforward_dim: PerStack = [512, 768, 1024, 1536, 1024, 768]
    """Hidden width of the second feed-forward part of a layer; the first has 3/4 of it, the third 5/4."""
    cnn_module_kernel: PerStack = [31, 31, 15, 15, 15, 31]
    """Frames that the convolutions of a layer see, at the rate of its stack; odd."""
    pos_dim: Count = 48
    """Width of the table of relative positions; even."""
    output_dropout: Fraction = 0.1
    """Dropout of the embeddings."""
    warmup_batches: Positive = 4000.0
    """Batch count, in batches of 600 s of audio, by which all layers are seldom skipped in training."""

    @model_validator(mode="after")
    def _stacks_fit_together(self) -> ZipformerEncoder:
        values = {name: value for name, value in self if isinstance(value, list)}
        number = max(map(len, values.values()), default=1)
        for name, value in values.items():
            if len(value) not in (1, number):
                raise ValueError(f"{name} has {len(value)} values where other settings have {number}")
        dims, unmasked = (as_list(value, number) for value in (self.encoder_dim, self.encoder_unmasked_dim))
        for dim, never_masked in zip(dims, unmasked, strict=True):
            if never_masked > dim:
                raise ValueError(f"encoder_unmasked_dim {never_masked} is more than encoder_dim {dim}")
        if not all(kernel % 2 for kernel in as_list(self.cnn_module_kernel, number)):
            raise ValueError("cnn_module_kernel must be odd")
        if self.pos_dim % 2:
            raise ValueError(f"pos_dim must be even, found {self.pos_dim}")
        return self


def as_list(value: list[int] | int, number: int) -> list[int]:
    """A setting of each stack."""
    return value * (number // len(value)) if isinstance(value, list) else [value] * number


class BeatsEncoder(FreezableEncoder):
    """BEATs of any size: a transformer over patches whose attention knows their distance."""

    name: Literal["beats"] = "beats"
    """Which encoder."""
    patch_size: Count = 16
    """Side of the square patches, in frames and mel bins."""
    patch_dim: Count = 512
    """Width of a patch before it is projected to `embed_dim`; where equal, there is no projection."""
    patch_bias: bool = False
    """Whether the convolution that makes patches has a bias."""
    embed_dim: Count = 768
    """Width of the transformer."""
    depth: Count = 12
    """Number of layers."""
    num_heads: Count = 12
    """Attention heads; must divide `embed_dim`."""
    feedforward_dim: Count = 3072
    """Hidden width of the feed-forward part of a layer."""
    conv_kernel: Count = 128
    """Tokens that the positional convolution sees."""
    conv_groups: Count = 16
    """Groups of its channels; must divide `embed_dim`."""
    deep_norm: bool = True
    """DeepNorm: residuals times (2 depth)^(1/4), and initial weights to go with it."""
    num_buckets: Annotated[int, Field(ge=4, multiple_of=4)] = 320
    """Rows of the table of the bias by distance."""
    max_distance: Count = 800
    """Distance in tokens from which on all have one bucket; more than a quarter of `num_buckets`."""
    gated_bias: bool = True
    """Whether each query decides how much the bias by distance counts."""
    input_dropout: Fraction = 0.0
    """Dropout of the embedded patches."""
    dropout: Fraction = 0.0
    """Dropout before the first layer, and of what attention and feed-forward add."""
    attention_dropout: Fraction = 0.0
    """Dropout of attention weights."""
    activation_dropout: Fraction = 0.0
    """Dropout inside of the feed-forward parts."""
    output_dropout: Fraction = 0.0
    """Dropout of the embeddings before the head (the original's `predictor_dropout`)."""
    layer_drop: Fraction = 0.0
    """Probability that a layer is left out of a training pass."""
    gradient_decay: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Factor on the gradient at the input of each layer: what lies before the last n layers learns by its
    n-th power."""
    last_layer_only: bool = False
    """Train the last layer, the bias by distance through it, and the head alone, as ESPnet's recipe does in
    effect, whose gradient decay cuts the graph."""
    padding: Literal["exact", "original"] = "exact"
    """Which tokens belong to a clip that is padded: `exact`, those whose patch lies in it, so that it is
    heard as alone; `original`, those by the original's rule, a few more, of which a part is padding."""

    @model_validator(mode="after")
    def _sizes_fit_together(self) -> BeatsEncoder:
        for name, value in (("num_heads", self.num_heads), ("conv_groups", self.conv_groups)):
            if self.embed_dim % value:
                raise ValueError(f"{name} {value} does not divide embed_dim {self.embed_dim}")
        if 4 * self.max_distance <= self.num_buckets:
            raise ValueError(
                f"max_distance {self.max_distance} must be more than a quarter of num_buckets "
                f"{self.num_buckets}, as distances below that have a bucket each"
            )
        return self


Encoder = Annotated[AstEncoder | BeatsEncoder | ZipformerEncoder, Field(discriminator="name")]
