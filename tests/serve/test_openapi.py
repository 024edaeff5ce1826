"""Whatever the OpenAPI document allows, and much that it does not, is asked of the service: it never fails, and says what it documents."""

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, load_all_checks

from egoray.config import ServeConfig
from egoray.models.grabcut import GrabCut
from egoray.serve.segmenting import LocalSegmenting
from support.served import Paced, serving

load_all_checks()
KEPT = CHECKS.get_by_names(["not_a_server_error", "content_type_conformance", "response_schema_conformance", "status_code_conformance"])
ROUTES = [("get", "/healthz"), ("get", "/v1/models"), ("get", "/v1/samples"), ("get", "/v1/samples/{name}.mp4")]
ROUTES += [("post", "/v1/ground"), ("post", "/v1/segment")]


@pytest.fixture(scope="module")
def api():
    config = ServeConfig(samples=False, max_upload_mb=2, upload_stall_s=1.0)
    with serving(Paced(), config, segmenting=lambda decoder, config: LocalSegmenting(GrabCut(), decoder, config)) as url:
        yield schemathesis.openapi.from_url(f"{url}/openapi.json")


def test_the_document_has_these_routes(api):
    assert {(found.ok().method, found.ok().path) for found in api.get_all_operations()} == set(ROUTES)


@pytest.mark.parametrize(
    ("method", "path", "mode"),
    [(*route, GenerationMode.POSITIVE) for route in ROUTES] + [(*route, GenerationMode.NEGATIVE) for route in ROUTES if route[0] == "post"],
)
def test_no_question_makes_it_fail(api, method, path, mode):
    @given(case=api[path][method].as_strategy(generation_mode=mode))
    @settings(max_examples=25, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    def ask(case):
        case.call_and_validate(checks=KEPT)

    ask()
