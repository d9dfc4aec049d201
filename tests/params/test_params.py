"""Parameters: what is right is read exactly, what is wrong is refused in one line that names it."""

from __future__ import annotations

import copy
import functools
import json
import math
import re

import jsonschema
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from repository import REPO

from flp.params.fields import Section
from flp.params.loading import Params, load_params, merge, parse
from flp.params.yamlfile import read_yaml
from flp.system.errors import FLPError
from flp.tools.schema import json_schema

MAZE = "pointmaze-medium-navigate"
DEFAULT = read_yaml(REPO / "params.yaml")


def with_(path, value):
    """The default parameters with one value changed."""
    values = copy.deepcopy(DEFAULT)
    *sections, last = path.split(".")
    place = values
    for section in sections:
        place = place[section]
    place[last] = value
    return values


def refusal(values):
    with pytest.raises(FLPError) as error:
        parse(values)
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith("params.yaml: ")
    return message


# The files that come along


def test_the_default_loads():
    params = load_params(REPO / "params.yaml")
    assert params.datasets == [MAZE]
    assert params.offline.candidates == 1
    assert params.for_dataset(MAZE) == params


@pytest.mark.parametrize("preset", sorted((REPO / "presets").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_preset_loads(preset):
    params = load_params(REPO / "params.yaml", preset)
    assert params != load_params(REPO / "params.yaml")
    for dataset in params.datasets:
        params.for_dataset(dataset)


def test_every_key_of_the_default_has_a_comment():
    uncommented = []
    for line in (REPO / "params.yaml").read_text().splitlines():
        content, _, comment = line.partition("#")
        if content.strip() and not content.rstrip().endswith(":") and len(comment.strip()) < 5:
            uncommented.append(line)
    assert not uncommented


def test_the_default_names_every_key():
    """No number hides in the code: what the definition knows, the file shows."""

    def keys(values, prefix=""):
        for name, value in values.items():
            if isinstance(value, dict) and value:
                yield from keys(value, f"{prefix}{name}.")
            else:
                yield prefix + name

    assert sorted(keys(DEFAULT)) == sorted(keys(parse(DEFAULT).model_dump(mode="json")))


def test_the_default_is_read_as_it_stands():
    dumped = parse(DEFAULT).model_dump(mode="json")
    assert dumped == DEFAULT
    assert parse(dumped) == parse(DEFAULT)


def test_the_schema_describes_the_default():
    schema = json.loads(json_schema())
    assert (REPO / "workflow/schemas/params.schema.json").read_text() == json_schema(), "run `flp schema` anew"
    assert "KL" in schema["$defs"]["OfflineSettings"]["properties"]["alpha"]["description"]
    jsonschema.validate(DEFAULT, schema)
    for path, value in [
        ("offline.alpha", 0),
        ("offline.discount", 1),
        ("offline.candidates", 0),
        ("offline.alfa", 1.0),
        ("seeds", []),
        ("download.noise", 11),
        ("flow.solver", "dopri5"),
    ]:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(with_(path, value), schema)


# One value wrong


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("offline.candidats", 4, ["offline.candidats", "unknown key", "'candidates'"]),
        ("offline.baselines.rebrac.alpha_acto", 1.0, ["offline.baselines.rebrac.alpha_acto", "'alpha_actor'"]),
        ("ofline", {}, ["ofline", "'offline'"]),
        ("offline.alpha", "strong", ["offline.alpha", "'strong'"]),
        ("offline.alpha", 0, ["offline.alpha", "greater than 0"]),
        ("offline.alpha", True, ["offline.alpha"]),
        ("offline.alpha", None, ["offline.alpha"]),
        ("offline.alpha", [1.0], ["offline.alpha"]),
        ("offline.alpha", math.nan, ["offline.alpha", "nan"]),
        ("offline.alpha", math.inf, ["offline.alpha", "inf"]),
        ("offline.alpha", "1e999", ["offline.alpha"]),
        ("offline.discount", 1.0, ["offline.discount", "less than 1"]),
        ("offline.discount_start", 0.999, ["offline", "discount_start must not be above discount, 0.995"]),
        ("offline.discount", math.nan, ["offline.discount"]),
        ("offline.target_rate", 0.0, ["offline.target_rate"]),
        ("offline.baselines.rebrac.noise", math.inf, ["offline.baselines.rebrac.noise"]),
        ("offline.baselines.rebrac.alpha_critic", math.inf, ["offline.baselines.rebrac.alpha_critic"]),
        ("offline.candidates", 0, ["offline.candidates", "greater than 0", "got 0"]),
        ("offline.candidates", 2.5, ["offline.candidates", "integer"]),
        ("offline.candidates", "4", ["offline.candidates", "integer"]),
        ("offline.candidates", True, ["offline.candidates", "integer"]),
        ("offline.steps", -5, ["offline.steps", "greater than 0", "got -5"]),
        ("online.steps", -1, ["online.steps"]),
        pytest.param("flow.steps", 10**5000, ["flow.steps", "too large to show"], id="thousands of digits"),
        ("offline.steps", 10**13, ["offline.steps"]),
        ("flow.hidden", [], ["flow.hidden"]),
        ("flow.hidden", [0], ["flow.hidden.0"]),
        ("flow.solver", "midpont", ["flow.solver", "did you mean 'midpoint'"]),
        ("flow.solver_steps", 0, ["flow.solver_steps"]),
        ("offline.agents", [], ["offline.agents"]),
        ("offline.agents", ["flb"], ["offline.agents.0", "'flp'"]),
        ("offline.agents", ["flp", "flp"], ["offline.agents", "'flp'", "more than once"]),
        ("offline.tasks", [6], ["offline.tasks.0"]),
        ("offline.tasks", [0], ["offline.tasks.0"]),
        ("offline.tasks", [], ["offline.tasks"]),
        ("offline.tasks", [1, 2, 1], ["offline.tasks", "[1]", "more than once"]),
        ("offline.sweep.alpha", [0.1, 0.1], ["offline.sweep.alpha", "[0.1]", "more than once"]),
        ("offline.sweep.alpha", [1, 2.0, 1.0], ["offline.sweep.alpha", "[1.0]", "more than once"]),
        ("offline.sweep.alpha", [0.1, "1e-1"], ["offline.sweep.alpha", "[0.1]", "more than once"]),
        ("offline.sweep.candidates", [2, 8, 2], ["offline.sweep.candidates", "[2]", "more than once"]),
        ("online.tasks", [], ["online.tasks", "at least 1"]),
        ("online.tasks", [1, 1], ["online.tasks", "[1]", "more than once"]),
        ("figure2.flp_alpha", [3.0, 3], ["figure2.flp_alpha", "[3.0]", "more than once"]),
        ("offline.log_std_min", 1.0, ["log_std_min < 0 < log_std_max"]),
        ("seeds", [], ["seeds", "at least 1"]),
        ("seeds", [0, 1, 0], ["seeds", "[0]", "more than once"]),
        ("seeds", [-1], ["seeds.0"]),
        ("seeds", [2**31], ["seeds.0"]),
        ("seeds", 0, ["seeds", "list"]),
        ("datasets", ["pointmaze-medium-navigat"], ["datasets", f"did you mean '{MAZE}'"]),
        ("datasets", [], ["datasets"]),
        ("datasets", MAZE, ["datasets", "list"]),
        ("datasets", [MAZE, MAZE], ["datasets", "more than once"]),
        ("datasets", ["\ud800"], ["unknown dataset"]),
        ("download.source", "path", ["download", "download.path is empty"]),
        ("download", {"source": "path", "path": f"data/{MAZE}-val.npz"}, ["download.path", "move your file"]),
        ("download.steps_per_episode", 1, ["download.steps_per_episode"]),
        ("offline", None, ["offline"]),
        ("flow", [1], ["flow"]),
        ("agents", {"fql": {"offline": {"alpa": 1.0}}}, ["agents.fql", "offline.alpa", "'alpha'"]),
        ("agents", {"fql": {"offline": {"steps": 0}}}, ["agents.fql", "offline.steps"]),
        ("agents", {"fql": {"offline": 3}}, ["agents.fql", "offline"]),
        ("agents", {"fqll": {}}, ["agents.fqll", "'fql'"]),
        ("agents", {"fql": {"seeds": [3]}}, ["agents.fql.seeds", "cannot differ between algorithms"]),
        ("agents", {"fql": {"offlin": {}}}, ["agents.fql.offlin", "'offline'"]),
        ("agents", {"fql": {"offline": {"tasks": [1]}}}, ["agents.fql.offline.tasks", "cannot differ"]),
        ("agents", {"fql": {"evaluation": {"seed": 1}}}, ["agents.fql.evaluation.seed", "cannot differ"]),
        ("overrides", {MAZE: {"agents": {"fql": {"flow": {}}}}}, [f"overrides.{MAZE}", "agents.fql.flow"]),
        ("overrides", {MAZE: {"offline": {"alpa": 1.0}}}, [f"overrides.{MAZE}", "offline.alpa", "'alpha'"]),
        ("overrides", {MAZE: {"offline": {"alpha": -1.0}}}, [f"overrides.{MAZE}", "offline.alpha"]),
        ("overrides", {MAZE: {"offline": 3}}, [f"overrides.{MAZE}", "offline"]),
        ("overrides", {MAZE: {"seeds": [3]}}, [f"overrides.{MAZE}.seeds", "top level"]),
        ("overrides", {MAZE: {"overrides": {}}}, [f"overrides.{MAZE}.overrides", "top level"]),
        ("overrides", {MAZE: None}, [f"overrides.{MAZE}"]),
        ("overrides", {"pointmaze-medum-navigate": {}}, ["overrides.pointmaze-medum-navigate", f"'{MAZE}'"]),
    ],
)
def test_a_wrong_value_is_refused_by_name(path, value, named):
    message = refusal(with_(path, value))
    for part in named:
        assert part in message, message
    assert len(message) < 400


