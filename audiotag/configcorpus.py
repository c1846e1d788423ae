"""The `corpus` section: where clips come from and which of them are used."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from audiotag.configbase import Fraction, NonNegative, Section, Seed, Share


class Preparation(Section):
    """What all corpora share: the `valid` split, and which clips are left out."""

    valid: Literal["holdout", "eval", "eval_tenth"] = "holdout"
    """`holdout`: clips held out of train; `eval`: the evaluation clips themselves, as papers that select on
    them do, which the results then say; `eval_tenth`: the first tenth of their list (ESPnet's BEATs)."""
    valid_share: Fraction = 0.05
    """Share of the training clips held out as `valid`, stratified by label; 0 holds out none."""
    valid_seed: Seed = 0
    """Seed of the choice of the held-out clips."""
    min_duration_s: NonNegative = 0.1
    """Clips shorter than this are skipped."""
    silent: Literal["skip", "keep"] = "skip"
    """What becomes of clips without any sound."""
    duplicates: Literal["skip", "keep"] = "skip"
    """What becomes of a clip with the same audio as an earlier one of its split."""
    leaks: Literal["skip", "keep"] = "skip"
    """What becomes of a clip of train whose audio is also in eval or valid, and of one of valid that is also
    in eval; `keep` is for a published division into splits, and the results say how many there are."""
    max_skip: Share = 0.05
    """Largest share of listed clips of a split that may be missing or unusable before stage 1 fails."""
    audio_copy: Literal["none", "flac"] = "none"
    """`flac`: stage 1 copies every clip to 16 kHz mono FLAC, so that nothing is resampled later."""


class AudioSetCorpus(Preparation):
    """A corpus in AudioSet's own layout: label list, segment lists, a folder of audio files."""

    name: Literal["audioset"] = "audioset"
    """Which reader prepares the corpus."""
    dir: str | None = None
    """Folder of the corpus; recipes fill it in from db.sh."""
    labels: str = "class_labels_indices.csv"
    """Label list (index, mid, display_name), relative to `dir`."""
    train_lists: list[str] = ["balanced_train_segments.csv"]
    """Segment lists whose clips are trained on, relative to `dir`."""
    eval_lists: list[str] = ["eval_segments.csv"]
    """Segment lists whose clips are evaluated on, relative to `dir`."""
    audio_dir: str = "audio"
    """Folder of the audio files, relative to `dir`, searched with all its sub-folders."""


class PublishedSplits(Preparation):
    """A corpus that is published with its splits: results compare where no clip is left out of them."""

    silent: Literal["skip", "keep"] = "keep"
    """What becomes of clips without any sound."""
    duplicates: Literal["skip", "keep"] = "keep"
    """What becomes of a clip with the same audio as an earlier one of its split."""
    leaks: Literal["skip", "keep"] = "keep"
    """What becomes of a clip of train whose audio is also in eval or valid, and of one of valid that is also
    in eval; the results say how many are kept."""


class Esc50Corpus(PublishedSplits):
    """ESC-50 as it is published: `meta/esc50.csv` and `audio/`, 2,000 clips in five folds."""

    name: Literal["esc50"] = "esc50"
    """Which reader prepares the corpus."""
    dir: str | None = None
    """Folder of the corpus; recipes fill it in from db.sh."""
    fold: Annotated[int, Field(ge=1, le=5)] = 1
    """The fold whose clips are eval; the other four are trained on. The recipe's driver sets it."""
    esc10: bool = False
    """Take only the ten classes of ESC-10."""
    valid: Literal["holdout", "eval", "fold"] = "holdout"
    """`holdout`: clips held out of train, those of one source file together; `fold`: the fold after eval's,
    which leaves three to train on; `eval`: the evaluation clips themselves, as published, which the results
    then say."""


class SpeechCommandsCorpus(PublishedSplits):
    """Speech Commands as it is published: a folder of clips for each word, and the two lists of what is not
    trained on."""

    name: Literal["speechcommands"] = "speechcommands"
    """Which reader prepares the corpus."""
    dir: str | None = None
    """Folder of the corpus; recipes fill it in from db.sh."""
    valid_list: str = "validation_list.txt"
    """List of the clips of valid, relative to `dir`, each as <word>/<file>."""
    eval_list: str = "testing_list.txt"
    """List of the clips of eval, likewise."""


class CutsCorpus(Preparation):
    """Cut manifests of lhotse, such as those that icefall's AudioSet recipe makes."""

    name: Literal["cuts"] = "cuts"
    """Which reader prepares the corpus."""
    dir: str | None = None
    """Folder that paths are relative to, also those inside of manifests (icefall's `egs/audioset/AT`);
    recipes fill it in from db.sh."""
    labels: str = "class_labels_indices.csv"
    """Label list (index, mid, display_name), relative to `dir`."""
    train_cuts: Annotated[list[str], Field(min_length=1)] = ["data/fbank/cuts_audioset_balanced.jsonl.gz"]
    """Manifests whose cuts are trained on, relative to `dir`."""
    valid_cuts: list[str] = []
    """Manifests of cuts to validate on, in place of ones held out of train, relative to `dir`."""
    eval_cuts: Annotated[list[str], Field(min_length=1)] = ["data/fbank/cuts_audioset_eval.jsonl.gz"]
    """Manifests whose cuts are evaluated on, relative to `dir`."""
    ids: Literal["cut", "file"] = "cut"
    """What clips go by: the cuts' ids, or the names of their audio files without extension, for manifests in
    which ids were cut short."""
    stored_features: Literal["ignore", "use"] = "ignore"
    """`use`: stored features of the cuts (lhotse's Fbank of 80 bins) are used as they are, stage 2 computes
    nothing and no audio is opened; needs features.preset icefall80 and features.storage stored."""

    @model_validator(mode="after")
    def _copies_need_audio(self) -> CutsCorpus:
        if self.stored_features == "use" and self.audio_copy != "none":
            raise ValueError("stored_features use opens no audio, which audio_copy would copy")
        return self


class MyDataCorpus(Preparation):
    """A user's own clips: a CSV that lists them, or a folder for each class."""

    name: Literal["mydata"] = "mydata"
    """Which reader prepares the corpus."""
    dir: str | None = None
    """Folder of the corpus, or a CSV file with the columns `path,labels[,start,end,split,unlabelled]`;
    recipes fill it in from db.sh."""
    list: str | None = None
    """The CSV, relative to `dir`; null where `dir` is one or has a folder for each class."""
    labels: str | None = None
    """Label list (index, mid, display_name), or a text file with one class in each line, relative to `dir`;
    null infers the classes and writes them in alphabetical order."""
    eval_share: Fraction = 0.1
    """Share of the clips set aside as `eval`, stratified by label, where the corpus names none."""
