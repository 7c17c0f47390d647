# SPDX-License-Identifier: Apache-2.0
"""For each lint a document that has it, and where, and one without it."""

from dataclasses import dataclass

from policy_support import document, value

from tightseal.model.claims import Tee
from tightseal.policy import start
from tightseal.policy.lint import LintId

ANY = 'platform = "any"'
PINNED = 'td_attributes = "0000001000000000"'
OWNER = f'mr_owner = "{value("mr_owner").hex()}"\n{PINNED}'
DEBUG = "0100000000000000"
CLEAN = document(measurements=PINNED)


@dataclass(frozen=True)
class Case:
    """Documents with a finding, its field, and documents without it."""

    bad: str | list[str]
    field: str
    good: str | list[str] = CLEAN


def tdx(**parts: str) -> str:
    parts.setdefault("measurements", PINNED)
    return document(**parts)  # type: ignore[arg-type]


MASK = f'{{ mask = "ff{"00" * 47}", expected = "07{"00" * 47}" }}'
COMPOSE = f'compose-hash = "{"22" * 32}"'
APP = f'app-id = "{"11" * 20}"'


def composed(
    events: str,
    *,
    leave_out: tuple[str, ...] = ("rtmr3",),
    more: str = "",
    rules: str = "",
) -> str:
    return document(
        rules=rules,
        measurements=f"{PINNED}\n{more}\n[workload.image.events]\n{events}",
        leave_out=leave_out,
    )


def logged(register: str) -> str:
    return f'logged = [{{ register = "{register}", digest = "{"ab" * 48}" }}]'


def role(threshold: int) -> str:
    keys = ", ".join(f'"{digit * 64}"' for digit in "ab")
    return f"""
[[role]]
name = "operators"
threshold = {threshold}
keys = [{keys}]
actions = ["adopt"]
"""


