"""Write the keys of one dataset's artifacts to results/keys/{dataset}.json, for DVC.

DVC's report stage cannot name the outputs of every dataset one by one; it depends on the folder with these files.
"""

from __future__ import annotations

import sys

from flp.experiment.graph import ON_REQUEST, graph
from flp.experiment.keys import Keys
from flp.params.loading import load_params
from flp.system.artifacts import write_json
from flp.system.errors import FLPError
from flp.system.portability import prepare_process


def main(dataset: str) -> int:
    """Write the file; return the exit status."""
    prepare_process()
    try:
        artifacts = graph(Keys(load_params("params.yaml"))).values()
        artifacts = [a for a in artifacts if a.name.split("/")[0] == dataset and a.stage not in ON_REQUEST]
        keys = {f"{a.stage}/{a.name}": a.key for a in artifacts}
        write_json(f"results/keys/{dataset}.json", keys)
    except FLPError as error:
        print(f"write_keys: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
