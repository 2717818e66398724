"""Makes the tiny-model factory of the folder above importable, also when this folder runs alone."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
