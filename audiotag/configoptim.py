"""Configuration of optimisers and learning-rate schedules."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from audiotag.configbase import Count, Fraction, NonNegative, NonNegativeCount, Positive, Section, Share

Factor = Annotated[float, Field(gt=0.0, le=1.0)]


class Rates(Section):
    """What all optimisers share: a rate, and what it becomes in parts of the model."""

    lr: Positive = 1e-3
    """Base learning rate, which the schedule multiplies."""
    head_lr_factor: Positive = 1.0
    """Factor on the rate of the head, the part that is not the encoder."""
    layer_decay: Factor = 1.0
    """Factor on the rate from each layer of the encoder to the one before it, the last having the base rate;
    1 gives all the same. BEiT and MAE lower the last layer once, too: for their values, multiply `lr` by
    `layer_decay` and divide `head_lr_factor` by it."""


class Groups(Rates):
    """What optimisers with weight decay share."""

    decay_all: bool = False
    """Weight decay also for norms, biases, positions and tokens (ESPnet's BEATs: true)."""


class AdamW(Groups):
    """Adam with decoupled weight decay."""

    name: Literal["adamw"] = "adamw"
    """Which optimiser."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    """Decay rates of the running moments."""
    eps: Positive = 1e-8
    """Added to the denominator."""
    weight_decay: NonNegative = 0.01
    """Decoupled weight decay of matrices and kernels; of the rest with `decay_all`."""


class Adam(Groups):
    """Adam with the original's coupled L2 penalty on all parameters."""

    name: Literal["adam"] = "adam"
    """Which optimiser."""
    lr: Positive = 1e-4
    """Base learning rate, which the schedule multiplies."""
    decay_all: bool = True
    """L2 penalty also for norms, biases, positions and tokens, as the AST's original has it."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    """Decay rates of the running moments."""
    eps: Positive = 1e-8
    """Added to the denominator."""
    weight_decay: NonNegative = 0.0
    """L2 penalty, added to the gradient."""


class Sgd(Groups):
    """Stochastic gradient descent with momentum and coupled L2 penalty."""

    name: Literal["sgd"] = "sgd"
    """Which optimiser."""
    momentum: Fraction = 0.9
    """Decay rate of the running gradient."""
    nesterov: bool = False
    """Nesterov's look-ahead momentum."""
    weight_decay: NonNegative = 0.0
    """L2 penalty, added to the gradient of matrices and kernels; of the rest with `decay_all`."""

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> Sgd:
        if self.nesterov and self.momentum == 0.0:
            raise ValueError("nesterov needs a momentum above 0")
        return self


class ScaledAdam(Rates):
    """Adam with steps relative to the size of each parameter, which is learnt as well (Zipformer)."""

    name: Literal["scaled_adam"] = "scaled_adam"
    """Which optimiser."""
    lr: Positive = 0.045
    """Base learning rate, relative to the size of each parameter, which the schedule multiplies."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.98)
    """Decay rates of the running step and of the running squared gradient."""
    eps: Positive = 1e-8
    """Added to the denominator."""
    clipping_scale: Positive | None = 2.0
    """The gradient's norm is limited to this times its median over the last updates, in place of
    `training.clip_norm`, which must be null; null does not clip."""
    clipping_update_period: Count = 100
    """Updates of which the median is taken, and between two times that it is; there are first ones after 10,
    20 and 40 updates."""
    scalar_lr_scale: Positive = 0.1
    """Factor on the rate of parameters of one element, and on that of the sizes of all others."""
    scalar_max: Positive = 10.0
    """Largest absolute value of parameters of one element."""
    param_min_rms: Positive = 1e-5
    """Parameters whose root mean square is smaller move as if it were this."""
    param_max_rms: Positive = 3.0
    """Root mean square beyond which the size of a parameter does not grow."""
    size_update_period: Count = 4
    """Updates between two changes of the sizes."""

    @model_validator(mode="after")
    def _rms_has_a_range(self) -> ScaledAdam:
        if self.param_min_rms >= self.param_max_rms:
            raise ValueError(
                f"param_min_rms {self.param_min_rms:g} is not below param_max_rms {self.param_max_rms:g}"
            )
        return self


class Warmup(Section):
    """What all schedules share: a linear rise at the start."""

    warmup_steps: NonNegativeCount = 0
    """Updates of linear warm-up."""
    warmup_ratio: Fraction = 0.0
    """Warm-up as a share of all updates; used when `warmup_steps` is 0."""
    warmup_from: Share | None = None
    """Rate at the first update over the base rate, which is then reached right after the warm-up
    (transformers and AST: 0); null begins with the first step of the rise, and reaches the base rate at the
    last update of the warm-up."""
    warmup_every: Count = 1
    """Updates between two steps of the rise (AST: 50, a staircase)."""


class ConstantSchedule(Warmup):
    """Warm-up, then the base rate."""

    name: Literal["constant"] = "constant"
    """Which schedule."""


class LinearSchedule(Warmup):
    """Warm-up, then a straight line down to `final_factor` after the last update."""

    name: Literal["linear"] = "linear"
    """Which schedule."""
    final_factor: Share = 0.0
    """Rate at the end over the base rate."""


class CosineSchedule(Warmup):
    """Warm-up, then half a cosine down to `final_factor` after the last update."""

    name: Literal["cosine"] = "cosine"
    """Which schedule."""
    final_factor: Share = 0.0
    """Rate at the end over the base rate."""


class CosineRestartsSchedule(Warmup):
    """Cycles of a warm-up and half a cosine down to `final_factor`."""

    name: Literal["cosine_restarts"] = "cosine_restarts"
    """Which schedule."""
    warmup_ratio: Fraction = 0.0
    """Warm-up as a share of the first cycle; used when `warmup_steps` is 0. All cycles warm up alike."""
    warmup_from: Share | None = None
    """Rate at a cycle's first update over the base rate (ESPnet: the same as `final_factor`); null begins
    with the first step of the rise from `final_factor`."""
    first_cycle_steps: Count | None = None
    """Updates of the first cycle, its warm-up included (ESPnet's BEATs: 80000)."""
    first_cycle_epochs: Positive | None = None
    """Its length in epochs, in place of `first_cycle_steps`."""
    cycle_factor: Annotated[float, Field(ge=1.0)] = 1.0
    """How much longer each cycle's cosine is than the one before."""
    peak_decay: Factor = 1.0
    """How much lower each cycle's peak is than the one before."""
    final_factor: Share = 0.0
    """Rate at the end of each cycle over the base rate, of the first cycle's peak, that is (ESPnet's BEATs:
    1/6)."""

    @model_validator(mode="after")
    def _first_cycle_is_given_once(self) -> CosineRestartsSchedule:
        if (self.first_cycle_steps is None) == (self.first_cycle_epochs is None):
            raise ValueError("one of first_cycle_steps and first_cycle_epochs is needed, and only one")
        return self


class MultistepSchedule(Warmup):
    """Warm-up, and a rate that falls at the ends of certain epochs."""

    name: Literal["multistep"] = "multistep"
    """Which schedule."""
    decay: Factor = 0.5
    """Factor on the rate at each milestone (AST: 0.5 on AudioSet, 0.85 elsewhere)."""
    milestones: list[Count] = []
    """Epochs after which the rate falls, counted from 1, the warm-up's included."""
    first_milestone: Count | None = None
    """First of evenly spaced milestones, in place of `milestones` (AST: 2 on all of AudioSet, 10 on its
    balanced part)."""
    milestone_every: Count = 1
    """Epochs between evenly spaced milestones."""
    last_milestone: Count | None = None
    """No evenly spaced milestone comes after this epoch; null goes on to the end."""
    warmup_undoes_decay: bool = False
    """Whether milestones inside the warm-up are forgotten at its next step, as in the AST's original code."""

    @model_validator(mode="after")
    def _milestones_are_given_once(self) -> MultistepSchedule:
        if bool(self.milestones) == (self.first_milestone is not None):
            raise ValueError("one of milestones and first_milestone is needed, and only one")
        if self.last_milestone is not None and self.first_milestone is None:
            raise ValueError("last_milestone ends what first_milestone begins, which is missing")
        if self.last_milestone is not None and self.last_milestone < self.first_milestone:
            raise ValueError(
                f"last_milestone {self.last_milestone} comes before first_milestone {self.first_milestone}"
            )
        return self


class ExponentialSchedule(Warmup):
    """Warm-up, and a rate that falls by the same factor again and again."""

    name: Literal["exponential"] = "exponential"
    """Which schedule."""
    decay: Factor = 0.95
    """Factor on the rate each time."""
    per: Literal["epoch", "step"] = "epoch"
    """When the rate falls: `epoch`, at each epoch's end, from the first on; `step`, at each update after the
    warm-up."""
    final_factor: Share = 0.0
    """Lowest rate over the base rate."""


class EdenSchedule(Section):
    """Falls with the roots of updates and epochs, (1 + (updates / lr_batches)^2)^(-1/4) times
    (1 + (epochs / lr_epochs)^2)^(-1/4), times a warm-up: icefall's Eden."""

    name: Literal["eden"] = "eden"
    """Which schedule."""
    lr_batches: Positive = 7500.0
    """Updates from about which on the rate falls. They are counted as they come, with the present one, by
    however many processes and of however many batches (`training.accumulate`)."""
    lr_epochs: Positive = 3.5
    """Epochs from about which on the rate falls (icefall's weighted sampling: 15), of those that are done."""
    warmup_steps: NonNegativeCount = 500
    """Updates of linear warm-up."""
    warmup_from: Share = 0.5
    """Factor on the rate at the start of the warm-up."""


Optimizer = Annotated[AdamW | Adam | Sgd | ScaledAdam, Field(discriminator="name")]
Schedule = Annotated[
    ConstantSchedule
    | LinearSchedule
    | CosineSchedule
    | CosineRestartsSchedule
    | MultistepSchedule
    | ExponentialSchedule
    | EdenSchedule,
    Field(discriminator="name"),
]
