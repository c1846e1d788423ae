# Where the corpora of this site live: absolute paths. A variable that is set in the environment wins.
# shellcheck shell=bash

# AudioSet: audio/<any folders>/<YouTube id>.wav (or .flac ...); stage 0 adds the official lists where they
# are missing.
export AUDIOSET=${AUDIOSET:-}

# ESC-50 (https://github.com/karolpiczak/ESC-50): meta/esc50.csv and audio/; stage 0 fills an empty folder.
export ESC50=${ESC50:-}

# Speech Commands V2: a folder for each word, validation_list.txt, testing_list.txt; stage 0 fills an empty folder.
export SPEECHCOMMANDS=${SPEECHCOMMANDS:-}

# Your own recordings, for the recipe mydata: a CSV that lists them, or a folder with one folder per class.
export MYDATA=${MYDATA:-}

# MUSAN (https://www.openslr.org/17/): needed only by configurations that mix noise into training clips.
export MUSAN=${MUSAN:-}