def test_returns_are_of_one_discount():
    grows = merge(DEFAULT, {"offline": {"discount_start": 0.9}})
    assert parse(grows).offline.discount_start == 0.9
    assert "discount_start must be null for calql" in refusal(merge(grows, {"offline": {"agents": ["flp", "calql"]}}))


def test_a_sweep_may_hold_the_experiments_own_value_and_one_beside_it():
    values = with_("offline.sweep", {"alpha": [1.0, 1.0000001], "candidates": [4, 5]})
    assert parse(values).offline.sweep.alpha == [1.0, 1.0000001]


def test_a_sweep_over_n_must_change_what_is_trained_or_how_it_acts():
    budget = merge(DEFAULT, {"offline": {"kl_budget": 0.5, "sweep": {"alpha": [1.0, 2.0]}}})
    assert "sweep.alpha would train one policy again and again: with kl_budget" in refusal(budget)

    def swept(**values):
        return merge(DEFAULT, {"offline": {"sweep": {"candidates": [1, 4]}, **values}})

    assert "acting_noise" in refusal(swept(acting_noise=0, target_candidates=1))
    for values in ({"acting_noise": 0, "target_candidates": None}, {"acting_noise": 0.1, "target_candidates": 1}):
        parse(swept(**values))


def test_fine_tuning_needs_offline_training():
    values = with_("offline.tasks", [1, 2])
    values["online"]["tasks"] = [2, 4]
    assert "[4]" in refusal(values)


