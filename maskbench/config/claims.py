"""What papers say about two rows of a table, written into a suite before anything is run."""

from pathlib import Path

import yaml
from pydantic import ValidationError

from maskbench.config.resolve import explain_error, read_yaml
from maskbench.config.section import Section, setting

CLAIMS_FILE = "claims.yaml"  # in a results folder
EPOCHS_TO_ACCURACY = "epochs-to-accuracy"  # the metric of a claim about who learns faster


class Claim(Section):
    """A paper says that one row is better than another."""

    says: str = setting(..., "The claim, in the paper's terms.")
    source: str = setting(..., "Where it is made, such as arXiv 2205.14986.")
    better: str = setting(..., "The row that is better by the claim: its label, as the comparison shows it.")
    than: str = setting(..., "The row that it is better than.")
    metric: str | None = setting(
        None,
        f"What decides: a metric of a probe, such as finetune/top1/mean, or {EPOCHS_TO_ACCURACY}. Default: the primary "
        "metric.",
    )


class Claims(Section):
    """The claims of a suite, in order."""

    claims: list[Claim] = setting(..., "The claims, in order.")


def dump_claims(claims: list[Claim]) -> str:
    """The text of a results folder's `claims.yaml`."""
    content = {"claims": [claim.model_dump(exclude_none=True) for claim in claims]}
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120)


def read_claims(folder: Path) -> list[Claim]:
    """The claims that a results folder is to decide; none without the file. UsageError where it cannot be read."""
    path = folder / CLAIMS_FILE
    if not path.exists():
        return []
    try:
        return Claims.model_validate(read_yaml(path)).claims
    except ValidationError as error:
        raise explain_error(error, Claims) from None
