# SPDX-License-Identifier: Apache-2.0
"""One key request in the HTTP API's JSON, with a use or an import where it has one."""

from __future__ import annotations

from typing import Annotated

import msgspec

from tightseal.errors import Code, RequestError
from tightseal.model.base64url import decode_base64url, encode_base64url
from tightseal.model.generation import GenerationName
from tightseal.model.importing import IMPORT_COMMITMENT_BYTES
from tightseal.model.keypath import (
    DEFAULT_KEY_BYTES,
    MAX_KEY_BYTES,
    MIN_KEY_BYTES,
    KeyPart,
    KeyRequest,
)
from tightseal.model.keyuse import (
    MAX_USE_CONTEXT_BYTES,
    MAX_USE_INPUT_BYTES,
    KeyUse,
    Operation,
)
from tightseal.model.wire_fields import (
    GenerationNumber,
    LabelText,
    PurposeText,
    ShortText,
    UseContextText,
    UseInputText,
    exactly,
)

__all__ = ["KeyItem", "UseJson"]


class UseJson(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A use of a key in place of its release.

    Attributes:
        operation: what the provider does with the private half.
        input: what it does it to.
        context: of ``unwrap``; goes into the HPKE ``info``.
    """

    operation: Operation
    input: UseInputText
    context: UseContextText = ""

    @classmethod
    def of(cls, use: KeyUse) -> UseJson:
        """Encode a use."""
        return cls(
            operation=use.operation,
            input=encode_base64url(use.data),
            context=encode_base64url(use.context),
        )

    def parsed(self) -> KeyUse:
        """The use, its form checked; raises ``request_malformed``."""
        use = KeyUse(
            operation=self.operation,
            data=decode_base64url(
                self.input, field="input", max_bytes=MAX_USE_INPUT_BYTES
            ),
            context=decode_base64url(
                self.context, field="context", max_bytes=MAX_USE_CONTEXT_BYTES
            ),
        )
        use.check()
        return use


class KeyItem(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One key that is asked for.

    Attributes:
        purpose, label: printable ASCII.
        length: bytes; 32 for the purpose of a pair, whichever part is asked for.
        part: the key itself, or the public half of a pair.
        generation: ``current``, ``previous``, or a number.
        create: make a wrapped key that must not be there yet.
        use: what the provider does with the private half in place of releasing it;
            left out where it releases the key.
        imported: commitment to the existing key that ``create`` keeps; left out where
            it makes a random one.
    """

    purpose: PurposeText
    label: LabelText = ""
    length: Annotated[int, msgspec.Meta(ge=MIN_KEY_BYTES, le=MAX_KEY_BYTES)] = (
        DEFAULT_KEY_BYTES
    )
    part: KeyPart = KeyPart.PRIVATE
    generation: GenerationName | GenerationNumber = GenerationName.CURRENT
    create: bool = False
    use: UseJson | msgspec.UnsetType = msgspec.UNSET
    imported: ShortText | msgspec.UnsetType = msgspec.UNSET

    @classmethod
    def of(cls, request: KeyRequest) -> KeyItem:
        """Encode a key request."""
        return cls(
            purpose=request.purpose,
            label=request.label,
            length=request.length,
            part=request.part,
            generation=request.generation,
            create=request.create,
            use=msgspec.UNSET if request.use is None else UseJson.of(request.use),
            imported=msgspec.UNSET
            if request.imported is None
            else encode_base64url(request.imported),
        )

    def parsed(self) -> KeyRequest:
        """The key request; raises ``request_malformed``."""
        use, imported = self.use, self.imported
        if imported is not msgspec.UNSET and not self.create:
            detail = "an import is of a key that is to be created"
            raise RequestError(Code.REQUEST_MALFORMED, detail)
        if use is not msgspec.UNSET and self.part is not KeyPart.PRIVATE:
            detail = "a use is of the private half, not of the public one"
            raise RequestError(Code.REQUEST_MALFORMED, detail)
        return KeyRequest(
            purpose=self.purpose,
            label=self.label,
            length=self.length,
            part=self.part,
            generation=self.generation,
            create=self.create,
            use=None if use is msgspec.UNSET else use.parsed(),
            imported=None
            if imported is msgspec.UNSET
            else exactly(imported, "imported", IMPORT_COMMITMENT_BYTES),
        )