@pytest.mark.parametrize(
    ("seeds", "together", "fit"),
    [
        (range(10**7, 10**7 + 30), 30, 22),
        (range(10, 78), 68, 67),  # 203 characters
        ([*range(10, 76), 100], 67, 50),  # 201 characters
        (range(2**31 - 40, 2**31), 10**12, 18),
        (range(101), 101, 50),
    ],
)
def test_seeds_that_make_too_long_a_name_are_refused_by_name(seeds, together, fit):
    values = with_("seeds", list(seeds))
    values["offline"]["seeds_per_job"] = together
    message = refusal(values)
    assert "offline.seeds_per_job" in message and f"train {fit} together" in message
    values["offline"]["seeds_per_job"] = fit
    parse(values)
    values["overrides"] = {MAZE: {"offline": {"seeds_per_job": together}}}
    assert f"overrides.{MAZE}" in refusal(values)


@pytest.mark.parametrize("path", ["offline.alpha", "flow.steps", "datasets", "offline.hidden", "report"])
def test_a_missing_key_is_refused_by_name(path):
    values = copy.deepcopy(DEFAULT)
    *sections, last = path.split(".")
    place = values
    for section in sections:
        place = place[section]
    del place[last]
    assert refusal(values).startswith(f"params.yaml: {path}: missing")


@pytest.mark.parametrize("values", [None, 3, "text", [], [DEFAULT]])
def test_no_mapping_is_refused(values):
    refusal(values)


def test_numbers_may_be_written_as_yaml_1_1_reads_them():
    text = (REPO / "params.yaml").read_text()
    assert "learning_rate: 0.002 " in text
    loaded = yaml.safe_load(text.replace("learning_rate: 0.002 ", "learning_rate: 2e-3 "))
    assert loaded["offline"]["learning_rate"] == "2e-3"  # a string, alas
    assert parse(loaded) == parse(DEFAULT)
    for path in ("offline.discount", "offline.baselines.rebrac.noise", "offline.baselines.iql.expectile"):
        assert "0.5" in str(parse(with_(path, "5e-1"))), path
    assert parse(with_("offline.alpha", 1)).offline.alpha == 1.0


