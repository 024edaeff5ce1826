"""serve_configs/*.yaml held against Ray's own schema and ours, key by key, since Ray takes a typing error without a word."""

from pathlib import Path
from typing import get_args

import pytest
import yaml
from pydantic import BaseModel

from egoray import registry
from egoray.config import PredictConfig, ServeConfig, load

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "serve_configs").glob("*.yaml"))
pytestmark = pytest.mark.ray


def models_in(annotation):
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in models_in(part)]


def unknown_keys(model, content, at=""):
    """The places of keys that the schema, or the schema of a value under it, does not have."""
    found = []
    for key, value in content.items():
        field = model.model_fields.get(key) or next((f for f in model.model_fields.values() if f.alias == key), None)
        if field is None:
            found.append(f"{at}{key}")
            continue
        for inner in models_in(field.annotation)[:1]:
            for n, item in enumerate(value if isinstance(value, list) else [value]):
                place = f"{at}{key}[{n}]." if isinstance(value, list) else f"{at}{key}."
                found += unknown_keys(inner, item, place) if isinstance(item, dict) else []
    return found


def schema():
    from ray.serve.schema import ServeDeploySchema

    return ServeDeploySchema


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_key_is_known_to_ray_and_every_argument_to_us(path):
    content = yaml.safe_load(path.read_text())
    assert unknown_keys(schema(), content) == []
    schema().model_validate(content)
    assert content["http_options"]["host"] == "127.0.0.1"
    assert content["http_options"]["request_timeout_s"]
    (app,) = content["applications"]
    config = load(ServeConfig, None, defaults=app["args"])
    for model in config.models:
        entry, _ = registry.grounder_entry(model.name)
        assert load(PredictConfig, None, **model.options).model_options().keys() <= entry.options
        assert 0 < model.max_queued_requests < 100
    if config.tracker:
        registry.tracker_entry(config.tracker)


@pytest.mark.parametrize(
    ("where", "key"),
    [
        ((), "htpp_options"),
        (("http_options",), "request_timeout"),
        (("applications", 0), "import_pat"),
        (("applications", 0, "deployments", 0), "max_ongoing_request"),
        (("applications", 0, "deployments", 0, "autoscaling_config"), "target_num_ongoing_requests_per_replica"),
        (("applications", 0, "deployments", 0, "ray_actor_options"), "num_gpu"),
    ],
)
def test_a_typing_error_at_any_depth_is_found_where_ray_takes_it(where, key):
    content = yaml.safe_load(FILES[0].read_text())
    content["applications"][0]["deployments"] = [{"name": "a", "autoscaling_config": {"min_replicas": 1}, "ray_actor_options": {}}]
    assert unknown_keys(schema(), content) == []
    inner = content
    for step in where:
        inner = inner[step]
    inner[key] = 1
    (found,) = unknown_keys(schema(), content)
    assert found.endswith(key)


def test_there_is_a_config_for_each_family_of_models():
    assert {path.stem for path in FILES} == {"nano", "grounded_sam2", "sa2va", "videolisa"}
