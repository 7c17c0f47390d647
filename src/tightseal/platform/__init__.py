# SPDX-License-Identifier: Apache-2.0
"""What a provider or a workload stands on: evidence and sealing keys come from here."""
