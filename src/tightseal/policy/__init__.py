# SPDX-License-Identifier: Apache-2.0
"""Claims to a grant. Deny by default; policy reads claims and nothing else."""
