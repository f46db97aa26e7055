"""What is taken of jsonargparse's private parts is there in the tested version, with the arguments that are used."""

from __future__ import annotations

import inspect
from argparse import ArgumentParser
from contextlib import suppress

import pytest
from jsonargparse import ArgumentParser as Jsonargparse

from lightning_adv2.cli.patching import ACTION, TYPES, NestedArg, function, options, replaced

ARGUMENTS = {
    "adapt_typehints": ["val", "typehint"],
    "adapt_class_type": ["value", "serialize", "instantiate_classes"],
    "adapt_subconfig_path": [],
    "discard_init_args_on_class_path_change": ["parser_or_action", "prev_val", "value"],
    "get_all_subclass_paths": ["cls"],
    "raise_union_unexpected_value": ["subtypes", "val", "exceptions"],
    "resolve_class_path_by_name": ["cls", "name"],
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_each_function_takes_what_its_replacement_does(name: str) -> None:
    taken = list(inspect.signature(function(TYPES, name)).parameters)
    assert taken[: len(ARGUMENTS[name])] == ARGUMENTS[name]


def test_the_other_parts_are_there() -> None:
    assert list(inspect.signature(function(ACTION, "instantiate_classes")).parameters) == ["self", "value"]
    assert {"prev_val", "append"} <= set(inspect.signature(function(TYPES, "adapt_typehints")).parameters)
    assert NestedArg("a.b", 1) == ("a.b", 1)
    assert NestedArg("a.b", 1).key == "a.b"


def test_functions_are_put_back_and_unknown_ones_left_out() -> None:
    before = function(TYPES, "adapt_typehints")
    with suppress(RuntimeError), replaced(TYPES, adapt_typehints=len, no_such_function=len):
        assert function(TYPES, "adapt_typehints") is len
        assert function(TYPES, "no_such_function", "nothing") == "nothing"
        raise RuntimeError("inside")
    assert function(TYPES, "adapt_typehints") is before


@pytest.mark.parametrize("kind", [ArgumentParser, Jsonargparse])
def test_the_options_of_a_parser(kind: type[ArgumentParser]) -> None:
    parser = kind()
    parser.add_argument("--trainer.max_epochs", type=int)
    assert "trainer.max_epochs" in options(parser)
