"""The typed configuration of a recipe: every section, every key, its default and its meaning.

The text under a field is its documentation: it appears in the README's table and in editors. Keys are
public; renaming one breaks users' files. Reading YAML files is the business of `configfile.py`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from audiotag.configaugment import Augment
from audiotag.configbase import (
    Count,
    NonNegativeCount,
    Positive,
    Section,
    Seed,
    Share,
)
from audiotag.configcorpus import (
    AudioSetCorpus,
    CutsCorpus,
    Esc50Corpus,
    MyDataCorpus,
    SpeechCommandsCorpus,
)
from audiotag.configdistillation import Distillation
from audiotag.configencoder import AstEncoder, Encoder
from audiotag.configevaluation import Evaluation
from audiotag.configinit import Init
from audiotag.configloss import BceLoss, Loss
from audiotag.configoptim import AdamW, ConstantSchedule, Optimizer, Schedule
from audiotag.configtraining import Training


class Features(Section):
    """From waveform to the log-mel features that the encoder sees."""

    preset: Literal["icefall80", "ast128", "beats128"] = "ast128"
    """Filter bank, scaling, padding and normalisation of a published system."""
    storage: Literal["stored", "on_the_fly"] = "stored"
    """`stored`: stage 2 writes fbank to disk; `on_the_fly`: computed from audio on the model's device."""
    target_frames: Count | None = None
    """Every clip is cut or padded to this many frames of 10 ms; null takes the preset's (ast128: 1024)."""
    normalization: Literal["preset", "corpus", "none"] = "preset"
    """Mean and deviation: the preset's constants, those that stage 4 measured on train, or none."""
    mean: float | None = None
    """Mean to subtract; overrides `normalization` together with `std`."""
    std: Positive | None = None
    """Standard deviation; features are divided by twice this value."""

    @property
    def stats_name(self) -> str:
        """Name of what stage 4 measures: its numbers depend on these settings."""
        return f"{self.preset}_{self.target_frames or 'preset'}_{self.storage}"

    @model_validator(mode="after")
    def _mean_and_std_go_together(self) -> Features:
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean and std must be given together")
        return self


class Source(Section):
    """One of several train sets that are mixed."""

    data_dir: str | None = None
    """Data folder of another recipe whose train split joins in, its labels matched by MID; null is this
    recipe's own."""
    weight: Positive = 1.0
    """Share of an epoch's clips that come from here, over the sum of all weights."""
    missing_classes: Literal["unknown", "absent"] = "unknown"
    """Classes that the other recipe's label list lacks: `unknown`, a clip may have them or not, so that
    nothing is learnt of them from it; `absent`, it has none of them."""


class Data(Section):
    """How clips become batches."""

    batch_size: Count | None = 16
    """Most clips of a batch on one process; null for no limit."""
    max_duration_s: Positive | Literal["auto"] | None = None
    """Most seconds of audio of a batch on one process, padding included; null for no limit; `auto`: the most
    that fit into the device's memory, measured before the first epoch."""
    length_multiple_s: Positive | None = None
    """Batches are padded to a multiple of this many seconds, so that a compiled model meets few lengths; null
    pads to the longest clip."""
    sampling: Literal["shuffle", "weighted"] = "shuffle"
    """`shuffle`: every clip once an epoch; `weighted`: drawn by stage 4's class-balanced weights."""
    replacement: bool = True
    """Weighted draws with replacement; false draws no clip twice in an epoch."""
    samples_per_epoch: Count | None = None
    """Clips drawn per epoch over all processes; null takes the size of the training set."""
    num_buckets: Count = 1
    """Length buckets: clips of similar length share batches, so that little is padded; 1 mixes all."""
    sources: Annotated[list[Source], Field(min_length=1)] | None = None
    """Train sets that are mixed in each epoch, by their weights; null trains on the recipe's own alone."""
    max_unreadable: Share = 0.01
    """Largest share of an epoch's clips that may turn out unreadable before training stops, on each process;
    each is replaced by another clip. Above 0, one always may."""
    num_workers: NonNegativeCount = 2
    """Loader processes for each training process; 0 loads in the training process itself."""

    @model_validator(mode="after")
    def _batches_have_a_limit(self) -> Data:
        if self.batch_size is None and self.max_duration_s is None:
            raise ValueError("one of batch_size and max_duration_s is needed")
        return self


Corpus = Annotated[
    AudioSetCorpus | Esc50Corpus | SpeechCommandsCorpus | MyDataCorpus | CutsCorpus,
    Field(discriminator="name"),
]


