# SPDX-License-Identifier: Apache-2.0
"""``tightseal action sign --kind adopt``: where the key is that is to be adopted."""

import json
from pathlib import Path
from typing import Any

import pytest
from action_cli import ROOT, key_files, new, read

import action_support as support
from tightseal.model.action import AdoptParameters, KeySource
from tightseal.model.claims import Claims, PlatformIdentity, Tcb, TcbStatus, Tee
from tightseal.model.keypath import Authority, Kdf, KeyPath, KeyRequest
from tightseal.model.settings import ReleaseSettings
from tightseal.policy.builtin import builtin_policy
from tightseal.policy.claimsfile import read_claims
from tightseal.policy.engine import Circumstances, decide
from tightseal.policy.fields import MEASUREMENT_BYTES

SETTINGS = '[release]\ntenant = "acme"\nkdf = "hkdf-sha512"\n'


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, Path]:
    return key_files(tmp_path)


def claims_document(**changes: Any) -> dict[str, Any]:
    names = ("mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3", "mr_config_id", "mr_owner")
    names = (*names, "mr_owner_config", "td_attributes", "xfam")
    return {
        "verdict": "authentic",
        "tee": "tdx",
        "trust_domain": "intel",
        "single_verifier": False,
        "debug": False,
        "tcb": {"status": "UpToDate", "advisory_ids": [], "evaluation_number": 17},
        "platform": {"ppid": "70" * 16},
        "measurements": {
            name: (bytes([len(name)]) * MEASUREMENT_BYTES[name]).hex() for name in names
        },
        "report_data": "00" * 64,
    } | changes


@pytest.fixture
def claims(tmp_path: Path) -> Path:
    file = tmp_path / "claims.json"
    file.write_text(json.dumps(claims_document()))
    return file


def adopted(tmp_path: Path, keys: dict[str, Path], **options: object) -> KeySource:
    file = tmp_path / "adopt.action"
    said = new(kind="adopt", key=keys["alice"], out=file, **options)
    assert said.status == 0, said.stderr
    parameters = read(file).action.parameters
    assert isinstance(parameters, AdoptParameters)
    return parameters.source


def builtin_path(claims: Claims, settings: ReleaseSettings) -> KeyPath:
    """What a provider of these settings gave a key under."""
    where = Circumstances(
        authority=settings.authority(),
        provider_platform=claims.platform,
        provider_domain=claims.trust_domain,
    )
    keys = (KeyRequest("disk"),)
    policy = builtin_policy(settings)
    grant = decide(
        claims, keys=keys, policy=policy, circumstances=where, now=support.NOW
    )
    return grant.paths[0]


def test_evidence_and_settings_state_the_path_that_the_key_had(
    tmp_path: Path, keys: dict[str, Path], claims: Path
) -> None:
    file = tmp_path / "tightseal.toml"
    file.write_text(SETTINGS)
    source = adopted(tmp_path, keys, claims=claims, source_settings=file)
    settings = ReleaseSettings(tenant="acme", kdf=Kdf.HKDF_SHA512)
    read_back = read_claims(claims.read_bytes(), name="claims")
    assert source == KeySource.of(builtin_path(read_back, settings))


def test_an_authority_takes_the_place_of_settings(
    tmp_path: Path, keys: dict[str, Path], claims: Path
) -> None:
    source = adopted(
        tmp_path,
        keys,
        claims=claims,
        source_authority=f"policy_root:{ROOT}",
        source_tenant="acme",
        source_purpose="legacy-disk",
        source_kdf="hkdf-sha384",
        source_binds="rtmr3,mrtd",
    )
    assert source.authority == Authority("policy_root", support.ROOT)
    assert (source.tenant, source.purpose) == ("acme", "legacy-disk")
    assert source.kdf is Kdf.HKDF_SHA384
    assert [name for name, _ in source.measurements] == ["mrtd", "rtmr3"]
    assert [name for name, _ in source.attributes] == ["td_attributes", "xfam"]


