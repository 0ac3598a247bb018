"""One file per family with a release: the names its checkpoints use, and what belongs to which tensor of ours."""
