"""Parameter files: YAML as PyYAML, Snakemake and DVC read it, and every mistake in one line."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flp.params.yamlfile import read_yaml
from flp.system.errors import FLPError

quick = settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def unreadable(tmp_path, content):
    path = tmp_path / "p.yaml"
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