def journal_path(**changes: Any) -> dict[str, Any]:
    """As ``tightseal audit tail --json`` prints it."""
    source = support.source()
    binding = {
        "identity": "measured",
        "name": None,
        "tee": "tdx",
        "attributes": {name: value.hex() for name, value in source.attributes},
        "measurements": {name: value.hex() for name, value in source.measurements},
        "authority": [source.authority.kind, source.authority.value.hex()],
    }
    return {
        "kdf": source.kdf.value,
        "trust_domain": "intel",
        "tenant": source.tenant,
        "workload": binding | changes,
        "protocol_class": "v1",
        "generation": 0,
        "purpose": source.purpose,
        "label": "",
        "length": 32,
        "type": "raw",
    }


@pytest.mark.parametrize("around", ["path", "body", "entry"])
def test_a_journal_states_the_path(
    tmp_path: Path, keys: dict[str, Path], around: str
) -> None:
    path = journal_path()
    document: dict[str, Any] = path
    if around != "path":
        document = {"keys": [path, path | {"purpose": "backup"}]}
    if around == "entry":
        document = {"seq": 1, "body": document}
    file = tmp_path / "path.json"
    file.write_text(json.dumps(document))
    source = adopted(tmp_path, keys, source_json=file, source_purpose="disk")
    assert source == support.source()


JOURNALS: dict[str, Any] = {
    "several keys": {"keys": [journal_path(), journal_path()]},
    "no key": {"keys": []},
    "a named key": journal_path(identity="named", name="database"),
    "an unknown authority": journal_path(authority=["us", "00"]),
    "hex that is none": journal_path(attributes={"xfam": "zz"}),
    "another document": {"verdict": "authentic"},
    "no object": 7,
}


@pytest.mark.parametrize("defect", JOURNALS)
def test_a_journal_without_one_measured_key_is_refused(
    tmp_path: Path, keys: dict[str, Path], defect: str
) -> None:
    file = tmp_path / "path.json"
    file.write_text(json.dumps(JOURNALS[defect]))
    out = tmp_path / "new"
    said = new(kind="adopt", key=keys["alice"], out=out, source_json=file)
    assert (said.status, out.exists()) == (2, False)


WRONG_SOURCES: dict[str, dict[str, object]] = {
    "neither settings nor authority": {},
    "both": {"source_settings": "x", "source_authority": f"policy_root:{ROOT}"},
    "an authority without a tenant": {"source_authority": f"policy_root:{ROOT}"},
    "a short authority": {"source_authority": "policy_root:00", "source_tenant": "a"},
    "an unknown authority": {"source_authority": f"us:{ROOT}", "source_tenant": "a"},
    "an authority that is no hex": {"source_authority": "policy_root:zz"},
    "a measurement of another tee": {
        "source_authority": f"policy_root:{ROOT}",
        "source_tenant": "acme",
        "source_binds": "mrenclave",
    },
    "a measurement that the claims lack": {
        "source_authority": f"policy_root:{ROOT}",
        "source_tenant": "acme",
        "source_binds": "mrtd,mr_seam",
    },
    "nothing that was launched": {
        "source_authority": f"policy_root:{ROOT}",
        "source_tenant": "acme",
        "source_binds": "rtmr3",
    },
    "a journal too": {"source_json": "x"},
}


@pytest.mark.parametrize("defect", WRONG_SOURCES)
def test_a_source_that_is_stated_wrongly_is_refused(
    tmp_path: Path, keys: dict[str, Path], claims: Path, defect: str
) -> None:
    out = tmp_path / "new"
    options = {"claims": claims} | WRONG_SOURCES[defect]
    said = new(kind="adopt", key=keys["alice"], out=out, **options)
    assert (said.status, said.stdout, out.exists()) == (2, "", False)


def test_settings_under_a_policy_root_gave_no_builtin_key(
    tmp_path: Path, keys: dict[str, Path], claims: Path
) -> None:
    file, out = tmp_path / "tightseal.toml", tmp_path / "new"
    file.write_text(f'[release]\npolicy_root = "{ROOT}"\n')
    options = {"claims": claims, "source_settings": file}
    said = new(kind="adopt", key=keys["alice"], out=out, **options)
    assert said.status == 2
    assert "--source-json" in said.stderr


def test_a_claims_fixture_is_what_the_policy_reads() -> None:
    found = read_claims(json.dumps(claims_document()).encode(), name="claims")
    assert (found.tee, found.platform) == (Tee.TDX, PlatformIdentity(ppid=b"p" * 16))
    assert found.tcb == Tcb(TcbStatus.UP_TO_DATE, frozenset(), 17, "")
