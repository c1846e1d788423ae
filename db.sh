# Where the corpora of this site live: absolute paths. A variable that is set in the environment wins.
# shellcheck shell=bash

# AudioSet: audio/<any folders>/<YouTube id>.wav (or .flac ...); stage 0 adds the official lists where they
# are missing.
export AUDIOSET=${AUDIOSET:-}

# Your own recordings, for the recipe mydata: a CSV that lists them, or a folder with one folder per class.
export MYDATA=${MYDATA:-}

# MUSAN (https://www.openslr.org/17/): needed only by configurations that mix noise into training clips.
export MUSAN=${MUSAN:-}

# BEATs' pre-trained model for the recipe as20k: the file BEATs_iter3_plus_AS20K.pt.
export BEATS_CHECKPOINT=${BEATS_CHECKPOINT:-}
