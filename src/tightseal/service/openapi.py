# SPDX-License-Identifier: Apache-2.0
"""The OpenAPI document of HTTP API v1, generated from the types on the wire."""

from __future__ import annotations

from functools import cache
from typing import Any, Final, TypeAlias

import msgspec

from tightseal._version import __version__
from tightseal.errors import CODES
from tightseal.model import wire, wire_handoff, wire_nodes, wire_operator
from tightseal.service.health import Readiness
from tightseal.service.metrics import CONTENT_TYPE
from tightseal.service.tilepaths import (
    CHECKPOINT_ROUTE,
    CHECKPOINT_TYPE,
    TILE_ROUTE,
    TILE_TYPE,
)

__all__ = ["openapi_document"]

REF_TEMPLATE: Final = "#/components/schemas/{name}"
_Json: TypeAlias = dict[str, Any]

_JSON: Final = "application/json"
_ALIVE: Final[_Json] = {
    "type": "object",
    "properties": {"alive": {"const": True}},
    "required": ["alive"],
}
_REQUEST_ID: Final[_Json] = {
    "description": "Names the line in the provider's log.",
    "required": True,
    "schema": {"type": "string"},
}
_RETRY_AFTER: Final[_Json] = {
    "description": "Seconds until it is worth another try.",
    "required": True,
    "schema": {"type": "string", "pattern": "^[0-9]+$"},
}

_LOG_ID: Final[_Json] = {
    "name": "log_id",
    "description": "Last part of the log's origin. There is no other log here, and none"
    " unless host.http.log is set.",
    "schema": {"type": "string", "pattern": "^[0-9a-f]{32}$"},
}
_TILE: Final[_Json] = {
    "name": "path",
    "description": "Level and index, such as 0/x001/234 or entries/000.p/17, with its"
    " slashes as they are.",
    "schema": {"type": "string", "maxLength": 64},
}

_TYPES: Final = (
    wire.ChallengeRequest,
    wire.ChallengeResponse,
    wire.KeysRequest,
    wire.KeysResponse,
    wire.PublicKeyRequest,
    wire.PublicKeyResponse,
    wire_operator.PolicyAccepted,
    wire_operator.ActionDone,
    wire_handoff.HandoffRequest,
    wire_handoff.HandoffResponse,
    wire_handoff.ConfirmRequest,
    wire_handoff.HandoffConfirmed,
    wire.InfoResponse,
    wire.Problem,
    wire_nodes.NodesResponse,
    Readiness,
)


@cache
def openapi_document() -> bytes:
    """The document as indented JSON; the same bytes for the same version."""
    return msgspec.json.format(msgspec.json.encode(_document()), indent=2) + b"\n"


