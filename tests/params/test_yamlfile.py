"""Parameter files: YAML as PyYAML, Snakemake and DVC read it, and every mistake in one line."""

from __future__ import annotations

import json

import pytest
import yaml
from dvc.utils.serialize import parse_yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from snakemake.common.configfile import load_configfile

from flp.params.yamlfile import read_yaml
from flp.system.errors import FLPError

quick = settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def unreadable(tmp_path, content, name="p.yaml"):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(FLPError) as error:
        read_yaml(path)
    message = str(error.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def test_a_key_given_twice_is_refused(tmp_path):
    message = unreadable(tmp_path, b"offline:\n  alpha: 1.0\n  steps: 3\n  alpha: 2.0\n")
    assert "'alpha' is given twice" in message
    assert "line 2" in message


@pytest.mark.parametrize(
    "content",
    [
        b"a: {x: 1, 'x': 2}",
        b"a: {1: x, 1.0: x}",
        b"a: &a {x: 1}\nb: {<<: *a, x: 2, x: 3}",
        b"a: &a {x: 1}\nb: {x: 2, <<: *a, x: 3}",
        b"a: {<<: {x: 1, x: 2}}",
        b"a: {<<: [{y: 1}, {x: 1, x: 2}]}",
        b"a: {'<<': 1, '<<': 2}",  # quoted, it is a name like any other
        b'{"a": 1, "a": 2}',
    ],
)
def test_a_key_given_twice_is_refused_also_beside_merged_ones(tmp_path, content):
    assert "is given twice" in unreadable(tmp_path, content)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("base: &b {x: 1, y: 2}\na: {<<: *b, x: 3}", {"x": 3, "y": 2}),
        ("base: &b {x: 1, y: 2}\na: {x: 3, <<: *b}", {"x": 3, "y": 2}),
        ("base: &b {x: 1}\na: {<<: [*b, {x: 2, y: 3}]}", {"x": 1, "y": 3}),
        ("base: &b {x: 1}\na: {<<: *b, <<: {x: 2}}", {"x": 2}),
        ("p: &p {x: 1, y: 1}\nq: {m: &m {<<: *p, x: 2}, <<: *m}\na: {<<: *m, z: 3}", {"x": 2, "y": 1, "z": 3}),
        ("a: {<<: []}", {}),
        ("a: &a {x: {y: &y {z: 1}}, w: *y}", {"x": {"y": {"z": 1}}, "w": {"z": 1}}),
    ],
)
def test_merge_keys_are_read_as_others_read_them(tmp_path, content, expected):
    path = tmp_path / "p.yaml"
    path.write_text(content)
    assert read_yaml(path)["a"] == yaml.safe_load(content)["a"] == load_configfile(path)["a"] == expected
    if content.count("<<") < 2 or "[" in content:  # DVC's reader refuses a second merge key in a mapping
        assert parse_yaml(content, path)["a"] == expected


names = st.sampled_from(["a", "b", "c", "d", "'<<'", "1", "~"])
scalars = st.sampled_from(
    ["1", "0x1f", "010", "1_000", "1.5", ".5", "1e-3", "1.0e+3", "-.inf", "~", "", "yes", "off", "x", "'1'", "12:30"]
) | st.sampled_from(["2020-01-02", "!!float 3", "!!str 3", "!!int '4'", "[1, x]", "[]", "!!binary aGk="])


def mappings(known, depth):
    """A mapping of scalars, known anchors and further mappings, with merge keys anywhere in it, as a text."""
    inner = known | mappings(known, depth - 1) if depth else known
    given = st.lists(st.tuples(names, scalars | inner), max_size=4, unique_by=lambda pair: pair[0])
    several = st.lists(inner, max_size=3).map(lambda parts: f"[{', '.join(parts)}]")
    merged = st.lists(st.tuples(st.just("<<"), inner | several), max_size=2)
    both = st.tuples(given, merged).flatmap(lambda lists: st.permutations([*lists[0], *lists[1]]))
    return both.map(lambda pairs: "{" + ", ".join(f"{name}: {value}" for name, value in pairs) + "}")


