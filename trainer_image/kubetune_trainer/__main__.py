"""Entry point."""

import os
import sys

# Progress bars that redraw themselves do not belong in a log. tqdm reads this when it is imported.
os.environ.setdefault("TQDM_DISABLE", "1")

from kubetune_trainer.main import main

sys.exit(main())
