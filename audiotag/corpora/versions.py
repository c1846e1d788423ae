"""Versions of what stages 1 and 2 compute; raising one makes those stages, and all after them, run anew.

They stand apart from the code so that a look at the stages' keys does not have to import it.
"""

# How audio files are checked and measured.
PROBE_VERSION = 2

# The values that the front end gives and the way they are stored.
FEATURES_VERSION = 2
