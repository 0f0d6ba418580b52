"""The trajectory on disk: writing it while training, reading it for replay."""
