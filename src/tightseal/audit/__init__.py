# SPDX-License-Identifier: Apache-2.0
"""The journal: what was decided, written before the response leaves."""
