# SPDX-License-Identifier: Apache-2.0
"""Inside the workload: asking a provider for keys, and checking it first."""
