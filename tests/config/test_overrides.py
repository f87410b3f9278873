"""What the overrides of a command say."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from lenet.config.overrides import (
    columns_of,
    count_in_decimals,
    differing,
    float_range_lines,
    in_grammar,
    job_name,
    run_name,
)


def test_a_job_is_named_by_what_differs():
    axes = ["optimizer.lr", "model/activation", "seed"]
    overrides = ["data=digits", "optimizer.lr=1e-5", "+seed=0", "model/activation=relu"]
    differs = differing(overrides, axes)
    assert differs == {"optimizer.lr": 1e-5, "model/activation": "relu", "seed": 0}
    assert list(differs) == axes
    assert job_name(differs) == "lr=1e-05 activation=relu seed=0"


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ("", ""),
        ("data=digits optimizer.lr=0.05", "data=digits lr=0.05"),
        ("experiment=best model/activation=relu", "experiment=best activation=relu"),
        ("epochs=2 note=first +tags.idea=wide tracking.uri=x resume=0000 data.root=d", "epochs=2"),
        (
            "epochs=2 optimizer.momentum=0.5,0.9 seed=range(3)",
            "momentum=0.5,0.9 seed=range(3) epochs=2",
        ),
    ],
)
def test_a_run_is_named_by_what_changes_its_result(overrides, name):
    assert run_name(overrides.split()) == name


VALUES = {  # on the command line: to a reader
    "@a": "@a",
    "null": None,
    "True": True,
    "1e-5": 1e-5,
    "007": "007",
    "'1'": "1",
    "''": "",
    '"a, b"': "a, b",
    "'c = d'": "c = d",
    "a b": "a b",
    "[1,'x,y',null]": [1, "x,y", None],
    "{a:1,b:{c:'d e'}}": {"a": 1, "b": {"c": "d e"}},
    "http://me:secret@host/": "http://me:***@host/",
}


@pytest.mark.parametrize(("text", "value"), VALUES.items(), ids=list(VALUES))
def test_values_are_those_of_hydra_s_grammar(text, value):
    for override in (f"+tags.x={text}", f"+tags.x=zzz,{text}"):
        parsed = OverridesParser.create().parse_overrides([override, "~note", "optimizer@a=adam"])
        columns = columns_of(parsed)
        assert differing([lines[-1] for lines in columns.values()], ["tags.x"]) == {"tags.x": value}


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        1.5,
        float("inf"),
        "",
        "a, b",
        "q\"uote'",
        "back\\slash",
        "end\\",
        "数",
        "${seed}",
    ],
)
def test_a_value_of_a_file_is_the_same_on_the_command_line(value):
    for each in (value, [value, [value]], {"a": value}):
        (parsed,) = OverridesParser.create().parse_overrides([f"x={in_grammar(each)}"])
        assert parsed.value() == each


def test_keys_whose_last_words_are_the_same_are_written_out():
    assert job_name({"data.seed": 1, "seed": 0}) == "data.seed=1 seed=0"


def test_values_side_by_side_are_no_product():
    parsed = OverridesParser.create().parse_overrides(["a=range(5000)", "b=range(5000)"])
    assert len(columns_of(parsed, ["a", "b"])["a"]) == 5000
    with pytest.raises(ValueError, match="expected 1 to 10,000 runs"):
        columns_of(parsed)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("range(0.1,0.4,0.1)", "0.1 0.2 0.3"),
        ("range(0.0,0.9,0.3)", "0.0 0.3 0.6"),
        ("range(0.4,0.1,-0.1)", "0.4 0.3 0.2"),
        ("range(1e-3,4e-3,1e-3)", "0.001 0.002 0.003"),
        ("sort(range(0.1,0.4,0.1),reverse=true)", "0.3 0.2 0.1"),
        ("range(1,2,0.25)", "1.0 1.25 1.5 1.75"),
    ],
)
def test_a_range_of_floats_has_the_numbers_that_people_count(text, values):
    (parsed,) = map(count_in_decimals, OverridesParser.create().parse_overrides([f"a={text}"]))
    assert columns_of([parsed])["a"] == [f"a={value}" for value in values.split()]
    assert float_range_lines([parsed]) == [f"a: {values.replace(' ', ', ')}"]
