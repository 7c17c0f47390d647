# SPDX-License-Identifier: Apache-2.0
"""Persistent keys for confidential workloads."""

__version__ = "0.1.0"