@st.composite
def documents(draw):
    """Mappings with anchors, each of which may take over earlier ones, in every way there is."""
    lines = ["m0: &m0 {a: 0, b: 0}"]
    for i in range(1, draw(st.integers(2, 5))):
        known = st.sampled_from([f"*m{j} " for j in range(i)])
        lines.append(f"m{i}: &m{i} {draw(mappings(known, 2))}")
    return "\n".join(lines)


@quick
@given(documents())
def test_any_document_is_read_as_pyyaml_reads_it(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "document.yaml"
    path.write_text(content)
    assert read_yaml(path) == yaml.safe_load(content)


def test_taking_over_many_times_takes_no_more_memory(tmp_path):
    """Ten times ten times ten ... of one mapping are that mapping."""
    lines = ["m0: &m0 {x: 1}"]
    lines += [f"m{i}: &m{i} {{<<: [{', '.join([f'*m{i - 1}'] * 10)}]}}" for i in range(1, 30)]
    (tmp_path / "p.yaml").write_text("\n".join(lines))
    assert read_yaml(tmp_path / "p.yaml")["m29"] == {"x": 1}


@pytest.mark.parametrize("content", [b"", b"3", b"- a\n- b\n", b"just text", b"null"])
def test_a_file_without_a_mapping_is_refused(tmp_path, content):
    assert "must hold a mapping" in unreadable(tmp_path, content)


@pytest.mark.parametrize(
    "content",
    [
        bytes(range(256)),
        b"\x89PNG\r\n\x1a\n\x00\x00",
        b"PK\x03\x04\xff\xfe",
        b"a: [1, 2",
        b"a: b: c",
        b"\ta: 1",
        b"a: *nothing",
        b"a: !!python/object/apply:os.system [ls]",
        b"a: 2020-99-99",
        b"? [1, 2]\n: 3",
        b'a: !!int ""',
        b"a: !!bool maybe",
        b"a: !!timestamp x",
        b"!!map [1]",
        b'a: "\\uD800"',
        b"[" * 100_000,
        b"a: &x {b: *x}",
        b"a: &x {<<: *x}",
        b"a: {<<: 3}",
        b"a: {<<: [{}, 3]}",
        b"a: {<<: }",
    ],
)
def test_junk_is_refused(tmp_path, content):
    assert "not valid YAML" in unreadable(tmp_path, content)


def test_a_huge_file_is_refused(tmp_path):
    assert "too many" in unreadable(tmp_path, b"a: " + b"x" * 2_000_000)


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(FLPError, match=f"cannot read {path}"):
            read_yaml(path)


@quick
@given(
    st.binary(max_size=60)
    | st.text(max_size=60).map(lambda text: text.encode(errors="replace"))
    | st.lists(
        st.sampled_from([*"{}[]:,-?&*!|>'\"%@`# \n\t0a", "!!int ", "!!map ", "<<: ", "a: ", "&x ", "*x ", "~"])
    ).map(lambda parts: "".join(parts).encode())
)
def test_any_file_gives_a_mapping_or_an_error(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    path.write_bytes(content)
    try:
        assert isinstance(read_yaml(path), dict)
    except FLPError as error:
        assert str(path) in str(error)
        assert "\n" not in str(error)


def test_a_json_file_is_read_as_json(tmp_path):
    values = {
        "small": 1e-05,
        "large": 1e16,
        "title": "flows \U0001f680",
        "text": "1e-05",
        "day": "2026-11-28",
        "yes": "yes",
    }
    (tmp_path / "p.json").write_text(json.dumps(values))
    assert read_yaml(tmp_path / "p.json") == values


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b'{"a": 1, "b": 2, "a": 3}', "key 'a' is given twice"),
        (b"{a: 1}", "not valid JSON"),
        (b'{"a": "\xff"}', "not valid JSON"),
        (b"[1]", "must hold a mapping"),
        (b"[" * 100_000, "not valid JSON"),
    ],
)
def test_a_json_file_that_is_none_is_refused(tmp_path, content, says):
    assert says in unreadable(tmp_path, content, "p.json")
