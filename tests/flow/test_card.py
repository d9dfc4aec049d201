"""A flow's quality as reported: in the stage's last lines, on the card, and on the report's page."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import pytest
import yaml
from report_inputs import QUALITY, TOLD, make_inputs
from small_experiment import MAZE, tiny

from flp.flow.card import percents, quality_card
from flp.report import page
from flp.stages import download_dataset, invert_to_latent, pretrain_flow
from flp.system import layout
from flp.system.stopping import STOP


def card(**changes):
    more = {"dataset": "maze", "seed": 3, "key": "k", "validation_nll_saturated": None, "validation_nll_other": -2.5}
    return quality_card(QUALITY | more | changes)


def test_the_card_tells_every_part_there_is():
    text = card(validation_nll=-2.25)
    assert "| all | 53 % [51, 55] | 0.020 | 0.030 | 9 | 8 |" in text
    assert "| saturated | 61 % [51, 55] |" in text and "| other |" not in text
    assert "all -2.250, other -2.500" in text and "Warning" not in text
    assert "**Warning:** mend it." in card(warning="mend it")
    assert percents(TOLD | {"interval": None}) == "53 %"


@pytest.mark.slow(20)
def test_a_warning_is_told_everywhere(tmp_path, monkeypatch, capsys, pytestconfig, signals):
    """A flow that has learnt next to nothing, with half of the actions clipped; its stage is stopped once."""
    monkeypatch.chdir(tmp_path)
    params = tiny(yaml.safe_load((pytestconfig.rootpath / "params.yaml").read_text()), MAZE)
    params["download"] |= {"episodes": 100, "steps_per_episode": 51}
    params["flow"] |= {
        "steps": 4000,
        "validate_every": 4000,
        "learning_rate": 1e-6,
        "schedule": "constant",
        "saturation_noise": 0,
    }
    params["invert"] |= {"max_roundtrip_error": 10.0}
    Path("params.yaml").write_text(yaml.safe_dump(params))
    of = ["--dataset", MAZE, "--threads", "1", "--device", "cpu"]
    assert download_dataset.main(of) == pretrain_flow.main([*of, "--seed", "0"]) == 0

    def stopped(*args):
        STOP.signal = signal.SIGTERM
        return compare(*args)

    compare = invert_to_latent.compare
    monkeypatch.setattr(invert_to_latent, "compare", stopped)
    assert invert_to_latent.main([*of, "--seed", "0"]) == 1
    monkeypatch.setattr(invert_to_latent, "compare", compare)
    capsys.readouterr()
    assert invert_to_latent.main([*of, "--seed", "0"]) == 0
    folder = Path(layout.QUALITY.format(dataset=MAZE, seed=0))
    quality = json.loads((folder / "quality.json").read_text())
    assert quality["two_sample"]["all"]["accuracy"] > 0.6
    assert "flow.saturation_noise" in quality["warning"] and "flow.schedule" in quality["warning"]
    said = capsys.readouterr().err
    assert f"warning: {quality['warning']}\n" in said and "resuming from" in said
    assert quality["warning"] in (folder / "quality.md").read_text()


def test_the_page_tells_the_numbers_and_the_warning(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    keys = make_inputs({})
    page.build(keys)
    built = (Path(layout.REPORT) / "index.html").read_text()
    told = dict(re.findall(r"<tr><td>([^<]*)</td><td>([^<]*)</td>", built))
    parts = [told[f"Classifier accuracy{part}"] for part in ("", ", saturated", ", not saturated")]
    assert parts == ["53 % [51, 55]", "61 % [51, 55]", ""]
    for part, numbers in {"": ("0.02", "0.03"), ", saturated": ("0.02", "0.03"), ", not saturated": ("", "")}.items():
        assert (told[f"R² of z given s{part}"], told[f"R² of z² given s{part}"]) == numbers
    likelihood = "−log πᵦ of validation actions, nats"
    assert (told[likelihood], told[f"{likelihood}, saturated"]) == ("", "-1.50")
    assert told["Accuracy by saturation alone"] == "55 % [54, 56]"
    assert told["Saturated actions: data, flow"] == "50.0 %, 40.0 %"
    assert "Warning:" not in built
    path = next(Path().glob("results/*/flow/quality/seed0/quality.json"))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"warning": "mend <it>"}))
    page.build(keys)
    assert "<strong>Warning:</strong> mend &lt;it&gt;." in (Path(layout.REPORT) / "index.html").read_text()
