# SPDX-License-Identifier: Apache-2.0
"""Whose signatures a log's checkpoint needs, as commands are told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from tightseal.audit.checkpoint import Trust
from tightseal.audit.note import NoteKey
from tightseal.errors import Code, ServiceError, SettingsError

__all__ = ["LogKeys"]


@Parameter(name="*")
@dataclass(frozen=True)
class LogKeys:
    """Whose signatures a checkpoint needs.

    Attributes:
        log_key: the log's verifier key, as receipts and the provider's start say it.
        witness: verifier key of a witness; can be given several times.
        threshold: how many of the witnesses must have cosigned.
    """

    log_key: Annotated[str, Parameter("--log-key")]
    witness: Annotated[tuple[str, ...], Parameter("--witness")] = ()
    threshold: Annotated[
        int, Parameter("--threshold", validator=Number(gte=0, lte=64))
    ] = 0

    def trust(self) -> Trust:
        """The keys.

        Raises:
            SettingsError: ``settings_invalid``.
        """
        try:
            return Trust(
                NoteKey.parse(self.log_key),
                tuple(map(NoteKey.parse, self.witness)),
                self.threshold,
            )
        except ServiceError as e:
            raise SettingsError(Code.SETTINGS_INVALID, e.detail) from e
