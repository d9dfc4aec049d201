"""Write the keys of datasets' artifacts to results/keys/{dataset}.json, for DVC, and remove those of other datasets.

DVC's report stage cannot name the outputs of every dataset one by one; it depends on the folder with these files. What
is left there of a dataset that has left the experiment would be part of its record, and in nobody else's clone.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from flp.experiment.graph import ON_REQUEST, graph
from flp.experiment.keys import Keys
from flp.params.loading import load_params
from flp.system.artifacts import write_json
from flp.system.errors import FLPError
from flp.system.portability import prepare_process

FOLDER = Path("results/keys")


def main(datasets: Sequence[str]) -> int:
    """Write the files of these datasets; return the exit status."""
    prepare_process()
    try:
        params = load_params("params.yaml")
        for file in FOLDER.glob("*.json"):
            if file.stem not in params.datasets:
                file.unlink()
        artifacts = [a for a in graph(Keys(params)).values() if a.stage not in ON_REQUEST] if datasets else []
        for dataset in datasets:
            keys = {f"{a.stage}/{a.name}": a.key for a in artifacts if a.name.split("/")[0] == dataset}
            write_json(FOLDER / f"{dataset}.json", keys)
    except FLPError as error:
        print(f"write_keys: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
