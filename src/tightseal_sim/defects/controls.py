# SPDX-License-Identifier: Apache-2.0
"""Controls: what must be accepted, with every status that is not Revoked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from tightseal.model.claims import TcbStatus, Tee
from tightseal_sim.defects.bench import Bench, edit_identity
from tightseal_sim.defects.case import ACCEPTED, Case, Expect
from tightseal_sim.intel.pki import ConfigurationFlags, issue
from tightseal_sim.intel.quote import QuoteForm
from tightseal_sim.intel.td import TD_PERFMON, TD_PKS

__all__ = ["controls", "statuses"]

_FORMS = (
    (1, "control_tdx_v4", "control TDX v4", QuoteForm.V4_TD10),
    (3, "control_tdx_v5_td15", "control v5 TD1.5", QuoteForm.V5_TD15),
    (None, "control_tdx_v5_td10", "control v5 TD1.0", QuoteForm.V5_TD10),
    (None, "control_tdx_v5_td15ex", "control v5 TD1.5ex", QuoteForm.V5_TD15EX),
)

_ADVISORY = "INTEL-SA-99900"

_PUBLISHED = (
    TcbStatus.SW_HARDENING_NEEDED,
    TcbStatus.CONFIGURATION_NEEDED,
    TcbStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED,
    TcbStatus.OUT_OF_DATE,
    TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED,
)
_ROWS = {
    (Tee.TDX, TcbStatus.OUT_OF_DATE): 53,
    (Tee.TDX, TcbStatus.SW_HARDENING_NEEDED): 55,
}


def controls(bench: Bench) -> Iterator[Case]:
    """Unspoiled quotes of every form, CA and legal attribute."""
    for number, name, title, form in _FORMS:
        parts = bench.td_parts(form)
        yield bench.case(name, title, ACCEPTED, number=number, evidence=parts)
    yield bench.case(
        "control_sgx_v3", "control SGX v3", ACCEPTED, number=2, tee=Tee.SGX
    )
    processor = bench.intel.platform("defects-processor", ca="processor")
    yield bench.case(
        "control_sgx_processor_ca",
        "SGX v3 of a machine of the processor CA",
        ACCEPTED,
        tee=Tee.SGX,
        evidence=processor.load_enclave(bench.enclave.image).quote_parts(bytes(64)),
        collateral=bench.collateral(Tee.SGX, ca="processor"),
    )
    for number, name, attribute in (
        (79, "td_pks", TD_PKS),
        (80, "td_perfmon", TD_PERFMON),
    ):
        attributes = bench.td.image.attributes | attribute
        yield bench.case(
            name,
            f"TD with {name[3:].upper()}",
            ACCEPTED,
            number=number,
            evidence=bench.td_parts(attributes=attributes),
        )
    yield _configured_platform(bench)


def _configured_platform(bench: Bench) -> Case:
    """Dynamic platform, cached keys and SMT are claims, and no defects."""
    flags = ConfigurationFlags(
        dynamic_platform=True, cached_keys=True, smt_enabled=True
    )
    platform = bench.intel.platform("defects-configured")
    fields = replace(platform.pck_fields, flags=flags)
    request = bench.intel.pck_request("defects-configured", fields)
    leaf = issue(bench.intel.pck_cas["platform"], request)
    parts = replace(
        bench.td_parts(),
        qe_signer=leaf.key,
        chain=bench.intel.pck_chain(leaf, "platform"),
    )
    return bench.case(
        "control_configuration_flags",
        "platform with dynamic platform, cached keys and SMT",
        ACCEPTED,
        evidence=parts,
    )


def statuses(bench: Bench) -> Iterator[Case]:
    """Every status that is authentic, from platform, QE and TDX module."""
    for tee in (Tee.TDX, Tee.SGX):
        for status in _PUBLISHED:
            yield _published(bench, tee, status)
        yield _recovery(bench, tee)
        yield _old_qe(bench, tee, configuration=False)
        yield _old_qe(bench, tee, configuration=True)
    for configuration in (False, True):
        yield _old_module(bench, configuration=configuration)
        yield _relaunch(bench, configuration=configuration)


def _published(bench: Bench, tee: Tee, status: TcbStatus) -> Case:
    """The newest level itself has the status."""
    twin = Bench(bench.world, bench.now)
    twin.intel.publish_status(status, (_ADVISORY,))
    return twin.case(
        f"status_{tee.value}_{_snake(status)}",
        f"platform {status.value} ({tee.value})",
        Expect.accept(status, _ADVISORY),
        number=_ROWS.get((tee, status)),
        tee=tee,
    )


def _recovery(bench: Bench, tee: Tee) -> Case:
    """A TCB recovery that the machine did not follow."""
    twin = Bench(bench.world, bench.now)
    twin.intel.publish_recovery((_ADVISORY,))
    return twin.case(
        f"status_{tee.value}_after_recovery",
        f"microcode behind a TCB recovery ({tee.value})",
        Expect.accept(TcbStatus.OUT_OF_DATE, _ADVISORY),
        tee=tee,
    )


def _old_qe(bench: Bench, tee: Tee, *, configuration: bool) -> Case:
    """A QE level that is OutOfDate, merged into the platform's status."""
    twin, merged = _configured(bench, configuration=configuration)

    def old(identity: dict[str, object]) -> None:
        levels = identity["tcbLevels"]
        assert isinstance(levels, list)
        levels[0] |= {"tcbStatus": "OutOfDate", "advisoryIDs": [_ADVISORY]}

    suffix = "_configuration_needed" if configuration else ""
    return twin.case(
        f"qe_out_of_date{suffix}_{tee.value}",
        f"QE OutOfDate, merged to {merged.value} ({tee.value})",
        Expect.accept(merged, _ADVISORY),
        number=54 if tee is Tee.TDX and not configuration else None,
        tee=tee,
        collateral=edit_identity(twin.collateral(tee), old),
    )


def _old_module(bench: Bench, *, configuration: bool) -> Case:
    """A TDX module behind a recovery, in a TD 1.0 body."""
    twin, merged = _configured(bench, configuration=configuration)
    twin.intel.publish_recovery((_ADVISORY,), tdx_module=True)
    suffix = "_configuration_needed" if configuration else ""
    return twin.case(
        f"tdx_module_out_of_date{suffix}",
        f"TDX module OutOfDate, merged to {merged.value}",
        Expect.accept(merged, _ADVISORY),
    )


def _relaunch(bench: Bench, *, configuration: bool) -> Case:
    """A TD launched under an old module that has been updated under it since."""
    twin, _ = _configured(bench, configuration=configuration)
    td = twin.td
    twin.intel.publish_recovery((_ADVISORY,), tdx_module=True)
    twin.platform.tdx_module_update()
    status = (
        TcbStatus.TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED
        if configuration
        else TcbStatus.TD_RELAUNCH_ADVISED
    )
    return twin.case(
        f"status_tdx_{_snake(status)}",
        f"TD to be launched again: {status.value}",
        Expect.accept(status, _ADVISORY),
        evidence=td.quote_parts(bytes(64), form=QuoteForm.V5_TD15),
    )


def _configured(bench: Bench, *, configuration: bool) -> tuple[Bench, TcbStatus]:
    twin = Bench(bench.world, bench.now)
    if not configuration:
        return twin, TcbStatus.OUT_OF_DATE
    twin.intel.publish_status(TcbStatus.CONFIGURATION_NEEDED)
    return twin, TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED


def _snake(status: TcbStatus) -> str:
    return status.name.lower()
