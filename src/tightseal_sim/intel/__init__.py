# SPDX-License-Identifier: Apache-2.0
"""Intel's side of the simulated world: PKI, collateral, platforms, TDs, enclaves."""
