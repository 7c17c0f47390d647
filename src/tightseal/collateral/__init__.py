# SPDX-License-Identifier: Apache-2.0
"""Where collateral comes from: files, PCCS, KDS, a cache; and the guard."""