class Config(Section):
    """A whole recipe."""

    title: str = ""
    """What this configuration is, in a few words; appears in the results."""
    seed: Seed = 42
    """Every random choice of a run derives from it."""
    corpus: Corpus = AudioSetCorpus()
    """The corpus and its splits, chosen by `name`."""
    features: Features = Features()
    """Waveform to log-mel features."""
    encoder: Encoder = AstEncoder()
    """The encoder, chosen by `name`."""
    init: Init = Init()
    """The weights that training starts from."""
    data: Data = Data()
    """Batches and sampling."""
    augment: Augment = Augment()
    """Augmentation of training clips."""
    loss: Loss = BceLoss()
    """The loss, chosen by `name`."""
    distillation: Distillation | None = None
    """Teachers whose scores are learnt beside the labels; null learns from the labels alone."""
    optimizer: Optimizer = AdamW()
    """The optimiser, chosen by `name`."""
    schedule: Schedule = ConstantSchedule()
    """The learning-rate schedule, chosen by `name`."""
    training: Training = Training()
    """The training loop."""
    evaluation: Evaluation = Evaluation()
    """Evaluation."""

    @model_validator(mode="after")
    def _waveforms_are_there(self) -> Config:
        augment = self.augment
        of_waveforms = [name for name in ("roll", "gain", "white_noise") if getattr(augment, name)]
        if augment.mixup and augment.mixup.on == "waveform":
            of_waveforms.append("mixup (on: waveform)")
        if of_waveforms and self.features.storage == "stored":
            raise ValueError(
                f"augment.{of_waveforms[0]} changes waveforms, but features.storage is stored: set it to "
                "on_the_fly, or leave the augmentation out"
            )
        return self

    @model_validator(mode="after")
    def _features_of_others_are_read(self) -> Config:
        wanted = ("icefall80", "stored")
        uses = isinstance(self.corpus, CutsCorpus) and self.corpus.stored_features == "use"
        if uses and (self.features.preset, self.features.storage) != wanted:
            raise ValueError(
                "corpus.stored_features use is for features.preset icefall80 and features.storage stored, "
                f"found {self.features.preset} and {self.features.storage}"
            )
        return self

    @model_validator(mode="after")
    def _gradients_are_clipped_once(self) -> Config:
        clip_norm, scale = self.training.clip_norm, getattr(self.optimizer, "clipping_scale", None)
        if clip_norm is not None and scale is not None:
            raise ValueError(
                f"optimizer.clipping_scale {scale:g} clips by the median of the gradient's norms, which "
                f"training.clip_norm {clip_norm:g} would make all the same: set training.clip_norm to null"
            )
        return self

    @model_validator(mode="after")
    def _distillation_fits_the_rest(self) -> Config:
        distillation = self.distillation
        if distillation is None:
            return self
        if self.loss.name == "ce" and distillation.form == "bce" and distillation.alpha < 1.0:
            raise ValueError(
                "loss.name ce takes the softmax of the logits for probabilities, distillation.form bce their "
                "sigmoid: set distillation.form to softmax"
            )
        if self.data.max_duration_s == "auto" and distillation.mode == "online":
            raise ValueError(
                "data.max_duration_s auto does not know how much memory distillation.mode online takes: set "
                "it to a number of seconds, or the mode to stored"
            )
        return self

    @model_validator(mode="after")
    def _frozen_encoders_hear_clips_once(self) -> Config:
        if not self.encoder.freeze:
            return self
        senseless = {
            **{f"augment.{name}": value is not None for name, value in self.augment},
            "encoder.last_layer_only": getattr(self.encoder, "last_layer_only", False),
            "encoder.gradient_decay": getattr(self.encoder, "gradient_decay", 1.0) != 1.0,
            "optimizer.layer_decay": self.optimizer.layer_decay != 1.0,
            "training.freeze": any(
                name.split(".")[0] == "encoder" for part in self.training.freeze for name in part.modules
            ),
            "distillation.mode online": self.distillation and self.distillation.mode == "online",
            "data.max_duration_s auto": self.data.max_duration_s == "auto",
        }
        if wrong := [key for key, found in senseless.items() if found]:
            raise ValueError(
                f"encoder.freeze trains the head alone, on embeddings of clips that are heard once and "
                f"unchanged, which {' and '.join(wrong)} {'has' if len(wrong) == 1 else 'have'} no part in: "
                "leave it out, or, to have the encoder hear every batch, leave encoder.freeze out and set "
                "training.freeze to [{modules: [encoder]}]"
            )
        return self

    @model_validator(mode="after")
    def _configured_batches_have_a_duration(self) -> Config:
        if self.training.batch_count == "configured" and self.data.max_duration_s is None:
            raise ValueError(
                "training.batch_count configured counts batches of data.max_duration_s, which is not set"
            )
        return self

    @model_validator(mode="after")
    def _averaged_epochs_exist(self) -> Config:
        needed, why = self.evaluation.avg, ""
        if self.evaluation.use_averaged_model:
            needed, why = needed + 1, " and the epoch before them, which use_averaged_model begins with"
        if needed > self.training.epochs:
            raise ValueError(
                f"evaluation.avg {self.evaluation.avg}{why} is more than training.epochs "
                f"{self.training.epochs}"
            )
        if 0 < self.training.keep_last < needed:
            raise ValueError(
                f"training.keep_last {self.training.keep_last} keeps too few checkpoints for "
                f"evaluation.avg {self.evaluation.avg}{why}"
            )
        best_k = self.evaluation.best_k or 0
        some_are_deleted = self.training.keep_last > 0 or self.training.validate_every_steps is not None
        if some_are_deleted and self.training.keep_best < best_k:
            raise ValueError(
                f"training.keep_best {self.training.keep_best} keeps too few checkpoints for "
                f"evaluation.best_k {best_k}"
            )
        return self

    @model_validator(mode="after")
    def _averages_are_kept(self) -> Config:
        wanted = {
            "training.validate_weights": self.training.validate_weights,
            "evaluation.weights": self.evaluation.weights,
            "evaluation.between": "running_average" if self.evaluation.between else "model",
            "evaluation.use_averaged_model": (
                "running_average" if self.evaluation.use_averaged_model else "model"
            ),
        }
        for key, kind in wanted.items():
            if kind not in (None, "model") and getattr(self.training, kind) is None:
                raise ValueError(f"{key} takes the {kind} of the weights, but training.{kind} is not set")
        swa, epochs = self.training.swa, self.training.epochs
        if swa and swa.first_epoch > min(swa.last_epoch or epochs, epochs):
            raise ValueError(
                f"training.swa.first_epoch {swa.first_epoch} comes after training.swa.last_epoch "
                f"{swa.last_epoch} or training.epochs {epochs}: nothing would be averaged"
            )
        return self
