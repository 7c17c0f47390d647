# SPDX-License-Identifier: Apache-2.0
"""What must be remembered between requests."""