KEPT, SIGNS = 'parts = ["public"]', 'type = "p256"\nuses = ["sign"]'
MIXED = 'type = "p256"\nuses = ["sign", "agree"]'
CASES: dict[str, tuple[LintId, Case]] = {
    "named_anywhere": (
        LintId.NAMED_ANYWHERE,
        Case(
            tdx(rules=ANY),
            "workload[0].image[0].measurements",
            tdx(rules=ANY, measurements=OWNER),
        ),
    ),
    "named_anywhere_with_an_unset_owner": (
        LintId.NAMED_ANYWHERE,
        Case(
            tdx(rules=ANY, measurements=f"mr_owner = {{ zero = true }}\n{PINNED}"),
            "workload[0].image[0].measurements",
            tdx(rules=ANY, identity="measured"),
        ),
    ),
    "named_on_a_family_of_platforms": (
        LintId.NAMED_ANYWHERE,
        Case(
            tdx(rules='platform = [{ fmspc = "00a06f050000" }]'),
            "workload[0].image[0].measurements",
            tdx(rules=f'platform = [{{ ppid = "{"ab" * 16}" }}]'),
        ),
    ),
    "rtmr3_left_out": (
        LintId.RTMR3_LEFT_OUT,
        Case(
            document(measurements=PINNED, leave_out=("rtmr3",)),
            "workload[0].image[0].measurements",
            document(measurements=OWNER, leave_out=("rtmr3",)),
        ),
    ),
    **{
        f"code_unpinned_{name}": (
            LintId.CODE_UNPINNED,
            Case(
                document(measurements=PINNED, leave_out=(name,)),
                "workload[0].image[0].measurements",
            ),
        )
        for name in ("mrtd", "rtmr1", "rtmr2")
    },
    "code_unpinned_sgx": (
        LintId.CODE_UNPINNED,
        Case(
            document(
                Tee.SGX,
                leave_out=("mrenclave",),
                measurements="isv_svn = { minimum=1 }",
            ),
            "workload[0].image[0].measurements",
            document(
                Tee.SGX,
                leave_out=("mrenclave",),
                measurements=f'mrsigner = "{value("mrsigner").hex()}"',
            ),
        ),
    ),
    "debug_exact": (
        LintId.DEBUG_SELECTED,
        Case(
            tdx(measurements=f'td_attributes = "{DEBUG}"'),
            "workload[0].image[0].measurements.td_attributes",
        ),
    ),
    "debug_one_of": (
        LintId.DEBUG_SELECTED,
        Case(
            tdx(
                measurements=f'td_attributes = {{ one_of = ["{"00" * 8}", "{DEBUG}"] }}'
            ),
            "workload[0].image[0].measurements.td_attributes",
        ),
    ),
    "debug_mask": (
        LintId.DEBUG_SELECTED,
        Case(
            document(
                Tee.SGX,
                measurements=f'attributes = {{ mask = "{"ff" * 16}", '
                f'expected = "02{"00" * 15}" }}',
            ),
            "workload[0].image[0].measurements.attributes",
            document(Tee.SGX, measurements=f'attributes = "04{"00" * 15}"'),
        ),
    ),
    "debug_snp": (
        LintId.DEBUG_SELECTED,
        Case(
            document(Tee.SNP, measurements='policy = "00000b0000000000"'),
            "workload[0].image[0].measurements.policy",
            document(Tee.SNP, measurements='policy = "0000030000000000"'),
        ),
    ),
    "no_image": (
        LintId.EMPTY_SET,
        Case(start.first_document(), "workload[0]"),
    ),
    "image_without_measurements": (
        LintId.EMPTY_SET,
        Case(
            document(
                leave_out=("mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3"), measurements=""
            ),
            "workload[0].image[0].measurements",
        ),
    ),
    "expired": (
        LintId.IMAGE_EXPIRED,
        Case(
            tdx(image="until = 2026-01-01T00:00:00Z"),
            "workload[0].image[0].until",
            tdx(image="until = 2027-01-01T00:00:00Z"),
        ),
    ),
    "grace_ended": (
        LintId.GRACE_ENDED,
        Case(
            tdx(
                tcb_rules='grace = { statuses = ["OutOfDate"], '
                "until = 2026-01-01T00:00:00Z }"
            ),
            "workload[0].tcb.grace.until",
            tdx(
                tcb_rules='grace = { statuses = ["OutOfDate"], '
                "until = 2027-01-01T00:00:00Z }"
            ),
        ),
    ),
    "overlap": (
        LintId.WORKLOADS_OVERLAP,
        Case(
            [tdx(name="one"), tdx(name="two")],
            "workload[0]",
            [
                tdx(name="one"),
                tdx(name="two", measurements=f'rtmr3 = "{"ab" * 48}"\n{PINNED}'),
            ],
        ),
    ),
    "overlap_of_different_fields": (
        LintId.WORKLOADS_OVERLAP,
        Case(
            [
                document(name="one", measurements=PINNED, leave_out=("rtmr2",)),
                document(name="two", measurements=OWNER, leave_out=("rtmr3",)),
            ],
            "workload[0]",
            [
                tdx(name="one", image="until = 2026-10-01T00:00:00Z"),
                tdx(name="two", image="from = 2026-10-01T00:00:00Z"),
            ],
        ),
    ),
    "overlap_of_platforms": (
        LintId.WORKLOADS_OVERLAP,
        Case(
            [
                tdx(name="one", rules=f'platform = [{{ ppid = "{"ab" * 16}" }}]'),
                tdx(name="two", rules=f'platform = [{{ piid = "{"cd" * 16}" }}]'),
            ],
            "workload[0]",
            [
                tdx(name="one", rules=f'platform = [{{ ppid = "{"ab" * 16}" }}]'),
                tdx(name="two", rules=f'platform = [{{ ppid = "{"cd" * 16}" }}]'),
            ],
        ),
    ),
    "duplicate_label": (
        LintId.DUPLICATE_LABEL,
        Case(
            tdx(
                more='[[workload.image]]\nlabel = "2026-10"\n'
                f'[workload.image.measurements]\nrtmr3 = "{"ab" * 48}"'
            ),
            "workload[0].image[1].label",
        ),
    ),
    "no_keys": (
        LintId.NO_KEYS,
        Case(tdx().partition("[[workload.key]]")[0], "workload[0]"),
    ),
    "rtmr3_zero": (
        LintId.RTMR3_ZERO,
        Case(
            tdx(measurements=f"rtmr3 = {{ zero = true }}\n{PINNED}"),
            "workload[0].image[0].measurements.rtmr3",
            tdx(measurements=f"rtmr3 = {{ zero = true }}\n{OWNER}"),
        ),
    ),
    "named_legacy": (
        LintId.NAMED_LEGACY,
        Case(
            tdx(key='protocols = ["v1", "legacy"]'),
            "workload[0].key[0].protocols",
            tdx(key='protocols = ["v1", "legacy"]', identity="measured"),
        ),
    ),
    "attributes_unpinned": (
        LintId.ATTRIBUTES_UNPINNED,
        Case(document(), "workload[0].image[0].measurements"),
    ),
    "weak_status": (
        LintId.WEAK_STATUS,
        Case(
            tdx(tcb_rules='statuses = ["UpToDate", "OutOfDate"]'),
            "workload[0].tcb.statuses[1]",
        ),
    ),
    "one_verifier": (
        LintId.ONE_VERIFIER,
        Case(tdx(rules='single_verifier = "accept"'), "workload[0].single_verifier"),
    ),
    **{
        f"code_under_a_mask_{name}": (
            LintId.CODE_UNPINNED,
            Case(
                document(measurements=f"{PINNED}\n{name} = {MASK}"),
                "workload[0].image[0].measurements",
            ),
        )
        for name in ("mrtd", "rtmr1", "rtmr2")
    },
    "code_zero": (
        LintId.CODE_UNPINNED,
        Case(
            tdx(measurements=f"{PINNED}\nmrtd = {{ zero = true }}"),
            "workload[0].image[0].measurements",
            tdx(measurements=f"{PINNED}\nrtmr2 = {{ zero = true }}"),
        ),
    ),
    "code_unpinned_with_a_logged_kernel": (
        LintId.CODE_UNPINNED,
        Case(
            document(image=logged("rtmr1"), measurements=PINNED, leave_out=("rtmr1",)),
            "workload[0].image[0].measurements",
        ),
    ),
    "rtmr3_left_out_with_a_logged_application": (
        LintId.RTMR3_LEFT_OUT,
        Case(
            document(image=logged("rtmr3"), measurements=PINNED, leave_out=("rtmr3",)),
            "workload[0].image[0].measurements",
            composed(COMPOSE),
        ),
    ),
    "rtmr3_left_out_with_an_app_id_alone": (
        LintId.RTMR3_LEFT_OUT,
        Case(
            composed(APP),
            "workload[0].image[0].measurements",
            composed(f"{APP}\n{COMPOSE}"),
        ),
    ),
    **{
        f"compose_hash_with_{name}_free": (
            LintId.RTMR3_LEFT_OUT,
            Case(
                composed(COMPOSE, leave_out=("rtmr3", name)),
                "workload[0].image[0].measurements",
                composed(COMPOSE),
            ),
        )
        for name in ("mrtd", "rtmr0", "rtmr1", "rtmr2")
    },
    "compose_hash_with_rtmr0_under_a_mask": (
        LintId.RTMR3_LEFT_OUT,
        Case(
            composed(COMPOSE, more=f"rtmr0 = {MASK}"),
            "workload[0].image[0].measurements",
            composed(COMPOSE),
        ),
    ),
    "named_anywhere_with_a_compose_hash_alone": (
        LintId.NAMED_ANYWHERE,
        Case(
            composed(COMPOSE, rules=ANY),
            "workload[0].image[0].measurements",
            composed(f"{COMPOSE}\n{APP}", rules=ANY),
        ),
    ),
    "named_anywhere_with_an_app_id_alone": (
        LintId.NAMED_ANYWHERE,
        Case(
            composed(APP, rules=ANY),
            "workload[0].image[0].measurements",
            composed(f"{COMPOSE}\n{APP}", rules=ANY),
        ),
    ),
    "late_event": (
        LintId.LATE_EVENT,
        Case(
            composed('os-image-hash = "ab"'),
            "workload[0].image[0].events.os-image-hash",
            composed(COMPOSE),
        ),
    ),
    "logged_alone": (
        LintId.LOGGED_ALONE,
        Case(
            document(image=logged("rtmr0"), measurements=PINNED, leave_out=("rtmr0",)),
            "workload[0].image[0].logged[0].register",
            document(image=logged("rtmr0"), measurements=PINNED),
        ),
    ),
    "usage_without_anchor": (
        LintId.USAGE_WITHOUT_ANCHOR,
        Case(
            tdx(key='usage = { total = 3, without_anchor = "accept" }'),
            "workload[0].key[0].usage.without_anchor",
            tdx(key='usage = { total = 3, without_anchor = "refuse" }'),
        ),
    ),
    "usage_unanchored": (
        LintId.USAGE_UNANCHORED,
        Case(
            tdx(key="usage = { total = 3 }"),
            "workload[0].key[0].usage",
            tdx(key='usage = { total = 3, without_anchor = "accept" }'),
        ),
    ),
    **{
        f"usage_shared_by_{name}": (
            LintId.USAGE_SHARED,
            Case(
                tdx(key=f"usage = {{ per_hour = 3 }}\nlabels = {labels}"),
                "workload[0].key[0].usage",
                tdx(key=f"usage = {{ first_platform = true }}\nlabels = {labels}"),
            ),
        )
        for name, labels in (("labels", '["", "a"]'), ("a_pattern", '["a*"]'))
    },
    "usage_legacy": (
        LintId.USAGE_LEGACY,
        Case(
            tdx(key='usage = { total = 3 }\nprotocols = ["legacy"]'),
            "workload[0].key[0].protocols",
            tdx(key="usage = { total = 3 }"),
        ),
    ),
    "log_legacy": (
        LintId.LOG_LEGACY,
        Case(
            tdx(key='log = "cosigned"\nprotocols = ["v1", "legacy"]'),
            "workload[0].key[0].log",
            tdx(key='log = "cosigned"'),
        ),
    ),
    "window_ended": (
        LintId.WINDOW_ENDED,
        Case(
            tdx(key="usage.windows = [{ until = 2026-01-01T00:00:00Z }]"),
            "workload[0].key[0].usage.windows[0].until",
            tdx(key="usage.windows = [{ until = 2027-01-01T00:00:00Z }]"),
        ),
    ),
    "published_labels": (
        LintId.PUBLISHED_LABELS,
        Case(
            tdx(key='type = "p256"\npublished = true\nlabels = ["a*"]'),
            "workload[0].key[0].labels",
            tdx(key='type = "p256"\npublished = true\nlabels = ["a", "b"]'),
        ),
    ),
    "uses_beside_private": (
        LintId.USES_BESIDE_PRIVATE,
        Case(tdx(key=SIGNS), "workload[0].key[0].parts", tdx(key=f"{SIGNS}\n{KEPT}")),
    ),
    "uses_mixed": (
        LintId.USES_MIXED,
        Case(tdx(key=MIXED), "workload[0].key[0].uses", tdx(key=f"{SIGNS}\n{KEPT}")),
    ),
    "role_of_one": (
        LintId.ROLE_OF_ONE,
        Case(
            tdx(more=role(1)),
            "role[0].threshold",
            tdx(more=role(2)),
        ),
    ),
    "simulated": (
        LintId.SIMULATED,
        Case(
            tdx(rules=f'trust_domain = "simulated:{"bb" * 48}"'),
            "workload[0].trust_domain",
        ),
    ),
}
