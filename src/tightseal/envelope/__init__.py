# SPDX-License-Identifier: Apache-2.0
"""Key to recipient: HPKE, and the sealed box of the legacy protocol."""
