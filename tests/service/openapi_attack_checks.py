# SPDX-License-Identifier: Apache-2.0
"""What every answer of a provider has, as checks that schemathesis loads.

Each answer makes a line in a file of the folder that it runs in.
"""

import json
from pathlib import Path

import schemathesis
from schemathesis import Case, CheckContext, Response

from tightseal.errors import CODES, Code
from tightseal.model.wire import PROBLEM_CONTENT_TYPE, PROBLEM_TYPE_PREFIX

ANSWERS = Path("answers.jsonl")
OK = 200
FIRST_ERROR = 400
TILE_CACHING = {"no-cache", "public, max-age=3600"}
"""Of a checkpoint, and of the tiles of a log that has no full one yet."""

NOT_READY = 503
ALWAYS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "tightseal-simulated": "true",
}
INSTANCE = "urn:tightseal:request:"


def header(response: Response, name: str) -> str | None:
    values = response.headers.get(name)
    if values is None:
        return None
    assert len(values) == 1, f"{name} is given {len(values)} times"
    return str(values[0])


@schemathesis.check
def headers_of_every_answer(_ctx: CheckContext, response: Response, case: Case) -> None:
    # Tiles are for everybody, and others may keep them.
    tile = case.path.startswith("/v1/log/") and response.status_code == OK
    for name, value in ALWAYS.items():
        found = header(response, name)
        if tile and name == "cache-control":
            assert found in TILE_CACHING
        else:
            assert found == value, name
    assert header(response, "server") is None


@schemathesis.check
def refusals_are_problem_documents(
    _ctx: CheckContext, response: Response, case: Case
) -> None:
    code = ""
    readiness = case.path == "/readyz" and response.status_code == NOT_READY
    if response.status_code >= FIRST_ERROR and not readiness:
        code = problem_of(response)
    with ANSWERS.open("a") as tally:
        line = (case.method, case.path, response.status_code, code)
        tally.write(json.dumps(line) + "\n")


def problem_of(response: Response) -> str:
    """The code of a refusal whose form is right."""
    assert header(response, "content-type") == PROBLEM_CONTENT_TYPE
    document = response.json()
    info = CODES[Code(document["code"])]
    assert document["type"] == PROBLEM_TYPE_PREFIX + document["code"]
    assert document["title"] == info.public
    assert document["status"] == info.status == response.status_code
    request_id = header(response, "x-request-id")
    named = None if request_id is None else INSTANCE + request_id
    assert document.get("instance") == named
    later = header(response, "retry-after") is not None
    assert later == (response.status_code in {429, NOT_READY})
    return str(document["code"])
