# SPDX-License-Identifier: Apache-2.0
"""The witness over HTTP: C2SP tlog-witness, and what monitors read."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

import structlog
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from tightseal.audit.note import NoteSigner, SignatureType
from tightseal.audit.witness import MAX_SUBMISSION_BYTES, StaleError, Witness
from tightseal.durable import create_file
from tightseal.errors import Code, RequestError, ServiceError, TightsealError
from tightseal.model.ports import Clock
from tightseal.service.witness_server import serve

__all__ = [
    "ADD_CHECKPOINT_PATH",
    "SIZE_CONTENT_TYPE",
    "new_witness_key",
    "read_witness_key",
    "serve_witness",
    "witness_app",
]

ADD_CHECKPOINT_PATH: Final = "/add-checkpoint"
SIZE_CONTENT_TYPE: Final = "text/x.tlog.size"
BODY_SECONDS: Final = 10.0
"""For a body to arrive, in seconds."""

_TEXT: Final = "text/plain; charset=utf-8"
_OK: Final = 200
_CONFLICT: Final = 409
_SEED_BYTES: Final = 32
_MAX_KEY_FILE_BYTES: Final = 4096

log = structlog.get_logger("tightseal.witness")


def witness_app(witness: Witness, clock: Clock) -> Starlette:
    """The application; submission prefix and monitoring prefix are the root.

    Args:
        witness: that cosigns.
        clock: Unix seconds.
    """

    async def add(http: Request) -> Response:
        try:
            body = await _body(http)
            line = await run_in_threadpool(
                lambda: witness.add_checkpoint(body, now=clock())
            )
        except StaleError as e:
            text = f"{e.latest}\n"
            return Response(text, status_code=_CONFLICT, media_type=SIZE_CONTENT_TYPE)
        except ClientDisconnect:
            return Response(status_code=400)
        except TightsealError as e:
            # C2SP tlog-witness: another root for the size seen last is a conflict.
            forked = e.code is Code.LOG_FORKED
            return _refused(e, status=_CONFLICT if forked else e.info.status)
        return Response(line, status_code=_OK, media_type=_TEXT)

    async def read(http: Request) -> Response:
        wanted = str(http.path_params["wanted"])
        try:
            data = await run_in_threadpool(partial(witness.checkpoint, wanted))
        except TightsealError as e:
            return _refused(e, status=e.info.status)
        return Response(data, media_type=_TEXT)

    return Starlette(
        routes=[
            Route(ADD_CHECKPOINT_PATH, add, methods=["POST"]),
            Route("/{wanted:str}/checkpoint", read, methods=["GET"]),
        ]
    )


def serve_witness(witness: Witness, *, host: str, port: int, clock: Clock) -> None:
    """Serve until a signal ends it; raises as ``witness_server.serve``."""
    serve(witness_app(witness, clock), host=host, port=port)


def new_witness_key(
    path: Path, name: str, *, entropy: Callable[[int], bytes]
) -> NoteSigner:
    """Make a witness's key and write it to a new file, mode 0600.

    Raises:
        ServiceError: ``log_malformed``, where the name cannot be a key's;
            ``state_exists``; ``journal_failed``.
    """
    seed = entropy(_SEED_BYTES)
    signer = NoteSigner(name, SignatureType.COSIGNATURE, seed)
    document = {"name": name, "private_key": seed.hex(), "key": str(signer.key)}
    try:
        create_file(path, exclusive=True)
        with path.open("r+", encoding="utf-8") as file:
            file.write(json.dumps(document, indent=2) + "\n")
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError as e:
        raise ServiceError(Code.STATE_EXISTS, f"{path} is there already") from e
    except OSError as e:
        raise ServiceError(Code.JOURNAL_FAILED, f"{path}: {e.strerror}") from e
    return signer


def read_witness_key(path: Path) -> NoteSigner:
    """The key that ``new_witness_key`` wrote.

    Raises:
        ServiceError: ``state_missing``; ``log_malformed``.
    """
    try:
        with path.open("rb") as file:
            document = json.loads(file.read(_MAX_KEY_FILE_BYTES))
        seed = bytes.fromhex(document["private_key"])
        signer = NoteSigner(document["name"], SignatureType.COSIGNATURE, seed)
    except FileNotFoundError as e:
        detail = f"{path}: no key; make one: tightseal audit witness init"
        raise ServiceError(Code.STATE_MISSING, detail) from e
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as e:
        # No text of the error: it may have the key in it.
        detail = f"{path}: no witness's key ({type(e).__name__})"
        raise ServiceError(Code.LOG_MALFORMED, detail) from None
    return signer


async def _body(http: Request) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in http.stream():
                body += chunk
                if len(body) > MAX_SUBMISSION_BYTES:
                    detail = f"longer than {MAX_SUBMISSION_BYTES} bytes"
                    raise RequestError(Code.REQUEST_TOO_LARGE, detail)
    except TimeoutError as e:
        detail = f"no whole body within {BODY_SECONDS:g} s"
        raise RequestError(Code.REQUEST_TIMEOUT, detail) from e
    return bytes(body)


def _refused(error: TightsealError, *, status: int) -> Response:
    log.warning("checkpoint_refused", code=error.code.value, detail=error.detail)
    text = f"{error.code.value}: {error.public}\n"
    return Response(text, status_code=status, media_type=_TEXT)
