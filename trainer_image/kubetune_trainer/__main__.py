"""Entry point."""

import os
import sys

# Bars that draw over themselves are no lines of a log; tqdm looks when it is imported.
os.environ.setdefault("TQDM_DISABLE", "1")

from kubetune_trainer.main import main

sys.exit(main())