def fields_of(model, kind, prefix=""):
    """The paths of all fields of a type, inside lists and choices too."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from fields_of(field.annotation, kind, f"{prefix}{name}.")
        elif re.search(rf"\b{kind.__name__}\b", str(field.annotation)):
            yield prefix + name


def written(path, form, nothing=1):
    """The default with one field's numbers in another form, and the numbers as they were; `nothing` where none is."""
    value = functools.reduce(lambda place, name: place[name], path.split("."), DEFAULT)
    if value is None:
        value = [nothing] if path.endswith(("tasks", "hidden")) else nothing
    if isinstance(value, list):
        return with_(path, [form(number) for number in value or [1]]), value or [1]
    return with_(path, form(value)), value


@pytest.mark.parametrize("path", list(fields_of(Params, float)))
def test_every_real_number_may_have_an_exponent_as_yaml_1_2_has_it(path):
    values, expected = written(path, lambda number: f"{number!r}e0", nothing=0.5)
    assert "e0" in str(values)
    assert parse(values) == parse(with_(path, expected))
    for wrong in ("e0", "1e", "one", "nan", "inf", "1e999", "", True):
        assert path in refusal(written(path, lambda number, wrong=wrong: wrong)[0])


@pytest.mark.parametrize("path", list(fields_of(Params, int)))
def test_every_whole_number_is_written_as_one(path):
    """Readers of YAML disagree on `1e4`: a text to some, a real number to others."""
    for form in (float, lambda number: f"{number}e0"):
        values, expected = written(path, form)
        assert path in (message := refusal(values))
        assert message.endswith(f"; write {int(expected[0] if isinstance(expected, list) else expected)}"), message


def test_parameters_cannot_be_changed_afterwards():
    params = parse(DEFAULT)
    with pytest.raises(ValueError, match="frozen"):
        params.offline.alpha = 2.0


# Overlays


def test_mappings_are_merged_and_all_else_replaced():
    base = {"a": {"x": 1, "y": [1, 2]}, "b": 2, "c": {"d": 1}}
    overlay = {"a": {"y": [3]}, "b": {"new": 1}, "c": None, "e": 5}
    before = copy.deepcopy((base, overlay))
    assert merge(base, overlay) == {"a": {"x": 1, "y": [3]}, "b": {"new": 1}, "c": None, "e": 5}
    assert (base, overlay) == before
    assert merge(base, {}) == base
    assert merge({}, overlay) == overlay


def test_presets_lie_over_the_default_in_order(tmp_path):
    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    first.write_text("offline: {alpha: 2.0, hidden: [7]}\nseeds: [4, 5]\n")
    second.write_text("offline: {alpha: 3.0}\n")
    params = load_params(REPO / "params.yaml", first, second)
    assert (params.offline.alpha, params.offline.hidden, params.seeds) == (3.0, [7], [4, 5])
    assert params.offline.steps == DEFAULT["offline"]["steps"]
    second.write_text("offline: {alfa: 3.0}\n")
    with pytest.raises(FLPError, match=rf"{second}.*offline\.alfa: unknown key; did you mean 'alpha'"):
        load_params(REPO / "params.yaml", first, second)


# Whatever comes


def paths_of(values, prefix=()):
    for name, value in values.items():
        yield (*prefix, name)
        if isinstance(value, dict):
            yield from paths_of(value, (*prefix, name))


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**4000, -(2**63), 2**31, 0, 1, 5])
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["1e-3", "nan", "inf", "flp", "min", MAZE, "\ud800", "path", "generate"])
    | st.binary(max_size=4)
    | st.dates()
)
names = st.sampled_from(sorted({path[-1] for path in paths_of(DEFAULT)})) | st.text(max_size=5)
trees = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names | scalars, inner, max_size=4),
    max_leaves=12,
)
quick = settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def params_or_error(values):
    try:
        assert isinstance(parse(values), Params)
    except FLPError as error:
        assert "\n" not in str(error)
        assert str(error).startswith("params.yaml: ")


@quick
@given(trees)
def test_any_value_gives_parameters_or_an_error(values):
    params_or_error(values)


@quick
@given(st.sampled_from(sorted(paths_of(DEFAULT))), trees)
def test_any_value_anywhere_gives_parameters_or_an_error(path, value):
    params_or_error(with_(".".join(path), value))


@quick
@given(st.dictionaries(st.just(MAZE) | names, st.dictionaries(names, trees, max_size=3) | trees, max_size=2))
def test_any_override_gives_parameters_or_an_error(overrides):
    params_or_error(with_("overrides", overrides))