def _document() -> _Json:
    _, components = msgspec.json.schema_components(_TYPES, ref_template=REF_TEMPLATE)
    components["Problem"]["properties"]["code"] = {
        "enum": sorted(code.value for code in CODES)
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Tightseal",
            "version": __version__,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": {
            wire.CHALLENGE_PATH: {
                "post": _operation(
                    "challenge",
                    "Ask for a signed challenge.",
                    answer="ChallengeResponse",
                    body="ChallengeRequest",
                )
            },
            wire.KEYS_PATH: {
                "post": _operation(
                    "keys",
                    "Answer the challenge with evidence, and get keys.",
                    answer="KeysResponse",
                    body="KeysRequest",
                )
            },
            wire.PUBLIC_KEY_PATH: {
                "post": _operation(
                    "public_key",
                    "Ask for the public half of a published pair, without evidence.",
                    answer="PublicKeyResponse",
                    body="PublicKeyRequest",
                )
            },
            wire_operator.POLICY_PATH: {
                "post": _operation(
                    "policy",
                    "Publish a signed bundle, as it stands.",
                    answer="PolicyAccepted",
                )
                | _bytes("application/octet-stream")
            },
            wire_operator.ACTIONS_PATH: {
                "post": _operation(
                    "actions",
                    "Submit a signed action, as it stands.",
                    answer="ActionDone",
                )
                | _bytes(_JSON)
            },
            wire_handoff.HANDOFF_PATH: {
                "post": _operation(
                    "handoff",
                    "Answer the challenge with evidence of a provider that was"
                    " invited, and get the keyring.",
                    answer="HandoffResponse",
                    body="HandoffRequest",
                )
            },
            wire_handoff.CONFIRM_PATH: {
                "post": _operation(
                    "handoff_confirm",
                    "Say that the keyring was written and opens again.",
                    answer="HandoffConfirmed",
                    body="ConfirmRequest",
                )
            },
            "/v1/info": {
                "get": _operation(
                    "info",
                    "Who the provider says it is; unsigned.",
                    answer="InfoResponse",
                    logged=False,
                )
            },
            "/v1/openapi.json": {
                "get": _plain("openapi", "This document.", _JSON, {"type": "object"})
            },
            wire_nodes.NODES_PATH: {
                "get": _operation(
                    "nodes",
                    "The nodes over the provider's state; unsigned, unless they are"
                    " switched off with the metrics.",
                    answer="NodesResponse",
                    logged=False,
                )
            },
            "/readyz": {"get": _readiness()},
            "/healthz": {
                "get": _plain("alive", "Whether the process answers.", _JSON, _ALIVE)
            },
            "/metrics": {
                "get": _plain(
                    "metrics",
                    "Metrics in Prometheus' text form, unless they are switched off.",
                    CONTENT_TYPE,
                    {"type": "string"},
                )
            },
            CHECKPOINT_ROUTE: {
                "get": _of_log(
                    "log_checkpoint",
                    "The newest published checkpoint of the provider's audit log, a"
                    " signed note (C2SP tlog-checkpoint).",
                    CHECKPOINT_TYPE,
                    _LOG_ID,
                )
            },
            TILE_ROUTE: {
                "get": _of_log(
                    "log_tile",
                    "A tile or entry bundle of the audit log (C2SP tlog-tiles).",
                    TILE_TYPE,
                    _LOG_ID,
                    _TILE,
                )
            },
        },
        "components": {"schemas": components},
    }


def _operation(
    name: str, summary: str, *, answer: str, body: str = "", logged: bool = True
) -> _Json:
    granted = {"description": "Granted.", "content": _json_of(answer)}
    if logged:
        granted["headers"] = {"x-request-id": _REQUEST_ID}
    operation: _Json = {
        "operationId": name,
        "summary": summary,
        "responses": {"200": granted, **_refusals()},
    }
    if body:
        operation["requestBody"] = {"required": True, "content": _json_of(body)}
    return operation


def _bytes(content_type: str) -> _Json:
    """A body whose form is that of a file which operators sign."""
    return {"requestBody": {"required": True, "content": {content_type: {}}}}


def _readiness() -> _Json:
    content, refused = _json_of("Readiness"), _refusal()
    return {
        "operationId": "ready",
        "summary": "Whether the provider can release keys, and what to mend if not.",
        "responses": {
            "200": {"description": "Ready.", "content": content},
            # A full table of connections refuses before anything is looked at.
            "503": {
                "description": "Not ready.",
                "content": content | refused["content"],
            },
            "default": refused,
        },
    }


def _plain(name: str, summary: str, content_type: str, schema: _Json) -> _Json:
    content = {content_type: {"schema": schema}}
    return {
        "operationId": name,
        "summary": summary,
        "responses": {
            "200": {"description": "As it stands.", "content": content},
            **_refusals(),
        },
    }


def _of_log(name: str, summary: str, content_type: str, *parameters: _Json) -> _Json:
    schema = {"type": "string"}
    return _plain(name, summary, content_type, schema) | {
        "parameters": [p | {"in": "path", "required": True} for p in parameters]
    }


def _refusals() -> _Json:
    """What every path can answer; which status a code has is in the table of codes."""
    later = _refusal() | {"headers": {"retry-after": _RETRY_AFTER}}
    return {"429": later, "503": later, "default": _refusal()}


def _refusal() -> _Json:
    content = _json_of("Problem", wire.PROBLEM_CONTENT_TYPE)
    return {"description": "Refused; the code says why.", "content": content}


def _json_of(name: str, content_type: str = _JSON) -> _Json:
    return {content_type: {"schema": {"$ref": REF_TEMPLATE.format(name=name)}}}
