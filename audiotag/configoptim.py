"""Configuration of optimisers and learning-rate schedules."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from audiotag.configbase import Fraction, NonNegative, NonNegativeCount, Positive, Section, Share


class Groups(Section):
    """What all optimisers share: a rate, and what it becomes in parts of the model."""

    lr: Positive = 1e-3
    """Base learning rate, which the schedule multiplies."""
    head_lr_factor: Positive = 1.0
    """Factor on the rate of the head, the part that is not the encoder (AST on ESC-50 style recipes: 1)."""
    layer_decay: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Factor on the rate from each layer of the encoder to the one before it; 1 gives all the same."""
    decay_all: bool = False
    """Weight decay also for norms, biases, embeddings and tokens."""


class AdamW(Groups):
    """Adam with decoupled weight decay."""

    name: Literal["adamw"] = "adamw"
    """Which optimiser."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    """Decay rates of the running moments."""
    eps: Positive = 1e-8
    """Added to the denominator."""
    weight_decay: NonNegative = 0.01
    """Decoupled weight decay of matrices and kernels; norms, biases and embeddings get none."""


class Adam(Groups):
    """Adam with the original's coupled L2 penalty on all parameters."""

    name: Literal["adam"] = "adam"
    """Which optimiser."""
    lr: Positive = 1e-4
    """Base learning rate, which the schedule multiplies."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    """Decay rates of the running moments."""
    eps: Positive = 1e-8
    """Added to the denominator."""
    weight_decay: NonNegative = 0.0
    """L2 penalty, added to the gradient of every parameter."""


class Sgd(Groups):
    """Stochastic gradient descent with momentum and coupled L2 penalty."""

    name: Literal["sgd"] = "sgd"
    """Which optimiser."""
    momentum: Fraction = 0.9
    """Decay rate of the running gradient."""
    nesterov: bool = False
    """Nesterov's look-ahead momentum."""
    weight_decay: NonNegative = 0.0
    """L2 penalty, added to the gradient."""


class Warmup(Section):
    """What all schedules share: a linear rise from 0 at the start."""

    warmup_steps: NonNegativeCount = 0
    """Updates of linear warm-up."""
    warmup_ratio: Fraction = 0.0
    """Warm-up as a share of all updates; used when `warmup_steps` is 0."""


class ConstantSchedule(Warmup):
    """Warm-up, then the base rate."""

    name: Literal["constant"] = "constant"
    """Which schedule."""


class LinearSchedule(Warmup):
    """Warm-up, then a straight line down to `final_factor` at the last update."""

    name: Literal["linear"] = "linear"
    """Which schedule."""
    final_factor: Share = 0.0
    """Rate at the end over the base rate."""


class CosineSchedule(Warmup):
    """Warm-up, then half a cosine down to `final_factor` at the last update."""

    name: Literal["cosine"] = "cosine"
    """Which schedule."""
    final_factor: Share = 0.0
    """Rate at the end over the base rate."""


Optimizer = Annotated[AdamW | Adam | Sgd, Field(discriminator="name")]
Schedule = Annotated[ConstantSchedule | LinearSchedule | CosineSchedule, Field(discriminator="name")]
