# SPDX-License-Identifier: Apache-2.0
"""State brought to where it is needed next: handoff between providers."""
