"""The rollouts' videos for the page, where `flp videos` has made them of the very policies it reports."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

from flp.report.collect import Results
from flp.system import layout
from flp.system.artifacts import load_manifest, read_json
from flp.system.errors import FLPError


@dataclass(frozen=True)
class Video:
    """One task's rollouts, the policies beside each other.

    Attributes:
        agent: whose policies.
        task: its number.
        caption: who succeeded, and when.
        uri: the animated picture, to travel inside the page.
    """

    agent: str
    task: int
    caption: str
    uri: str


def videos(results: Results, dataset: str) -> list[Video]:
    """The videos of one dataset; none of those that show other policies than the report's.

    Raises:
        FLPError: a video is named but missing.
    """
    return [video for agent in results.of(dataset).offline.agents for video in _of_agent(results, dataset, agent)]


def _of_agent(results: Results, dataset: str, agent: str) -> list[Video]:
    folder = Path(layout.VIDEOS.format(dataset=dataset, agent=agent))
    if not (folder / "videos.json").exists():
        return []
    runs = results.runs
    runs = runs[(runs["dataset"] == dataset) & (runs["agent"] == agent) & (runs["variant"] == "")]
    files = [Path(path) / "policy.safetensors" for path in runs.loc[runs["seed"] == results.params.seeds[0], "folder"]]
    made = read_json(folder / "videos.json")
    try:
        if made["policies"] != {str(file): load_manifest(file)["sha256"] for file in files}:
            return []
        return [Video(agent, v["task"], _caption(v["outcomes"]), _uri(folder / v["file"])) for v in made["videos"]]
    except (KeyError, TypeError, FileNotFoundError) as error:
        raise FLPError(f"{folder} is not whole ({error}); delete it, and make it anew with `flp videos`") from error


def _caption(outcomes: dict[str, dict[str, int]]) -> str:
    """`frozen flow: no success; policy: success after 84 steps`."""
    return "; ".join(
        f"{title}: " + (f"success after {o['length']} steps" if o["success"] else "no success")
        for title, o in outcomes.items()
    )


def _uri(path: Path) -> str:
    return "data:image/webp;base64," + base64.b64encode(path.read_bytes()).decode()
