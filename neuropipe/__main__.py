"""``python -m neuropipe``: what ``torchrun -m neuropipe`` starts."""

import sys

from neuropipe.cli import main

sys.exit(main())
