"""YAML that knows its lines: right ones, and one line of error that names file and line for all that is wrong."""

import pytest
import yaml

from whichbackbone import yaml_lines
from whichbackbone.folders import DATA


@pytest.fixture
def file(tmp_path):
    def write(text: str | bytes):
        path = tmp_path / "some.yaml"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return write


def test_every_mapping_and_key_knows_its_line(file):
    text = "# a comment\n- id: one\n  unit: x\n  cases:\n    - {kind: a, of: {b: 1}}\n- id: two\n"
    read = yaml_lines.load(file(text))
    first, second = read
    assert (first.line, second.line) == (2, 6)
    assert (first.line_of("id"), first.line_of("unit"), first.line_of("cases"), first.line_of("none")) == (2, 3, 4, 2)
    assert first["cases"][0].line == first["cases"][0]["of"].line == 5
    assert read == [{"id": "one", "unit": "x", "cases": [{"kind": "a", "of": {"b": 1}}]}, {"id": "two"}]


def test_it_reads_what_plain_yaml_reads():
    path = DATA / "claims.yaml"
    assert yaml_lines.load(path) == yaml.safe_load(path.read_text(encoding="utf-8"))


def test_an_empty_file(file):
    assert yaml_lines.load(file("# nothing\n")) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: [1, 2\nc: 3", "some.yaml, line 3: not YAML: "),
        ("a: 1\nb:\n  c: 1\n  c: 2\n", "some.yaml, line 4: not YAML: 'c' stands twice"),
        (b"a: 1\nb: \xff", "some.yaml, line 2: not UTF-8"),
        ("a: 1\nb: \x01", "some.yaml, line 2: not YAML: "),
        ("a: !python/object:os.system 1", "some.yaml, line 1: not YAML: could not determine a constructor"),
        ("a: 1\n? [1, 2]\n: 3", r"some.yaml, line 2: not YAML: \[1, 2\] is no name"),
        ("a: *b", "some.yaml, line 1: not YAML: "),
    ],
)
def test_what_cannot_be_read_is_named_with_its_line(file, text, said):
    class OwnError(ValueError):
        pass

    with pytest.raises(OwnError, match=said) as caught:
        yaml_lines.load(file(text), OwnError)
    assert "\n" not in str(caught.value)


def test_a_missing_file(tmp_path):
    with pytest.raises(ValueError, match="11.yaml: cannot be read: No such file"):
        yaml_lines.load(tmp_path / "11.yaml")
    with pytest.raises(ValueError, match="d.yaml: cannot be read: Is a directory"):
        (tmp_path / "d.yaml").mkdir()
        yaml_lines.load(tmp_path / "d.yaml")
