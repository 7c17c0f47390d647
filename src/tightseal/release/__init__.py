# SPDX-License-Identifier: Apache-2.0
"""The pipeline: composes evidence, policy, keys, envelope, platform, log and state."""

from tightseal.release.legacy import LEGACY_PURPOSE, LegacyAnswer
from tightseal.release.policy import InForce
from tightseal.release.provider import Provider, Stage

__all__ = ["LEGACY_PURPOSE", "InForce", "LegacyAnswer", "Provider", "Stage"]
