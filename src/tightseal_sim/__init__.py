# SPDX-License-Identifier: Apache-2.0
"""The simulated world: roots, platforms, workloads and defects for tests and play.

Nothing here protects anything. Its evidence verifies under its own roots only, and
production images leave this package out.
"""
