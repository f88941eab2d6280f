"""The doors: what stands behind each, spoilt in every way, and the command that meets it."""

from collections.abc import Callable, Iterator
from pathlib import Path

from tests.fuzz.data_doors import cache, checkpoints, data, encoders
from tests.fuzz.inputs import Input
from tests.fuzz.results_doors import claims, live_status, predictions, records
from tests.fuzz.settings_doors import configurations, settings, suites, words

DOORS: dict[str, Callable[[Path], Iterator[Input]]] = {
    "records": records,
    "configurations": configurations,
    "suites": suites,
    "claims": claims,
    "predictions": predictions,
    "encoders": encoders,
    "live-status": live_status,
    "data": data,
    "cache": cache,
    "checkpoints": checkpoints,
    "words": words,
    "settings": settings,
}
