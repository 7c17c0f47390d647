# SPDX-License-Identifier: Apache-2.0
"""The chain a second time, on hmac and hashlib alone, from RFC 5869 and SP 800-108.

It shares no code with the product: labels are spelled out, and CBOR is written by the
few lines below. The key vectors were made by this and must be met by the product.
Run as a script it appends to tests/data/key_vectors.json the cases that are not there;
it never changes an entry.
"""

import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import reference_pairs

VECTORS = Path(__file__).resolve().parent.parent / "data" / "key_vectors.json"
HASH = {
    "hkdf-sha256": "sha256",
    "hkdf-sha384": "sha384",
    "hkdf-sha512": "sha512",
    "sp800-108-ctr-hmac-sha256": "sha256",
}
SIZE = {"sha256": 32, "sha384": 48, "sha512": 64}
LEVELS = ("trust-domain", "tenant", "workload", "purpose")
SELECTED = {
    "tdx": (
        ("mrtd", 48),
        ("rtmr0", 48),
        ("rtmr1", 48),
        ("rtmr2", 48),
        ("rtmr3", 48),
        ("mr_config_id", 48),
        ("mr_owner", 48),
        ("mr_owner_config", 48),
    ),
    "sgx": (("mrenclave", 32), ("isv_prod_id", 2), ("config_id", 64)),
    "snp": (
        ("snp_measurement", 48),
        ("host_data", 32),
        ("vmpl", 4),
        ("id_key_digest", 48),
    ),
}
ATTRIBUTES = {
    "tdx": (("td_attributes", 8), ("xfam", 8)),
    "sgx": (("attributes", 16),),
    "snp": (("policy", 8),),
}


def head(major: int, n: int) -> bytes:
    if n < 24:
        return bytes([major << 5 | n])
    for info, size in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if n < 1 << (8 * size):
            return bytes([major << 5 | info]) + n.to_bytes(size, "big")
    raise ValueError(n)


def cbor(value: Any) -> bytes:
    match value:
        case None:
            return b"\xf6"
        case int():
            return head(0, value)
        case bytes():
            return head(2, len(value)) + value
        case str():
            return head(3, len(value.encode())) + value.encode()
        case list():
            return head(4, len(value)) + b"".join(map(cbor, value))
        case dict():
            pairs = sorted((cbor(k), cbor(v)) for k, v in value.items())
            return head(5, len(pairs)) + b"".join(k + v for k, v in pairs)
    raise TypeError(value)


def hkdf(name: str, key: bytes, info: bytes, length: int) -> bytes:
    """RFC 5869: extract with a salt of zeros, then expand."""
    prk = hmac.digest(bytes(SIZE[name]), key, name)
    out, block, i = b"", b"", 0
    while len(out) < length:
        i += 1
        block = hmac.digest(prk, block + info + bytes([i]), name)
        out += block
    return out[:length]


def counter_mode(
    name: str, key: bytes, label: bytes, context: bytes, length: int
) -> bytes:
    """SP 800-108r1 section 4.1, 32-bit counter in front, 32-bit length in bits."""
    fixed = label + b"\x00" + context + (length * 8).to_bytes(4, "big")
    out, i = b"", 0
    while len(out) < length:
        i += 1
        out += hmac.digest(key, i.to_bytes(4, "big") + fixed, name)
    return out[:length]


def step(kdf: str, key: bytes, level: str, value: Any, length: int) -> bytes:
    label = f"tightseal/v1/kdf/{level}"
    context = cbor([label, value])
    if kdf.startswith("hkdf"):
        return hkdf(HASH[kdf], key, context, length)
    return counter_mode(HASH[kdf], key, label.encode(), context, length)


def derive(root: bytes, path: dict[str, Any]) -> bytes:
    """``path`` is the plain value of a key path, as the journal writes it.

    The paths of the first vectors have no type: they are of raw keys.
    """
    kdf = path["kdf"]
    workload = [path["protocol_class"], path["generation"], path["workload"]]
    values = (
        [kdf, path["trust_domain"]],
        path["tenant"],
        workload,
        path["purpose"],
    )
    node = root
    for level, value in zip(LEVELS, values, strict=True):
        node = step(kdf, node, level, value, SIZE[HASH[kdf]])
    kind, label = path.get("type", "raw"), path["label"]
    if kind == "raw":
        return step(kdf, node, "label", [label, path["length"]], path["length"])
    size = reference_pairs.seed_size(kind)
    seed = step(kdf, node, "key-pair", [kind, label, size], size)
    return reference_pairs.private(kind, seed)


