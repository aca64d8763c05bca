"""``python -m gptbayes``."""

import sys

from gptbayes.cli import main

sys.exit(main())
