# SPDX-License-Identifier: Apache-2.0
"""X25519 public keys that nothing may be sealed to, by defect."""

PRIME = (1 << 255) - 19
ORDER_8 = (
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
)


def encoded(u: int) -> bytes:
    return u.to_bytes(32, "little")


LOW_ORDER = {
    "zero": encoded(0),
    "one": encoded(1),
    "minus one": encoded(PRIME - 1),
    "order 8, first": encoded(ORDER_8[0]),
    "order 8, second": encoded(ORDER_8[1]),
}
NOT_CANONICAL = {
    "prime": encoded(PRIME),
    "prime plus one": encoded(PRIME + 1),
    "prime plus nine": encoded(PRIME + 9),
    "all ones below the top bit": encoded((1 << 255) - 1),
    "top bit set": encoded((1 << 255) + 9),
    "zero with top bit": encoded(1 << 255),
    "order 8 with top bit": encoded(ORDER_8[0] + (1 << 255)),
    "all ones": bytes([255]) * 32,
}
BAD_POINTS = LOW_ORDER | NOT_CANONICAL
