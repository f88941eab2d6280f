"""Where real data sets lie for the tests that read photographs."""

import os
from pathlib import Path

DATA = Path(os.environ.get("MASKBENCH_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))
