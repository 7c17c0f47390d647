# SPDX-License-Identifier: Apache-2.0
"""Strict base64url without padding (RFC 4648 section 5): one text for each value."""

from __future__ import annotations

import base64
import binascii
from typing import Final

from tightseal.errors import Code, RequestError

__all__ = ["base64url_chars", "decode_base64url", "encode_base64url"]

_TO_STANDARD: Final = bytes.maketrans(b"-_+/=", b"+/!!!")
"""To the alphabet that the decoder knows; what is not base64url to what it refuses."""


def base64url_chars(length: int) -> int:
    """How many characters ``length`` bytes take."""
    return (length * 4 + 2) // 3


def encode_base64url(data: bytes) -> str:
    """Encode without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def decode_base64url(
    text: str, *, field: str, min_bytes: int = 0, max_bytes: int
) -> bytes:
    """Decode the one canonical text of a value.

    Padding, white space, the other base64 alphabet and non-zero trailing bits are
    refused: two texts of one value would be two requests to a replay check.

    Args:
        text: base64url without padding.
        field: the field's name, for the error.
        min_bytes: shortest decoded value.
        max_bytes: longest decoded value.

    Raises:
        RequestError: ``request_malformed``.
    """
    if len(text) > base64url_chars(max_bytes):
        raise _refused(field, f"{len(text)} characters, at most {max_bytes} bytes")
    odd = len(text) % 4
    try:
        standard = text.encode("ascii").translate(_TO_STANDARD)
        data = binascii.a2b_base64(standard + b"=" * (-odd % 4), strict_mode=True)
    except (UnicodeEncodeError, binascii.Error) as e:
        raise _refused(field, "not base64url without padding") from e
    # Whole groups of four have one text each.
    if odd and encode_base64url(data[1 - odd :]) != text[-odd:]:
        raise _refused(field, "trailing bits are not zero")
    if not min_bytes <= len(data) <= max_bytes:
        expected = f"{min_bytes} to {max_bytes} bytes"
        raise _refused(field, f"{len(data)} bytes, expected {expected}")
    return data


def _refused(field: str, detail: str) -> RequestError:
    return RequestError(Code.REQUEST_MALFORMED, f"{field}: {detail}")
