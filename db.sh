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

# Weights of a vision transformer trained on ImageNet, which the AST's published trainings start from: a file,
# https://dl.fbaipublicfiles.com/deit/deit_base_distilled_patch16_384-d0272ac0.pth (0.3 GB).
export DEIT_CHECKPOINT=${DEIT_CHECKPOINT:-}

# The published AST of AudioSet (0.459 mAP), to fine-tune or to learn from: MIT/ast-finetuned-audioset-10-10-0.4593, its
# name on the Hugging Face hub, or the file audioset_10_10_0.4593.pth (0.4 GB), which the README of
# https://github.com/YuanGongND/ast links to. That file does not name its classes: for a teacher, make a folder of it with
# import_checkpoint and --labels.
export AST_CHECKPOINT=${AST_CHECKPOINT:-}

# MUSAN (https://www.openslr.org/17/): needed only by configurations that mix noise into training clips.
export MUSAN=${MUSAN:-}

# BEATs' pre-trained model for the recipe as20k: the file BEATs_iter3_plus_AS20K.pt.
export BEATS_CHECKPOINT=${BEATS_CHECKPOINT:-}
