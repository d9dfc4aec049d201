"""`flp schema`: the JSON schema of params.yaml, for editors and for workflow/schemas/params.schema.json."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from flp.params.loading import Params
from flp.system.portability import prepare_process


def main(argv: Sequence[str] | None = None) -> int:
    """Print the schema; return the exit status."""
    prepare_process()
    argparse.ArgumentParser(prog="flp schema", description=__doc__).parse_args(argv)
    print(json_schema(), end="")
    return 0


def json_schema() -> str:
    """The schema as JSON text."""
    schema = Params.model_json_schema()
    return json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}, indent=2) + "\n"
