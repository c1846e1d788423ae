"""Configuration of the training loop: epochs, precision, averages of the weights, checkpoints, stopping."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from audiotag.configbase import Count, Fraction, NonNegative, NonNegativeCount, Positive, Section
from audiotag.evaluation.metricnames import check_metric_name


class Freeze(Section):
    """A part of the model that is not trained, or not from the start."""

    modules: Annotated[list[str], Field(min_length=1)]
    """Names of modules or parameters, such as encoder, encoder.blocks.0 or encoder.pos_embed; all that lies
    below is meant."""
    epochs: Count | None = None
    """Frozen during this many epochs at the start; null for good."""


class Ema(Section):
    """Exponential moving average of the weights, in float64."""

    decay: Fraction = 0.9999
    """Share of the old average that stays at each update."""
    warmup: bool = True
    """Average over what there is at first: the decay is at most (1 + updates) / (10 + updates)."""


class RunningAverage(Section):
    """Mean of the weights over all updates so far, in float64, of which the mean of any stretch between two
    checkpoints can be computed."""

    period: Count = 100
    """Updates between two samples."""


class Swa(Section):
    """Stochastic weight averaging: the mean of the weights at the ends of epochs, in float64."""

    first_epoch: Count
    """The first epoch that is averaged."""
    last_epoch: Count | None = None
    """The last; null goes on to the end."""


class GradScaler(Section):
    """The scale that keeps gradients within the range of fp16; with other precisions there is none."""

    initial_scale: Positive = 65536.0
    """Scale at the start (icefall, with its summed loss: 1)."""
    growth_interval: Count = 2000
    """Updates without an overflow after which the scale is doubled."""
    lift: bool = False
    """Do not let the scale sink, as icefall does: doubled below 8 at every 100th update of an epoch, below 32
    at every 400th; a warning and a checkpoint below 0.01, the end of training below 0.00001."""


class Training(Section):
    """The training loop."""

    epochs: Count = 10
    """Passes over the training clips, or over `samples_per_epoch` of them."""
    amp: Literal["off", "fp16", "bf16"] = "off"
    """Mixed precision; fp16 scales the loss."""
    grad_scaler: GradScaler = GradScaler()
    """Scale of the loss in fp16."""
    tf32: bool = True
    """Allow TF32 matrix products on GPUs."""
    compile: Literal["off", "model", "blocks"] = "off"
    """torch.compile of the whole model, or of each of the encoder's blocks (much faster to compile)."""
    activation_checkpointing: bool = False
    """Compute the encoder's blocks a second time in the backward pass in place of keeping what they computed:
    less memory, about a third more time."""
    accumulate: Count = 1
    """Batches of each process whose gradients are added up before one update."""
    batches_per_update: Count | None = None
    """Batches of an update over all processes: `accumulate` becomes this over their number, which has to
    divide it, so that the effective batch stays the same on other numbers of GPUs and nodes; null goes by
    `accumulate`."""
    clip_norm: Positive | None = 1.0
    """Largest norm of the gradient; null does not clip."""
    batch_count: Literal["trained", "configured", "updates"] = "trained"
    """What the schedules inside an encoder (Zipformer) go by: `trained`, the seconds of audio trained on so
    far by all processes, with the padding to the longest clip of each batch, over `ref_duration_s`;
    `configured`, icefall's rule, by which every batch has `data.max_duration_s` seconds, looked at every
    tenth update; `updates`, their plain number."""
    ref_duration_s: Positive = 600.0
    """Seconds of audio that count as one batch."""
    freeze: list[Freeze] = []
    """Parts that are not trained, or not from the start; their dropout is off."""
    ema: Ema | None = None
    """Exponential moving average of the weights; null keeps none."""
    running_average: RunningAverage | None = None
    """Mean of the weights over all updates; null keeps none."""
    swa: Swa | None = None
    """Mean of the weights at the ends of a range of epochs; null keeps none."""
    log_every: Count = 20
    """Updates between two log lines and TensorBoard points."""
    validate_every_epochs: Count = 1
    """Epochs between two validations; the last epoch has one anyway."""
    validate_every_steps: Count | None = None
    """Also validate each time that this many updates are done, inside epochs; null does not."""
    validate_weights: Literal["model", "ema", "running_average", "swa"] = "model"
    """Which weights validation measures."""
    best_metric: Annotated[str, AfterValidator(check_metric_name)] = "mAP"
    """Validation metric that names the best checkpoint: any of the evaluation's, such as mAP, mAUC, accuracy,
    f1_macro or loss (of which less is better)."""
    patience: Count | None = None
    """Stop early after this many validations without a better metric; null goes on to the end."""
    min_delta: NonNegative = 0.0
    """What counts as better for `patience`: by more than this. The best checkpoint is the best anyway."""
    save_every_steps: Count | None = None
    """Also save a checkpoint (step-<n>.pt) each time that this many updates are done; null saves at epochs'
    ends only."""
    keep_last: NonNegativeCount = 0
    """Newest epoch checkpoints kept, besides the best and those averaged with it; 0 keeps all."""
    keep_last_steps: Count = 2
    """Newest step-<n>.pt kept, besides the best."""
    keep_best: Count = 1
    """Checkpoints with the best validation metric kept."""
    max_overflows: Count = 20
    """With fp16: updates in a row that may be skipped for an overflowed gradient before training stops."""
    peak_tflops: Positive | None = None
    """Peak of the device in TFLOP/s, of which the log shows the share that the model uses (MFU); null takes
    what is known of the GPU."""
    timeout_s: Positive = 600.0
    """Seconds after which a process that waits in vain for the others gives up."""
