"""``python -m gaussianem_core`` is the program ``gaussianem``."""

import sys

from gaussianem_core.cli import main

sys.exit(main())
