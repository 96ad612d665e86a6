"""Files with every key: what is set, what it is without the line, and why."""

import re
from collections.abc import Mapping
from typing import Any

import pytest
import yaml
from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from feat_fed.config import FederationConfig, SiteConfig, StudyConfig, load_study, validate
from feat_fed.config.commented import commented_yaml, section_of

GIVEN: dict[type[BaseModel], dict[str, Any]] = {
    SiteConfig: {
        "name": "a",
        "server": {"address": "h:1", "ca_certificate": "ca.crt", "private_key": "site.key"},
        "data": {"paths": ["/data/a b: #1", "c"]},
        "store": "store",
        "limits": {"hours": ["22:00-06:00"]},
    },
    StudyConfig: load_study("demo").model_dump(mode="json", exclude_unset=True),
    FederationConfig: {"address": "[::1]:9443", "sites": ["a", "b"]},
}
MODELS = pytest.mark.parametrize("model", list(GIVEN), ids=lambda model: model.__name__)


def write(model: type[BaseModel]) -> str:
    return commented_yaml(model, GIVEN[model], heading="A heading.")


def uncommented(text: str) -> str:
    return re.sub(r"^( *)# ", r"\1", text, flags=re.MULTILINE)


@MODELS
def test_what_is_live_is_what_was_given(model: type[BaseModel]) -> None:
    found = validate(model, yaml.safe_load(write(model)), "the file")
    assert found == validate(model, GIVEN[model], "what was given")


@MODELS
def test_every_other_key_is_there_with_its_default(model: type[BaseModel]) -> None:
    def compare(part: type[BaseModel], tree: Mapping[str, Any], given: Mapping[str, Any]) -> None:
        assert list(tree) == list(part.model_fields)
        for name, field in part.model_fields.items():
            if section := section_of(field):
                compare(section, tree[name], given.get(name) or {})
            elif name in given:
                assert tree[name] == to_jsonable_python(given[name])
            elif not field.is_required():
                assert tree[name] == to_jsonable_python(field.default)

    compare(model, yaml.safe_load(uncommented(write(model))), GIVEN[model])


@MODELS
def test_every_key_is_explained(model: type[BaseModel]) -> None:
    before = [""]
    for line in write(model).splitlines():
        if re.match(r"[# ]*\w+:", line) and "##" not in line:
            assert "##" in before[-1], line
        assert len(line) <= 100
        before.append(line)


def test_an_optional_section_is_turned_on_by_nothing_in_it() -> None:
    private = {"name": "s", "model": {"in_channels": 6}, "strategy": {"weigh_by": "equal"}}
    tree = private | {"sites": {"minimum": 3}, "privacy": {"secure_aggregation": {}}}
    text = commented_yaml(StudyConfig, tree, heading="")
    study = validate(StudyConfig, yaml.safe_load(text), "the file")
    assert study.privacy.protections == {"secure-aggregation"}


def test_a_field_without_a_default_cannot_be_left_out() -> None:
    with pytest.raises(KeyError, match="address"):
        commented_yaml(FederationConfig, {"sites": ["a"]}, heading="")
