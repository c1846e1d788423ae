"""The `augment` section: what changes training clips. Everything is off in evaluation.

The entries act in the order in which they stand here, whatever the order in a file.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from audiotag.configbase import Count, NonNegative, NonNegativeCount, Positive, Section, Share

Range = tuple[float, float]


class Crop(Section):
    """A stretch of long clips at a random place."""

    duration_s: Positive = 10.0
    """Longest stretch of a clip that is trained on; of a longer one only a stretch at a random place is
    read."""


class Noise(Section):
    """MUSAN-style noise mixed into training clips."""

    dir: str | None = None
    """Folder of the MUSAN corpus; recipes fill it in from db.sh."""
    probability: Share = 0.5
    """Chance that a clip gets noise."""
    snr_db: Range = (10.0, 20.0)
    """Range of the signal-to-noise ratio, drawn uniformly."""

    @model_validator(mode="after")
    def _range_is_ordered(self) -> Noise:
        check_range("snr_db", self.snr_db)
        return self


class Mixup(Section):
    """Each clip becomes lambda times itself plus 1 - lambda times a partner, and so do its labels."""

    on: Literal["waveform", "features"] = "waveform"
    """What is mixed: waveforms (needs features.storage on_the_fly) or normalised features."""
    probability: Share = 0.5
    """Chance that a clip is mixed (AST 0.5, BEATs 1)."""
    alpha: Positive = 10.0
    """lambda is drawn from Beta(alpha, alpha) for each clip (AST 10, BEATs 0.8)."""
    partner: Literal["corpus", "batch"] = "corpus"
    """`corpus`: any training clip, each as likely as the other (AST); `batch`: another clip of the batch
    (BEATs)."""
    length: Literal["clip", "shorter"] = "clip"
    """Length of the mixture: the clip's own, the partner cut or padded with zeros to it, or that of the
    shorter of the two."""
    remove_mean: bool = True
    """Subtract the mean of each waveform before mixing and of the mixture after (AST; BEATs does not)."""


class RandomLength(Section):
    """All clips of a batch cut to one random length."""

    probability: Share = 0.5
    """Chance that a batch is cut."""
    duration_s: tuple[Positive, Positive] = (2.0, 10.0)
    """Range of the length, drawn uniformly; each clip keeps a stretch at a random place."""

    @model_validator(mode="after")
    def _range_is_ordered(self) -> RandomLength:
        check_range("duration_s", self.duration_s)
        return self


class Repeat(Section):
    """Short clips repeated in place of padding."""

    duration_s: Positive = 10.0
    """Shorter clips are repeated, the last time in part, up to this length."""


class Roll(Section):
    """Waveforms shifted in a circle."""

    probability: Share = 1.0
    """Chance that a clip is rolled."""
    interval_s: NonNegative = 1.0
    """Shifts are multiples of this, up to the clip's length (BEATs 1); 0 shifts by any number of samples."""


class Gain(Section):
    """Waveforms made louder or softer."""

    probability: Share = 0.5
    """Chance that a clip is changed."""
    gain_db: Range = (-6.0, 6.0)
    """Range of the gain, drawn uniformly."""

    @model_validator(mode="after")
    def _range_is_ordered(self) -> Gain:
        check_range("gain_db", self.gain_db)
        return self


class WhiteNoise(Section):
    """White noise added to waveforms."""

    probability: Share = 0.5
    """Chance that a clip gets noise."""
    snr_db: Range = (15.0, 40.0)
    """Range of the signal-to-noise ratio, drawn uniformly."""

    @model_validator(mode="after")
    def _range_is_ordered(self) -> WhiteNoise:
        check_range("snr_db", self.snr_db)
        return self


class TimeWarp(Section):
    """A point in time moved, what lies before and behind it stretched or squeezed."""

    per: Literal["clip", "batch"] = "clip"
    """One warp for each clip (Zipformer) or one for the whole batch (BEATs)."""
    probability: Share = 0.9
    """Chance of a warp (Zipformer 0.9, BEATs 1)."""
    window: Count = 80
    """Farthest move, in frames (Zipformer 80, BEATs 5)."""


class ZipformerMasks(Section):
    """Bands and stretches replaced by the mean of the clip's padded features, as in the Zipformer recipe."""

    name: Literal["zipformer"] = "zipformer"
    """Which published form of masking."""
    probability: Share = 0.9
    """Chance that a clip is masked."""
    freq_masks: NonNegativeCount = 2
    """Number of frequency masks."""
    freq_width: Count = 27
    """Bins of a frequency mask: 0 to this less one."""
    time_share: Share = 0.15
    """Share of the frames that all time masks together may cover."""
    time_masks: NonNegativeCount = 10
    """Most time masks."""
    time_width: Count = 100
    """Frames of a time mask: fewer than this."""


class AstMasks(Section):
    """One band and one stretch set to 0 before the normalisation, as in the AST recipes."""

    name: Literal["ast"] = "ast"
    """Which published form of masking."""
    freq_width: NonNegativeCount = 48
    """Bins of the frequency mask: 0 to this less one; 0 masks none (AudioSet 48, ESC-50 24)."""
    time_width: NonNegativeCount = 192
    """Frames of the time mask: 0 to this less one; 0 masks none (AudioSet 192, ESC-50 96)."""


class BeatsMasks(Section):
    """One stretch of each clip set to 0 after the normalisation, as in the BEATs recipe."""

    name: Literal["beats"] = "beats"
    """Which published form of masking."""
    time_share: Share = 0.06
    """Frames of the time mask: less than this share of the batch's longest clip."""


class FeatureNoise(Section):
    """Non-negative noise added to normalised features, as in AST's Speech Commands recipe."""

    scale: Positive = 0.1
    """Each value gets U(0,1) times a factor of its clip, drawn from U(0,1), times this."""


class FeatureRoll(Section):
    """Normalised features shifted in a circle along time, as in AST's Speech Commands recipe."""

    frames: Count = 10
    """The shift is drawn from minus this to this less one."""


class Augment(Section):
    """What changes training clips; everything is off in evaluation."""

    crop: Crop | None = None
    """Train on a random stretch of long clips."""
    noise: Noise | None = None
    """Mix in noise; stage 3 prepares it. null mixes none."""
    mixup: Mixup | None = None
    """Mix clips, and their labels, with each other."""
    random_length: RandomLength | None = None
    """Cut whole batches to a random length."""
    repeat: Repeat | None = None
    """Repeat short clips in place of padding."""
    roll: Roll | None = None
    """Shift waveforms in a circle."""
    gain: Gain | None = None
    """Make waveforms louder or softer."""
    white_noise: WhiteNoise | None = None
    """Add white noise to waveforms."""
    time_warp: TimeWarp | None = None
    """Stretch and squeeze features along time."""
    masks: Annotated[ZipformerMasks | AstMasks | BeatsMasks, Field(discriminator="name")] | None = None
    """Mask features in one of the published forms, chosen by `name`."""
    feature_noise: FeatureNoise | None = None
    """Add noise to normalised features."""
    feature_roll: FeatureRoll | None = None
    """Shift normalised features in a circle along time."""

    @field_validator("masks", mode="before")
    @classmethod
    def _masks_have_a_default_form(cls, value: Any) -> Any:
        return {"name": "zipformer", **value} if isinstance(value, dict) else value


def check_range(key: str, values: Range) -> None:
    """A range must be given as [lowest, highest]."""
    if values[0] > values[1]:
        raise ValueError(f"{key} must be [lowest, highest], found {list(values)}")