def released(root: bytes, path: dict[str, Any], part: str) -> bytes:
    key = derive(root, path)
    return key if part == "private" else reference_pairs.public(path["type"], key)


def filler(seed: str, size: int) -> bytes:
    return hashlib.shake_256(seed.encode()).digest(size)


def workload(tee: str, name: str | None = None) -> dict[str, Any]:
    return {
        "identity": "measured" if name is None else "named",
        "name": name,
        "tee": tee,
        "attributes": {n: filler(n, s) for n, s in ATTRIBUTES[tee]},
        "measurements": {n: filler(n, s) for n, s in SELECTED[tee]},
        "authority": ["settings_digest", filler("settings", 64)],
    }


def path_of(**changed: Any) -> dict[str, Any]:
    path = {
        "kdf": "hkdf-sha256",
        "trust_domain": "intel",
        "tenant": "default",
        "workload": workload("tdx"),
        "protocol_class": "v1",
        "generation": 0,
        "purpose": "disk",
        "label": "",
        "length": 32,
    }
    return path | changed


def cases() -> list[tuple[bytes, dict[str, Any]]]:
    root = filler("root", 16)
    found = [
        path_of(kdf=kdf, workload=workload(tee), protocol_class=way, trust_domain=who)
        for kdf in HASH
        for tee, who in (("tdx", "intel"), ("sgx", "intel"), ("snp", "amd"))
        for way in ("v1", "legacy")
    ]
    found += [
        path_of(kdf=kdf, label=label, length=length)
        for kdf in HASH
        for label in ("data", " ~" * 64)
        for length in (16, 17, 31, 32, 33, 48, 64)
    ]
    simulated = "simulated:" + filler("simulated", 48).hex()
    found += [
        path_of(kdf=kdf, **{field: value})
        for kdf in HASH
        for field, value in (
            ("trust_domain", simulated),
            ("tenant", "acme"),
            ("generation", 1),
            ("generation", (1 << 32) - 1),
            ("purpose", "signing"),
            ("workload", workload("tdx", "web")),
            (
                "workload",
                workload("snp") | {"authority": ["policy_root", filler("policy", 32)]},
            ),
        )
    ]
    long_root = filler("root", 32)
    return [(root, p) for p in found] + [(long_root, path_of(kdf=kdf)) for kdf in HASH]


def pair_cases() -> list[tuple[bytes, dict[str, Any], str]]:
    root = filler("root", 16)
    rooted = {"authority": ["policy_root", filler("policy", 32)]}
    bare = workload("tdx", "web") | rooted | {"attributes": {}, "measurements": {}}
    changes: list[dict[str, Any]] = [
        *({"kdf": kdf} for kdf in HASH),
        *({"kdf": kdf, "label": " ~" * 64} for kdf in HASH),
        {"workload": workload("tdx", "web") | rooted},
        {"workload": workload("sgx"), "generation": 7},
        {"workload": workload("snp"), "trust_domain": "amd", "tenant": "acme"},
    ]
    found = [
        path_of(type=kind, purpose="signing", **changed)
        for kind in reference_pairs.TYPES
        for changed in changes
    ]
    # named workloads, as policies bind them: by nothing but the name
    found += [
        path_of(type=kind, purpose="signing", workload=bare)
        for kind in reference_pairs.TYPES
    ]
    both = [(root, path, part) for path in found for part in ("private", "public")]
    return [*both, (root, path_of(type="raw", workload=bare), "private")]


def running_hash(before: str, root: str, path: str, key: str, part: str = "") -> str:
    """Over an entry and all before it; entries of raw keys name no part."""
    what = f"{path}|{part}" if part else path
    return hashlib.sha256(f"{before}|{root}|{what}|{key}".encode()).hexdigest()


def append_missing() -> None:
    entries = json.loads(VECTORS.read_text()) if VECTORS.exists() else []
    known = {(e["root"], e["path"], e.get("part", "")) for e in entries}
    raw = [(root, path, "") for root, path in cases()]
    for root, path, part in raw + pair_cases():
        what = (root.hex(), cbor(path).hex())
        if (*what, part) in known:
            continue
        key = released(root, path, part or "private").hex()
        before = entries[-1]["running_hash"] if entries else ""
        entry = {"root": what[0], "path": what[1]}
        if part:
            entry["part"] = part
        entry["key"] = key
        entry["running_hash"] = running_hash(before, *what, key, part)
        entries.append(entry)
    VECTORS.write_text(json.dumps(entries, indent=1) + "\n")


if __name__ == "__main__":
    append_missing()
