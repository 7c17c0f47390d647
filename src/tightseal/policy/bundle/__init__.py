# SPDX-License-Identifier: Apache-2.0
"""Signed bundles: policy and release settings as TUF metadata, in one file."""
